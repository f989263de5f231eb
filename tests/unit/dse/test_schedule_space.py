"""A schedule space holds every schedule it tells, each once, and says beforehand how many."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dse.schedule_space import MAX_SCHEDULES, ScheduleSpace, SwitchPoints, merged, unique
from hwsim.trace import InputError, Schedule, candidate_schedules

WIDTHS = st.lists(st.sampled_from([2, 3, 4, 8, 16]), min_size=1, max_size=4, unique=True).map(tuple)


def every_schedule(space: ScheduleSpace, length: int) -> set[str]:
    """All precision sequences of ``length`` steps that the space tells, found by trying every one of them."""
    steps = set(space.steps())
    found = set()
    for prefill in space.prefill_weight_bits:
        for bits in itertools.product(space.decode_weight_bits, repeat=length):
            changes = [step for step in range(1, length) if bits[step] != bits[step - 1]]
            rises = any(after > before for before, after in itertools.pairwise((prefill, *bits)))
            if len(changes) <= space.max_switches and set(changes) <= steps and not (space.falling_only and rises):
                found.add(
                    Schedule.from_pairs(prefill, [(0, bits[0]), *((step, bits[step]) for step in changes)]).label()
                )
    return found


@settings(max_examples=15, deadline=None)
@given(WIDTHS, WIDTHS, st.integers(0, 3), st.lists(st.integers(1, 4), max_size=3, unique=True), st.booleans())
def test_a_space_is_what_trying_every_sequence_finds(prefill, decode, switches, steps, falling):
    fields = {
        "prefill_weight_bits": prefill,
        "decode_weight_bits": decode,
        "max_switches": switches,
        "switch_steps": tuple(sorted(steps)),
        "falling_only": falling,
    }
    if falling and max(prefill) < min(decode):
        with pytest.raises(ValidationError, match="no schedule is left; raise it"):
            ScheduleSpace(**fields)
        return
    space = ScheduleSpace(**fields)
    labels = [schedule.label() for schedule in space.schedules()]
    assert len(labels) == len(set(labels)) == space.count()
    assert set(labels) == every_schedule(space, 5)


def test_evenly_spread_points_are_the_papers_candidates():
    space = ScheduleSpace(
        prefill_weight_bits=(4,),
        decode_weight_bits=(4, 3, 2),
        max_switches=2,
        switch_steps=SwitchPoints(points=4, response_tokens=61),
    )
    ours = {schedule.label() for schedule in space.schedules()}
    assert ours >= {schedule.label() for schedule in candidate_schedules([4, 3, 2], 61, 4)}


def test_a_hundred_thousand_schedules_are_told_and_too_many_refused():
    fields = {"prefill_weight_bits": (8,), "decode_weight_bits": (8, 7, 6, 5, 4, 3, 2), "max_switches": 3}
    assert ScheduleSpace(**fields, switch_steps=tuple(range(1, 28))).count() == 7 + 21 * 27 + 35 * 351 + 35 * 2925
    with pytest.raises(ValidationError, match=rf"holds 5\d{{6}} schedules, at most {MAX_SCHEDULES} are explored"):
        ScheduleSpace(**fields, switch_steps=tuple(range(1, 100)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"switch_steps": (20, 20)}, r"switch_steps = \[20, 20\]: must increase"),
        ({"decode_weight_bits": (3, 3)}, r"decode_weight_bits = \[3, 3\]: each may appear once"),
        ({"decode_weight_bits": ()}, "give both with it, or neither without it"),
        ({"schedulers": ("learned",)}, "give both with it, or neither without it"),
        ({"prefill_weight_bits": (2,)}, r"prefill_weight_bits = \[2\] is below every decode width"),
    ],
)
def test_a_space_that_contradicts_itself_is_refused(changes, message):
    fields = {"prefill_weight_bits": (4,), "decode_weight_bits": (4, 3), "switch_steps": (20,)}
    with pytest.raises(ValidationError, match=message):
        ScheduleSpace(**(fields | changes))


def test_equal_neighbours_are_one_segment_and_repeats_are_refused():
    split = Schedule.model_validate(
        {"prefill_weight_bits": 4, "decode": [{"start_step": 0, "weight_bits": 4}, {"start_step": 9, "weight_bits": 4}]}
    )
    assert merged(split) == Schedule.uniform(4)
    with pytest.raises(InputError, match="p4:4 appears twice"):
        unique([split, Schedule.uniform(4)])
