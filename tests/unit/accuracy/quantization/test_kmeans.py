from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accuracy.quantization.kmeans import _windows, compiled, nested_rows

Rows = NDArray[np.float32]


def cluster(
    values: Rows, weights: NDArray[np.float64] | None = None, min_bits: int = 1, max_bits: int = 1, tree_bits: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    weights = np.ones((1, values.shape[1])) if weights is None else np.atleast_2d(weights)
    indices = np.empty(values.shape, dtype=np.uint8)
    tables = np.zeros((len(values), 2 << max_bits))
    counts = np.full(len(values), values.shape[1])
    nested_rows(
        values, weights, np.argsort(values, axis=1), counts, min_bits, tree_bits or min_bits, max_bits, indices, tables
    )
    return indices, tables


def error(
    values: Rows, weights: NDArray[np.float64], indices: NDArray[np.uint8], tables: NDArray[np.float64], bits: int
) -> float:
    """Weighted squared error at ``bits`` of one row clustered up to the tables' widest width."""
    max_bits = tables.size.bit_length() - 2
    centroids = tables[(1 << bits) + (indices >> (max_bits - bits)).astype(int)]
    return float((weights * (values.astype(np.float64) - centroids) ** 2).sum())


def least_error(values: Rows, weights: NDArray[np.float64], clusters: int) -> float:
    """Least weighted squared error over every assignment of values to clusters."""
    best = np.inf
    for labels in product(range(clusters), repeat=values.size):
        total = 0.0
        for c in set(labels):
            member = np.array(labels) == c
            x, w = values[member].astype(np.float64), weights[member]
            total += float((w * (x - (w * x).sum() / w.sum()) ** 2).sum())
        best = min(best, total)
    return best


def least_interval_error(values: Rows, weights: NDArray[np.float64], clusters: int) -> float:
    """Least error over every partition of the sorted values into at most ``clusters`` intervals."""
    order = np.argsort(values)
    x, w = values[order].astype(np.float64), weights[order]
    best = np.inf
    for cuts in combinations(range(1, x.size), min(clusters, x.size) - 1):
        total = 0.0
        for i, j in pairwise((0, *cuts, x.size)):
            mean = (w[i:j] * x[i:j]).sum() / w[i:j].sum()
            total += float((w[i:j] * (x[i:j] - mean) ** 2).sum())
        best = min(best, total)
    return best


value_lists = st.lists(st.integers(-20, 20).map(lambda v: v / 4), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(value_lists.filter(lambda v: len(v) <= 7), st.data())
def test_two_clusters_are_optimal_among_all_assignments(values: list[float], data: st.DataObject) -> None:
    x = np.array(values, dtype=np.float32)
    w = np.array(data.draw(st.lists(st.integers(1, 9), min_size=x.size, max_size=x.size)), dtype=np.float64)
    indices, tables = cluster(x, w)
    assert error(x, w, indices[0], tables[0], 1) == pytest.approx(least_error(x, w, 2), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(value_lists, st.sampled_from([1, 2, 3]), st.data())
def test_any_number_of_clusters_is_optimal_among_interval_partitions(
    values: list[float], bits: int, data: st.DataObject
) -> None:
    x = np.array(values, dtype=np.float32)
    w = np.array(data.draw(st.lists(st.integers(1, 9), min_size=x.size, max_size=x.size)), dtype=np.float64)
    indices, tables = cluster(x, w, bits, bits)
    assert error(x, w, indices[0], tables[0], bits) == pytest.approx(least_interval_error(x, w, 1 << bits), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(value_lists, st.data())
def test_every_split_is_the_best_cut_of_its_parent(values: list[float], data: st.DataObject) -> None:
    x = np.array(values, dtype=np.float32)
    w = np.array(data.draw(st.lists(st.integers(1, 9), min_size=x.size, max_size=x.size)), dtype=np.float64)
    indices, tables = cluster(x, w, 1, 3)
    for bits in (2, 3):
        parents = indices[0] >> (3 - bits + 1)
        best = sum(least_interval_error(x[parents == p], w[parents == p], 2) for p in set(parents.tolist()))
        assert error(x, w, indices[0], tables[0], bits) == pytest.approx(best, abs=1e-9)


def plain_least_error(x: NDArray[np.float64], w: NDArray[np.float64], clusters: int) -> float:
    """Least error of a partition of sorted values by the textbook dynamic programme, every cut tried everywhere."""
    mass, moment = np.concatenate([[0], np.cumsum(w)]), np.concatenate([[0], np.cumsum(w * x)])
    square = np.concatenate([[0], np.cumsum(w * x * x)])
    start, stop = np.triu_indices(x.size + 1, 1)
    table = np.full((x.size + 1, x.size + 1), np.inf)
    moments = moment[stop] - moment[start]
    table[start, stop] = square[stop] - square[start] - moments * moments / (mass[stop] - mass[start])
    np.fill_diagonal(table, 0.0)
    best = table[0]
    for _ in range(clusters - 1):
        best = (best[:, None] + table).min(axis=0)
    return float(best[-1])


def spread_rows(kind: str, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted values and weights of shapes that put blocks and windows to the test."""
    rng = np.random.default_rng(n)
    x = {
        "normal": rng.standard_normal(n),
        "heavy tails": rng.standard_t(2, n),
        "one outlier": np.append(rng.standard_normal(n - 1), 300.0),
        "two heaps": np.concatenate([rng.normal(-1, 0.01, n // 2), rng.normal(2, 0.3, n - n // 2)]),
        "grid with ties": rng.integers(-40, 40, n) / 8,
    }[kind]
    w = np.ones(n) if kind == "normal" else rng.lognormal(0, 2, n)
    return np.sort(x.astype(np.float32)), w


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "one outlier", "two heaps", "grid with ties"])
def test_windows_cost_no_exactness(kind: str, bits: int) -> None:
    x, w = spread_rows(kind, 600)
    indices, tables = cluster(x, w, bits, bits)
    least = plain_least_error(x.astype(np.float64), w, 1 << bits)
    assert error(x, w, indices[0], tables[0], bits) == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("clusters", [4, 8, 16])
def test_windows_leave_out_most_of_a_long_row(clusters: int) -> None:
    x, w = spread_rows("heavy tails", 5000)
    values, mass = x.astype(np.float64), np.concatenate([[0], np.cumsum(w)])
    moment = np.concatenate([[0], np.cumsum(w * values)])
    low, high = np.empty(clusters + 1, dtype=np.int64), np.empty(clusters + 1, dtype=np.int64)
    _windows(values, mass, moment, low, high)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    assert (high - low)[1:-1].sum() < 0.8 * x.size


@settings(max_examples=40, deadline=None)
@given(value_lists.filter(lambda v: len(v) <= 7), st.data())
def test_joint_tree_is_the_best_of_all_trees(values: list[float], data: st.DataObject) -> None:
    x = np.array(values, dtype=np.float32)
    w = np.array(data.draw(st.lists(st.integers(1, 9), min_size=x.size, max_size=x.size)), dtype=np.float64)
    indices, tables = cluster(x, w, 1, 2, tree_bits=2)
    found = error(x, w, indices[0], tables[0], 1) + 4 * error(x, w, indices[0], tables[0], 2)
    order = np.argsort(x)
    xs, ws = x[order].astype(np.float64), w[order]

    def interval(i: int, j: int) -> float:
        if i == j:
            return 0.0
        mean = (ws[i:j] * xs[i:j]).sum() / ws[i:j].sum()
        return float((ws[i:j] * (xs[i:j] - mean) ** 2).sum())

    n = x.size
    best = min(
        interval(0, b) + interval(b, n) + 4 * (interval(0, a) + interval(a, b) + interval(b, c) + interval(c, n))
        for a in range(n + 1)
        for b in range(a, n + 1)
        for c in range(b, n + 1)
    )
    assert found == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "one outlier", "two heaps", "grid with ties"])
def test_joint_tree_lowers_the_errors_of_its_widths_together_at_a_price_at_the_narrowest(kind: str) -> None:
    x, w = spread_rows(kind, 600)
    split_errors, joint_errors = (
        [error(x, w, *(found[0] for found in cluster(x, w, 2, 6, tree_bits)), bits) for bits in range(2, 7)]
        for tree_bits in (2, 4)
    )
    assert joint_errors[0] >= split_errors[0] * (1 - 1e-9)
    weighed = [sum(4**bits * errors[bits] for bits in range(3)) for errors in (joint_errors, split_errors)]
    # Blocks may cost a little of what choosing together gains.
    assert weighed[0] < weighed[1] * 1.001
    assert all(after <= before for before, after in pairwise(joint_errors))


def lloyd(x: NDArray[np.float64], w: NDArray[np.float64], centroids: NDArray[np.float64]) -> float:
    """Weighted squared error after Lloyd's iterations from given centroids."""
    for _ in range(100):
        label = np.abs(x[:, None] - centroids).argmin(axis=1)
        mass = np.bincount(label, w, centroids.size)
        means = np.bincount(label, w * x, centroids.size) / np.where(mass > 0, mass, 1)
        updated = np.where(mass > 0, means, centroids)
        if np.array_equal(updated, centroids):
            break
        centroids = updated
    return float((w * (x - centroids[np.abs(x[:, None] - centroids).argmin(axis=1)]) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_seed_is_never_above_lloyds_algorithm(bits: int) -> None:
    rng = np.random.default_rng(bits)
    x = rng.standard_t(4, (8, 700)).astype(np.float32)
    w = rng.lognormal(0, 2, x.shape)
    indices, tables = cluster(x, w, bits, bits)
    for row in range(len(x)):
        exact = error(x[row], w[row], indices[row], tables[row], bits)
        for _ in range(5):
            start = rng.choice(x[row].astype(np.float64), 1 << bits, replace=False)
            assert exact <= lloyd(x[row].astype(np.float64), w[row], start) * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=300),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_centroids_rise_and_lie_within_the_row_and_every_value_is_labelled(
    values: list[float], low: int, high: int
) -> None:
    min_bits, max_bits = min(low, high), max(low, high)
    x = np.array(values, dtype=np.float32)
    indices, tables = cluster(x, None, min_bits, max_bits)
    slack = 1e-9 * max(1.0, float(np.abs(x).max()))
    for bits in range(min_bits, max_bits + 1):
        table = tables[0, 1 << bits : 2 << bits]
        assert (np.diff(table) >= -slack).all()
        assert table.min() >= float(x.min()) - slack
        assert table.max() <= float(x.max()) + slack
    assert int(indices.max()) < 1 << max_bits
    order = np.argsort(x, kind="stable")
    assert (np.diff(indices[0][order].astype(int)) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=200))
def test_error_never_rises_with_a_bit_more(values: list[float]) -> None:
    x = np.array(values, dtype=np.float32)
    w = np.ones(x.size)
    indices, tables = cluster(x, w, 1, 8)
    errors = [error(x, w, indices[0], tables[0], bits) for bits in range(1, 9)]
    assert all(after <= before + 1e-9 for before, after in pairwise(errors))


def test_constant_row_is_reproduced_at_every_width() -> None:
    x = np.full((1, 37), 0.1, dtype=np.float32)
    indices, tables = cluster(x, None, 2, 8)
    for bits in range(2, 9):
        assert error(x[0], np.ones(37), indices[0], tables[0], bits) == pytest.approx(0, abs=1e-15)


def test_row_with_fewer_distinct_values_than_centroids_is_exact() -> None:
    x = np.repeat(np.array([[-1.5, 0.25, 3.0]], dtype=np.float32), [5, 1, 9], axis=1)
    indices, tables = cluster(x, None, 2, 4)
    for bits in (2, 3, 4):
        assert error(x[0], np.ones(15), indices[0], tables[0], bits) == pytest.approx(0, abs=1e-15)


def test_equal_values_share_a_cluster_even_where_clusters_are_left_over() -> None:
    x = np.array([0.0] * 6 + [1.0, 1.0, 0.5, -2.0], dtype=np.float32)
    indices, _ = cluster(x, None, 3, 5)
    assert all(len(set(indices[0][x == value].tolist())) == 1 for value in set(x.tolist()))


def test_columns_left_out_pull_no_centroid_and_get_the_steadiest_path() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 90)).astype(np.float32)
    kept = np.arange(90) % 9 != 4
    outlying = np.where(kept, x, 50.0).astype(np.float32)
    order = np.argsort(outlying, axis=1)
    indices, tables = np.empty(x.shape, dtype=np.uint8), np.zeros((3, 32))
    nested_rows(outlying, np.ones((1, 90)), order, np.full(3, 80), 2, 2, 4, indices, tables)
    alone_indices, alone_tables = cluster(x[:, kept], None, 2, 4)
    np.testing.assert_array_equal(tables, alone_tables)
    np.testing.assert_array_equal(indices[:, kept], alone_indices)
    for row, path in enumerate(indices[:, ~kept][:, 0]):
        assert (indices[row, ~kept] == path).all()
        centroids = [[tables[row, (1 << bits) + (leaf >> (4 - bits))] for bits in (2, 3, 4)] for leaf in range(16)]
        assert np.argmin(np.var(centroids, axis=1)) == path


def test_row_of_which_nothing_takes_part_is_zero() -> None:
    x = np.array([[3.0, -2.0], [1.0, 5.0]], dtype=np.float32)
    indices, tables = np.empty(x.shape, dtype=np.uint8), np.full((2, 16), np.nan)
    nested_rows(x, np.ones((1, 2)), np.argsort(x, axis=1), np.array([0, 2]), 2, 2, 3, indices, tables)
    assert not indices[0].any()
    assert not tables[0].any()
    assert tables[1, 4:].min() == 1.0


def test_an_offset_a_million_times_the_spread_costs_no_precision() -> None:
    steps = np.array([0.0, 1.0, 8.0, 9.0])
    x = (1024 + steps / 1024).astype(np.float32)
    indices, tables = cluster(x, None, 1, 1)
    assert indices[0].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(tables[0, 2:], 1024 + np.array([0.5, 8.5]) / 1024, rtol=1e-12)


def test_weights_decide_which_values_share_a_cluster() -> None:
    x = np.array([0.0, 1.0, 2.2], dtype=np.float32)
    assert cluster(x, np.array([1.0, 1.0, 1.0]))[0][0].tolist() == [0, 0, 1]
    assert cluster(x, np.array([99.0, 1.0, 1.0]))[0][0].tolist() == [0, 1, 1]


def test_clustering_compiles_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a read-only install without a home folder, where numba refuses to cache."""
    asked = []

    def njit(cache: bool = False, **_: object) -> Callable[[object], object]:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr("accuracy.quantization.kmeans.numba.njit", njit)
    assert compiled(len)([1, 2]) == 2
    assert asked == [True, False]
