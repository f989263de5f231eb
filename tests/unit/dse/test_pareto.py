"""Fronts against brute force, hypervolumes against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dse.pareto import (
    dominated,
    hypervolume,
    hypervolume_history,
    is_volume_estimated,
    non_dominated,
    pareto_indices,
)

# Few distinct values, so that ties and equal points are common.
POINTS = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(
        float, st.tuples(st.integers(0, 25), st.just(m)), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0])
    )
)


def brute_force_front(points: np.ndarray) -> list[bool]:
    return [not any(all(q <= p) and any(q < p) for q in points) for p in points]


@given(POINTS)
def test_front_equals_brute_force(points):
    assert non_dominated(points).tolist() == brute_force_front(points)


@pytest.mark.parametrize("levels", [[3000, 3000, 3000, 3000], [3000, 5, 40, 3000], [9, 9, 9, 9]])
def test_a_large_front_equals_each_point_compared_with_each(levels):
    rng = np.random.default_rng(len(levels))
    points = np.stack([rng.integers(0, count, 3000) for count in levels], axis=1).astype(float)
    points[:, 0] = np.ceil(2 * points[:, 1:].sum(axis=1).max() - points[:, 1:].sum(axis=1) + rng.integers(0, 9, 3000))
    compared = [bool(((points <= one).all(axis=1) & (points < one).any(axis=1)).any()) for one in points]
    assert non_dominated(points).tolist() == [not beaten for beaten in compared]
    assert non_dominated(points).sum() > 500 or levels[-1] == 9


@given(POINTS, st.randoms(use_true_random=False))
def test_constrained_front_is_the_front_of_the_feasible_points_in_a_stable_order(points, random):
    feasible = np.array([random.random() < 0.6 for _ in points], dtype=bool)
    front = pareto_indices(points, feasible)
    indices = np.flatnonzero(feasible)
    expected = {int(i) for i, kept in zip(indices, brute_force_front(points[indices]), strict=True) if kept}
    assert set(front.tolist()) == expected
    keys = [(*points[i], i) for i in front]
    assert keys == sorted(keys)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_hypervolume_of_a_staircase_is_n_squared_less_its_steps(n):
    # Points (i, n-1-i) under reference (n, n): the square less the triangle of unit cells below the stairs.
    points = [(i, n - 1 - i) for i in range(n)]
    assert hypervolume(points, (n, n)) == n * n - n * (n - 1) // 2


def test_hypervolume_of_one_point_is_its_box():
    assert hypervolume([[1.0, 2.0, 3.0]], [2.0, 4.0, 6.0]) == 1 * 2 * 3


def test_points_beyond_the_reference_count_nothing():
    assert hypervolume([[0.0, 5.0], [1.0, 1.0]], [2.0, 2.0]) == 1.0
    assert hypervolume([[3.0, 3.0]], [2.0, 2.0]) == 0.0
    assert hypervolume(np.empty((0, 2)), [2.0, 2.0]) == 0.0


@given(POINTS)
def test_history_never_falls_and_ends_at_the_volume_of_all_points(points):
    reference = np.full(points.shape[1], 2.5)
    feasible = np.ones(len(points), dtype=bool)
    history = hypervolume_history(points, feasible, reference)
    assert np.all(np.diff(history) >= 0)
    if len(points):
        assert history[-1] == pytest.approx(hypervolume(points, reference))


def test_infeasible_points_do_not_enter_the_history():
    history = hypervolume_history([[0.0, 0.0], [1.0, 1.0]], [False, True], [2.0, 2.0])
    assert history.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("block", "cells", "worth"), [(2, 8, 0), (4, 64, 0), (512, 1 << 22, 0), (4, 1 << 22, 8)])
@settings(max_examples=40)
@given(POINTS, POINTS)
def test_thresholds_blocks_and_brute_force_agree_on_what_is_dominated(block, cells, worth, points, others):
    others = others[:, : points.shape[1]] if others.shape[1] >= points.shape[1] else points[::2]
    expected = [any(all(q <= p) and any(q < p) for q in others) for p in points]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BLOCK", block), ("CELLS", cells), ("WORTH_A_TABLE", worth)):
            patch.setattr(f"dse.pareto.{name}", value)
        assert dominated(points, others).tolist() == expected
        assert non_dominated(points).tolist() == brute_force_front(points)


def test_a_loss_nobody_knows_is_never_dominated():
    points = np.column_stack([np.full(40, -np.inf), np.arange(40.0)])
    assert not dominated(points, np.zeros((30, 2))).any()
    assert non_dominated(points).tolist() == [True] + [False] * 39


def test_volumes_of_a_large_front_are_estimated_closely(monkeypatch):
    points = np.random.default_rng(1).random((300, 3))
    points = 1 - points / np.linalg.norm(points, axis=1, keepdims=True)
    feasible = np.arange(300) % 7 > 0
    exact = hypervolume_history(points, feasible, np.ones(3))
    monkeypatch.setattr("dse.pareto.EXACT_VOLUMES", {3: 100})
    assert is_volume_estimated(points, feasible)
    estimated = hypervolume_history(points, feasible, np.ones(3))
    assert np.all(np.diff(estimated) >= 0)
    assert estimated == pytest.approx(exact, abs=0.01)
