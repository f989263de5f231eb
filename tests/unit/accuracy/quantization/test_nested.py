from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.quantization.nested import NestedMatrix, NestedSettings, check_weights, quantize_matrix
from accuracy.quantization.sparse import SparsePart, split_outliers
from hwsim.trace import InputError


def errors(weight: np.ndarray, matrix: object, sensitivity: np.ndarray | None = None) -> dict[int, float]:
    scale = 1.0 if sensitivity is None else sensitivity
    return {
        bits: float((scale * (weight - matrix.dequantize(bits).astype(np.float64)) ** 2).sum()) for bits in matrix.luts
    }


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 70),
    st.one_of(st.none(), st.integers(1, 80)),
    st.sampled_from([1e-7, 1e-3, 1.0, 3e3]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_error_never_rises_with_the_width_even_with_fp16_centroids(
    N: int, K: int, group_size: int | None, scale: float, weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((N, K)) * scale).astype(np.float32)
    sensitivity = rng.random((N, K)) + 0.01 if weighted else None
    found = errors(weight, quantize_matrix(weight, NestedSettings(1, 8, group_size), sensitivity), sensitivity)
    slack = 1e-9 * found[1]
    assert all(found[after] <= found[before] + slack for before, after in pairwise(range(1, 9)))


@pytest.mark.parametrize(("K", "group_size"), [(64, 16), (50, 16), (7, 3), (5, 99), (12, 12)])
def test_each_group_is_clustered_as_if_it_stood_alone(K: int, group_size: int) -> None:
    weight = np.random.default_rng(K).standard_normal((3, K)).astype(np.float32)
    matrix = quantize_matrix(weight, NestedSettings(2, 4, group_size))
    assert matrix.luts[3].shape == (3, -(-K // group_size), 8)
    for start in range(0, K, group_size):
        part = slice(start, start + group_size)
        alone = quantize_matrix(weight[:, part], NestedSettings(2, 4))
        for bits in (2, 3, 4):
            np.testing.assert_array_equal(matrix.dequantize(bits)[:, part], alone.dequantize(bits))


def test_rows_do_not_influence_each_other() -> None:
    weight = np.random.default_rng(1).standard_normal((64, 33)).astype(np.float32)
    whole = quantize_matrix(weight, NestedSettings())
    flipped = quantize_matrix(weight[::-1], NestedSettings())
    np.testing.assert_array_equal(whole.indices, flipped.indices[::-1])


def test_top_bits_of_the_widest_index_are_the_narrower_index() -> None:
    weight = np.random.default_rng(2).standard_normal((4, 200)).astype(np.float32)
    matrix = quantize_matrix(weight, NestedSettings(2, 8))
    narrow = quantize_matrix(weight, NestedSettings(2, 3))
    np.testing.assert_array_equal(matrix.indices >> 5, narrow.indices)
    np.testing.assert_array_equal(matrix.luts[3], narrow.luts[3])


def test_row_without_any_sensitivity_counts_evenly() -> None:
    weight = np.random.default_rng(3).standard_normal((2, 60)).astype(np.float32)
    sensitivity = np.stack([np.zeros(60), np.full(60, 7.0)])
    weighted = quantize_matrix(weight, NestedSettings(), sensitivity)
    np.testing.assert_array_equal(weighted.indices, quantize_matrix(weight, NestedSettings()).indices)


def test_sensitive_weights_are_kept_better() -> None:
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((8, 256)).astype(np.float32)
    sensitivity = rng.lognormal(0, 2, weight.shape)
    plain = errors(weight, quantize_matrix(weight, NestedSettings(2, 2)), sensitivity)
    weighted = errors(weight, quantize_matrix(weight, NestedSettings(2, 2), sensitivity), sensitivity)
    assert weighted[2] < plain[2]


def test_sparse_part_is_added_in_float32() -> None:
    sparse = SparsePart(
        rows=np.array([0, 2, 2, 3], dtype=np.int32),
        cols=np.array([0, 4, 1], dtype=np.int32),
        vals=np.array([10.0, -2.0, 2**-11], dtype=np.float16),
    )
    table = np.array([[[0.0, 1.0]]] * 3, dtype=np.float16)
    matrix = NestedMatrix(np.ones((3, 5), dtype=np.uint8), {1: table}, None, sparse)
    expected = np.ones((3, 5), dtype=np.float32)
    # 1 + 2^-11 is no fp16 number.
    expected[0, 0], expected[0, 4], expected[2, 1] = 11.0, -1.0, 1 + 2**-11
    np.testing.assert_array_equal(matrix.dequantize(1), expected)
    assert matrix.dequantize(1).dtype == np.float32


def test_bits_per_weight_count_padded_planes_one_codebook_and_the_sparse_part_with_its_indices() -> None:
    N, K, group_size = 3, 40, 16
    weight = np.random.default_rng(5).standard_normal((N, K)).astype(np.float32)
    matrix = quantize_matrix(weight, NestedSettings(2, 4, group_size))
    for bits in (2, 3, 4):
        assert matrix.bits_per_weight(bits) == (bits * 64 * N + N * 3 * 2**bits * 16) / (N * K)
    zeros = np.zeros(7)
    sparse = SparsePart(np.zeros(N + 1, dtype=np.int32), zeros.astype(np.int32), zeros.astype(np.float16))
    added = NestedMatrix(matrix.indices, matrix.luts, group_size, sparse)
    assert added.bits_per_weight(3) - matrix.bits_per_weight(3) == pytest.approx((32 * 4 + 48 * 7) / (N * K))


def test_settings_are_a_method() -> None:
    weight = np.random.default_rng(6).standard_normal((4, 50)).astype(np.float32)
    fisher = np.random.default_rng(7).random((4, 50))
    plain, weighted = NestedSettings(2, 3), NestedSettings(2, 3, sensitivity="fisher")
    assert (plain.quantizer, plain.statistic) == ("nested-kmeans", "none")
    assert (weighted.quantizer, weighted.statistic) == ("nested-kmeans-fisher", "fisher")
    sparse = NestedSettings(2, 3, sensitivity="fisher", outlier_share=0.005)
    assert NestedSettings(2, 8, joint_bits=4).quantizer == "nested-kmeans-joint-4"
    assert sparse.quantizer == "nested-kmeans-fisher-sparse-magnitude-0.005"
    for method, statistic in ((plain, None), (weighted, fisher)):
        found = method.quantize_matrix(weight, statistic)
        np.testing.assert_array_equal(found.indices, quantize_matrix(weight, method, statistic).indices)


def test_outliers_of_a_single_width_are_exact_up_to_fp16_rounding() -> None:
    weight = np.random.default_rng(8).standard_t(2, (6, 100)).astype(np.float16).astype(np.float32)
    for group_size in (None, 32):
        matrix = quantize_matrix(weight, NestedSettings(3, 3, group_size, outlier_share=0.02))
        outliers = split_outliers(weight, 0.02)
        assert matrix.sparse is not None
        assert matrix.sparse.vals.size == outliers.sum() == 12
        dense = replace(matrix, sparse=None).dequantize(3)
        off = np.abs(matrix.dequantize(3) - weight)
        assert (off[outliers] <= np.abs(weight - dense)[outliers] * 2.0**-11).all()


def test_outliers_are_off_by_no_more_than_the_dense_part_moves_with_the_width() -> None:
    weight = np.random.default_rng(9).standard_t(2, (6, 200)).astype(np.float16).astype(np.float32)
    matrix = quantize_matrix(weight, NestedSettings(2, 8, outlier_share=0.01))
    outliers = split_outliers(weight, 0.01)
    dense = np.stack([replace(matrix, sparse=None).dequantize(bits)[outliers] for bits in matrix.luts])
    off = np.stack([matrix.dequantize(bits)[outliers] - weight[outliers] for bits in matrix.luts])
    np.testing.assert_allclose(off, dense - dense.mean(axis=0), atol=2.0**-10 * np.abs(weight).max())
    # The dense part moves by less than the narrowest width errs on the weights that it keeps.
    kept = (matrix.dequantize(2) - weight)[~outliers]
    assert np.sqrt(np.square(off).mean()) < np.sqrt(np.square(kept).mean())


def test_outliers_pull_no_centroid() -> None:
    weight = np.random.default_rng(10).standard_normal((3, 64)).astype(np.float32)
    weight[:, 7] = [100.0, -90.0, 80.0]
    matrix = quantize_matrix(weight, NestedSettings(2, 4, outlier_share=1 / 64))
    alone = quantize_matrix(np.delete(weight, 7, axis=1), NestedSettings(2, 4))
    for bits, lut in alone.luts.items():
        np.testing.assert_array_equal(matrix.luts[bits], lut)
    np.testing.assert_array_equal(np.delete(matrix.indices, 7, axis=1), alone.indices)


def test_outliers_by_sensitivity_are_those_whose_loss_would_cost_most() -> None:
    rng = np.random.default_rng(11)
    weight, fisher = rng.standard_normal((4, 50)).astype(np.float32), rng.lognormal(0, 3, (4, 50))
    matrix = quantize_matrix(
        weight, NestedSettings(sensitivity="fisher", outlier_share=0.05, outliers_by="sensitivity"), fisher
    )
    assert matrix.sparse is not None
    chosen = np.zeros(weight.shape, dtype=bool)
    chosen[np.repeat(np.arange(4), np.diff(matrix.sparse.rows)), matrix.sparse.cols] = True
    np.testing.assert_array_equal(chosen, split_outliers(weight, 0.05, fisher))


def test_matrix_that_is_all_outliers_is_zero_plus_its_weights() -> None:
    weight = np.random.default_rng(12).standard_normal((3, 20)).astype(np.float16).astype(np.float32)
    matrix = quantize_matrix(weight, NestedSettings(2, 3, outlier_share=1.0))
    assert not any(lut.any() for lut in matrix.luts.values())
    np.testing.assert_array_equal(matrix.dequantize(2), weight)


def test_settings_that_weigh_errors_refuse_to_go_without_a_sensitivity() -> None:
    with pytest.raises(InputError, match="sensitivity = 'fisher': none was measured"):
        quantize_matrix(np.zeros((2, 3), dtype=np.float32), NestedSettings(sensitivity="fisher"))


degenerate_rows = {
    "constant": np.full((2, 40), 0.1),
    "fewer distinct values than centroids": np.tile([0.5, -2.0, 3.0], (2, 9)),
    "all zero": np.zeros((3, 17)),
    "zeros of both signs": np.array([[0.0, -0.0, 1.0, -0.0, 0.0]]),
    "one column": np.array([[3.5], [-0.25]]),
    "fp16 denormals": np.arange(-20, 20)[None] * 2.0**-24,
    "near the fp16 maximum": np.array([[65504.0, -65504.0, 65472.0, 1.0, -65472.0, 0.0]]),
}


@pytest.mark.parametrize("group_size", [None, 3])
@pytest.mark.parametrize("name", degenerate_rows)
def test_degenerate_rows_are_exact_once_there_are_centroids_enough(name: str, group_size: int | None) -> None:
    weight = degenerate_rows[name].astype(np.float32)
    matrix = quantize_matrix(weight, NestedSettings(2, 8, group_size))
    for bits in (2, 5, 8):
        table = matrix.luts[bits].astype(np.float32)
        assert np.isfinite(table).all()
        assert (np.diff(table, axis=-1) >= 0).all()
        if all(np.unique(row).size <= 2**bits for row in weight):
            np.testing.assert_array_equal(matrix.dequantize(bits), weight.astype(np.float16).astype(np.float32))


def test_zeros_of_both_signs_share_a_cluster() -> None:
    matrix = quantize_matrix(degenerate_rows["zeros of both signs"].astype(np.float32), NestedSettings(1, 2))
    assert np.unique(matrix.indices[0, [0, 1, 3, 4]]).size == 1


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_of_the_sensitivity_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(13)
    weight, fisher = rng.standard_normal((3, 80)).astype(np.float32), rng.lognormal(0, 2, (3, 80)).astype(np.float32)
    settings_ = NestedSettings(2, 4, sensitivity="fisher")
    found = quantize_matrix(weight, settings_, fisher * np.float32(scale))
    np.testing.assert_array_equal(found.indices, quantize_matrix(weight, settings_, fisher).indices)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e5])
def test_weight_no_fp16_number_can_hold_is_refused_by_name(value: float) -> None:
    weight = np.zeros((3, 4), dtype=np.float32)
    weight[1, 2] = value
    with pytest.raises(InputError, match=r"blocks\.0\.q\.weight: 1 of 12 weights .* at \[1, 2\]"):
        check_weights("blocks.0.q", weight)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"min_bits": 0}, "min_bits = 0"),
        ({"min_bits": 5, "max_bits": 4}, "min_bits = 5"),
        ({"max_bits": 9}, "max_bits = 9"),
        ({"group_size": 0}, "group_size = 0"),
        ({"sensitivity": "curvature"}, "'curvature'"),
        ({"joint_bits": 9}, "joint_bits = 9"),
        ({"min_bits": 3, "joint_bits": 2}, "joint_bits = 2"),
        ({"outlier_share": 1.5}, "outlier_share = 1.5"),
        ({"outlier_share": float("nan")}, "outlier_share = nan"),
        ({"outliers_by": "luck"}, "'luck'"),
        ({"outlier_share": 0.1, "outliers_by": "sensitivity"}, "sensitivity = 'fisher'"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        NestedSettings(**changes)
