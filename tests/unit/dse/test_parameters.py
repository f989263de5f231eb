"""A parameter's values: evenly spaced on its scale, exact at both ends, and enumerable where it says how many."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.parameters import Parameter


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e9), st.floats(1.1, 1e6), st.integers(2, 60))
def test_points_of_a_logarithmic_range_have_one_ratio(low, factor, points):
    grid = Parameter(type="log", low=low, high=low * factor, points=points).grid()
    assert (grid[0], grid[-1], len(grid)) == (low, low * factor, points)
    ratios = [after / before for before, after in itertools.pairwise(grid)]
    assert ratios == pytest.approx([factor ** (1 / (points - 1))] * len(ratios), rel=3e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(-50, 50), st.integers(1, 400), st.integers(2, 30), st.booleans())
def test_points_of_integers_are_different_integers_with_both_ends(low, span, points, log):
    if log and low <= 0:
        low = 1
    grid = Parameter(type="int", low=low, high=low + span, points=points, log=log).grid()
    assert all(isinstance(value, int) for value in grid)
    assert list(grid) == sorted(set(grid))
    assert (grid[0], grid[-1]) == (low, low + span)
    assert len(grid) <= points


def test_points_closer_than_their_digits_are_each_there_once():
    grid = Parameter(type="float", low=1e9, high=1.00001e9, points=30).grid()
    assert grid == tuple(sorted(set(grid))) == (1e9, 1.00001e9)
    grid = Parameter(type="log", low=1.0000004, high=2, points=1000).grid()
    assert grid == tuple(sorted(set(grid))) and grid[0] == 1.0000004


@pytest.mark.parametrize("choices", [[4, 4.0], ["16e9", 16000000000.0], [2.5, "2.5"]])
def test_equal_numbers_are_one_choice(choices):
    with pytest.raises(ValueError, match="must differ"):
        Parameter(type="categorical", choices=choices)
    assert Parameter(type="categorical", choices=[True, False, 1, 0]).choices == (True, False, 1, 0)


def test_a_step_and_a_number_of_points_agree():
    by_step = Parameter(type="float", low=0.5, high=2.5, step=0.5).grid()
    assert by_step == Parameter(type="float", low=0.5, high=2.5, points=5).grid() == (0.5, 1.0, 1.5, 2.0, 2.5)


def test_only_numbers_can_be_bounded():
    assert Parameter(type="categorical", choices=[1, 2.5]).numeric
    for choices in ([True, False], ["hbm2"], [[2, 3]], [None, {"a": 1}]):
        assert not Parameter(type="categorical", choices=choices).numeric
    assert Parameter(type="categorical", choices=[8, 2]).bounds() == (2, 8)
