import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.trace import InputError
from studies.codesign.grid import schedule_grid
from studies.codesign.plot import schedule_kind


def test_the_grid_of_two_widths_by_hand():
    labels = [schedule.label() for schedule in schedule_grid([2, 3, 16], 10)]
    assert labels == ["p16:16", "p3:3", "p2:2", "p3:2", "p3:3>2@3", "p3:3>2@6"]


@given(st.sets(st.integers(2, 8), min_size=2), st.booleans(), st.integers(4, 100))
def test_every_schedule_is_listed_once_reads_stored_widths_and_only_falls(widths, full, tokens):
    stored = [*widths, *([16] if full else [])]
    grid = schedule_grid(stored, tokens)
    assert len({schedule.label() for schedule in grid}) == len(grid)
    assert {width for schedule in grid for width in schedule.widths()} == set(stored)
    for schedule in grid:
        bits = [schedule.prefill_weight_bits, *(segment.weight_bits for segment in schedule.decode)]
        assert bits == sorted(bits, reverse=True)
    assert {schedule_kind(schedule) for schedule in grid} == {"uniform", "phase-aware", "progressive"}


def test_one_width_leaves_nothing_to_choose():
    with pytest.raises(InputError, match="at least two nested widths"):
        schedule_grid([4, 16], 10)
