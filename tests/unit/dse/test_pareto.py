"""Constrained fronts against brute force, hypervolumes against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dse.pareto import (
    hypervolume,
    hypervolume_history,
    is_volume_estimated,
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
