"""Fronts of any points, also with ties, duplicates, infinities and NaN, are those of comparing each with each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dse.dominance import by_promise, dominated, non_dominated

# Few distinct values, so that ties and equal points are common; 0 and -0 are equal.
VALUES = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, np.inf, -np.inf, np.nan])
OBJECTIVES = st.integers(1, 6)


def points_of(objectives, most=16):
    return hnp.arrays(float, st.tuples(st.integers(0, most), st.just(objectives)), elements=VALUES)


def beats(one, other):
    return bool(np.all(one <= other) and np.any(one < other))


def beaten(points, others):
    return [any(beats(other, point) for other in others) for point in points]


SETTINGS = settings(max_examples=20, deadline=None)
# (block, cells, looked up at once): halves of halves, tables of a few cells, tables of all.
SIZES = [(2, 1, 4), (3, 8, 5), (4, 64, 8), (256, 1 << 18, 1 << 13)]


def compare_none_at_once(patch, block, cells, looked_up):
    """So that even few points go through tables and halves."""
    for name, value in (("BLOCK", block), ("CELLS", cells), ("LOOKED_UP_AT_ONCE", looked_up), ("COMPARED_AT_ONCE", 0)):
        patch.setattr(f"dse.dominance.{name}", value)


@pytest.mark.parametrize("sizes", SIZES)
@SETTINGS
@given(OBJECTIVES.flatmap(points_of))
def test_the_front_is_that_of_comparing_each_with_each(sizes, points):
    with pytest.MonkeyPatch.context() as patch:
        compare_none_at_once(patch, *sizes)
        assert (~non_dominated(points)).tolist() == beaten(points, points)


@pytest.mark.parametrize("sizes", SIZES)
@SETTINGS
@given(OBJECTIVES.flatmap(lambda objectives: st.tuples(points_of(objectives), points_of(objectives))))
def test_what_others_dominate_is_what_one_of_them_beats(sizes, drawn):
    points, others = drawn
    with pytest.MonkeyPatch.context() as patch:
        compare_none_at_once(patch, *sizes)
        assert dominated(points, others).tolist() == beaten(points, others)
        assert dominated(points, points).tolist() == beaten(points, points)


@SETTINGS
@given(OBJECTIVES.flatmap(points_of))
def test_few_points_are_compared_at_once_to_the_same_front(points):
    assert (~non_dominated(points)).tolist() == beaten(points, points)
    assert dominated(points, points[::2]).tolist() == beaten(points, points[::2])


@pytest.mark.parametrize("levels", [[2000, 2000, 2000, 2000], [2000, 5, 40, 2000], [9, 9, 9, 9]])
def test_a_large_front_equals_each_point_compared_with_each(levels):
    rng = np.random.default_rng(len(levels))
    points = np.stack([rng.integers(0, count, 2000) for count in levels], axis=1).astype(float)
    points[:, 0] = np.ceil(2 * points[:, 1:].sum(axis=1).max() - points[:, 1:].sum(axis=1) + rng.integers(0, 9, 2000))
    compared = [bool(((points <= one).all(axis=1) & (points < one).any(axis=1)).any()) for one in points]
    assert (~non_dominated(points)).tolist() == compared
    assert non_dominated(points).sum() > 500 or levels[-1] == 9


@pytest.mark.parametrize("objectives", [3, 5])
def test_others_leave_of_many_points_what_comparing_each_with_each_does(objectives):
    """Unlike values, as bounds and simulated losses have; some points are equal to one of the others."""
    rng = np.random.default_rng(objectives)
    others = rng.random((1500, objectives)) + 0.3
    points = np.concatenate([rng.random((2500, objectives)) + 0.2, others[::3]])
    expected = [bool(((others <= one).all(axis=1) & (others < one).any(axis=1)).any()) for one in points]
    assert dominated(points, others).tolist() == expected
    assert 0.05 < np.mean(expected) < 0.95


@SETTINGS
@given(OBJECTIVES.flatmap(points_of))
def test_no_point_comes_behind_one_that_it_dominates_by_promise(points):
    ordered = points[np.isfinite(points).all(axis=1)]
    ordered = ordered[by_promise(ordered)]
    assert not any(beats(later, one) for place, one in enumerate(ordered) for later in ordered[place:])


def test_a_loss_nobody_knows_is_never_dominated():
    points = np.column_stack([np.full(40, -np.inf), np.arange(40.0)])
    assert not dominated(points, np.zeros((30, 2))).any()
    assert non_dominated(points).tolist() == [True] + [False] * 39
