from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accuracy.schedulers import CandidateScheduler, CandidateSet
from hwsim.trace import InputError, candidate_count, candidate_schedules

precision_sets = st.sets(st.sampled_from([2, 3, 4, 5, 6, 8, 16]), min_size=1, max_size=4).map(sorted)


@given(st.integers(2, 9), st.integers(10, 300))
def test_two_widths_have_the_reversed_candidate_schedules_as_classes(points, bound):
    classes = CandidateSet.of([4, 3], points).schedules(bound)
    assert list(classes) == candidate_schedules([4, 3], bound, points)[::-1]


@given(precision_sets, st.integers(2, 6), st.integers(60, 300))
def test_any_precision_set_has_exactly_the_candidate_schedules_as_classes(widths, points, bound):
    candidates = CandidateSet.of(widths, points)
    classes = candidates.schedules(bound)
    assert len(classes) == len(set(classes)) == candidates.classes == candidate_count(points, len(widths))
    assert set(classes) == set(candidate_schedules(widths, bound, points))


@given(precision_sets, st.integers(2, 6), st.integers(1, 40))
def test_classes_rise_in_mean_bits_where_the_points_are_whole_steps(widths, points, spacing):
    bound = (points - 1) * spacing + 1
    classes = CandidateSet.of(widths, points).schedules(bound)
    order = [(schedule.mean_bits(bound - 1), len(schedule.decode)) for schedule in classes]
    assert [(pytest.approx(bits), switches) for bits, switches in sorted(order)] == order
    assert (order[0][0], order[-1][0]) == (widths[0], widths[-1])


@given(precision_sets, st.integers(2, 6), st.integers(1, 300), st.integers(1, 300))
def test_a_class_means_the_same_points_whatever_the_bound(widths, points, bound, other):
    candidates = CandidateSet.of(widths, points, prefill_weight_bits=8)
    for at in (bound, other):
        for schedule, switches in zip(candidates.schedules(at), candidates.switch_points(), strict=True):
            steps = [round(point * (max(at, 2) - 1) / (points - 1)) for point in switches]
            expected = [candidates.widths[sum(start <= step for start in steps)] for step in range(at - 1)]
            assert schedule.expand(at - 1) == expected
            assert schedule.prefill_weight_bits == 8


def test_a_prompt_without_a_decode_step_has_a_plan_too():
    assert [schedule.label() for schedule in CandidateSet.of([4, 3], 3).schedules(1)] == ["p4:3", "p4:3", "p4:4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, r"widths = \[\]: at least one width"),
        ({"widths": [3, 4, 3]}, r"widths = \[3, 3, 4\]: at least one width, each once"),
        ({"widths": [9, 3]}, r"widths = 9: must be 1\.\.8, or 16"),
        ({"widths": [4, 3], "prefill_weight_bits": 0}, r"prefill_weight_bits = 0: must be 1\.\.8"),
        ({"widths": [4, 3], "points": 1}, "points = 1: must be >= 2"),
    ],
)
def test_sets_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CandidateSet.of(**options)


def test_a_choice_outside_the_classes_is_refused_by_name():
    class Wrong(CandidateScheduler):
        name = "wrong"

        def choose(self, prefill):
            return 4

    with pytest.raises(InputError, match=r"scheduler wrong p4:4/3 N=4: chose class 4: must be 0\.\.3"):
        Wrong(CandidateSet.of([4, 3])).plan(SimpleNamespace(max_new_tokens=60))
