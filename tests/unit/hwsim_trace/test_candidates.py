from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.trace import InputError, candidate_count, candidate_schedules, schedule_count, switch_steps


@given(st.integers(2, 400), st.integers(2, 9))
def test_switch_steps_span_the_response_and_never_fall(tokens, points):
    steps = switch_steps(tokens, points)
    assert (steps[0], steps[-1], len(steps)) == (0, tokens - 1, points)
    assert steps == sorted(steps)


def test_a_response_of_one_token_has_nowhere_to_switch():
    with pytest.raises(InputError, match="max_new_tokens = 1"):
        switch_steps(1)


def test_one_point_is_no_choice():
    with pytest.raises(InputError, match="points = 1"):
        switch_steps(10, 1)


@pytest.mark.parametrize("response_tokens", range(6))
@pytest.mark.parametrize("widths", [1, 2, 3, 4])
def test_the_number_of_schedules_is_that_of_falling_sequences(response_tokens, widths):
    falling = [
        sequence
        for sequence in product(range(widths), repeat=response_tokens)
        if all(earlier >= later for earlier, later in pairwise(sequence))
    ]
    assert schedule_count(response_tokens, widths) == len(falling)


def test_the_numbers_of_the_paper():
    assert [schedule_count(256, widths) for widths in (2, 3, 4)] == [257, 33_153, 2_862_209]
    assert [candidate_count(4, widths) for widths in (2, 3, 4)] == [4, 10, 20]


@given(st.sets(st.integers(1, 8), min_size=1, max_size=5), st.integers(2, 6), st.integers(0, 40))
def test_candidates_are_all_falling_schedules_with_switches_at_the_points(widths, points, extra):
    max_new_tokens = points + extra  # every step differs
    steps = switch_steps(max_new_tokens, points)
    found = candidate_schedules(sorted(widths), max_new_tokens, points)
    assert len(found) == len({schedule.sha256() for schedule in found}) == candidate_count(points, len(widths))
    assert found[0].label() == f"p{max(widths)}:{max(widths)}"
    assert found[-1].label() == f"p{max(widths)}:{min(widths)}"
    for schedule in found:
        bits = [segment.weight_bits for segment in schedule.decode]
        assert bits == sorted(bits, reverse=True)
        assert {segment.start_step for segment in schedule.decode} <= set(steps)


def test_candidates_equal_brute_force_over_every_step():
    falling = {
        sequence
        for sequence in product((4, 3, 2), repeat=5)
        if all(earlier >= later for earlier, later in pairwise(sequence))
    }
    assert {tuple(one.expand(5)) for one in candidate_schedules([2, 3, 4], 6, 6)} == falling


def test_points_that_coincide_give_a_schedule_once():
    assert [one.label() for one in candidate_schedules([4, 3], 2, 4)] == ["p4:4", "p4:3"]


def test_the_prefill_may_have_a_width_of_its_own():
    assert {one.prefill_weight_bits for one in candidate_schedules([3, 2], 20, 4, prefill_weight_bits=8)} == {8}


@pytest.mark.parametrize("widths", [[], [3, 3], [9, 3], [0]])
def test_widths_must_be_legal_and_differ(widths):
    with pytest.raises(InputError, match="widths = "):
        candidate_schedules(widths, 20)
