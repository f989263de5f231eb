import pytest

import hwsim
from hwsim.timeline import INSTRUCTIONS, OPERATIONS, RUN, interesting_rows, timeline_events, window_rows
from hwsim.trace import InputError, Schedule, synthetic_trace

SHAPE = hwsim.load_shape("phi-1.5")
NPU = hwsim.load_npu("pmpd-4k")
TRACE = synthetic_trace(SHAPE, Schedule.from_pairs(4, [(0, 4), (5, 3)]), prompt_tokens=16, decode_tokens=8)


@pytest.fixture(scope="module")
def result():
    return hwsim.simulate(NPU, SHAPE, TRACE, hwsim.SimulationOptions(engine="fast"))


def slices(events, process):
    return [event for event in events if event["ph"] == "X" and event["pid"] == process]


def test_a_window_shows_every_instruction_of_every_block(result):
    (row,) = window_rows(result, 2, 2)
    events = timeline_events(NPU, result, rows=[], window=[row])
    shown = slices(events, INSTRUCTIONS)
    step = slices(events, RUN)[row]
    profile = hwsim.profile_step(NPU, SHAPE, TRACE.header, weight_bits=4, cached_tokens=18)
    assert len(shown) == len(profile.spans)
    assert {event["args"]["layer"] for event in shown} == {-1, *range(SHAPE.layers)}
    assert min(event["ts"] for event in shown) >= step["ts"]
    assert max(event["ts"] + event["dur"] for event in shown) <= step["ts"] + step["dur"] + 1e-6


def test_outside_the_window_operations_are_shown_and_one_block_of_instructions(result):
    events = timeline_events(NPU, result)
    assert len(slices(events, RUN)) == 9
    assert {event["args"]["layer"] for event in slices(events, INSTRUCTIONS)} == {-1, 0}
    assert {event["args"]["layer"] for event in slices(events, OPERATIONS)} == {-1, *range(SHAPE.layers)}


def test_the_window_adds_to_the_interesting_steps(result):
    assert interesting_rows(result) == [0, 1, 6]  # prefill, first decode step, switch
    assert window_rows(result, 3, 4) == [4, 5]


@pytest.mark.parametrize(("first", "last"), [(0, 8), (5, 4), (-1, 2), (9, 9)])
def test_a_window_outside_the_run_is_refused(result, first, last):
    with pytest.raises(InputError, match=rf"timeline steps {first}-{last}: must lie within .* 0\.\.7"):
        window_rows(result, first, last)


def test_too_long_a_window_is_refused():
    trace = synthetic_trace(SHAPE, Schedule.uniform(4), prompt_tokens=16, decode_tokens=80)
    result = hwsim.simulate(NPU, SHAPE, trace, hwsim.SimulationOptions(engine="fast"))
    with pytest.raises(InputError, match="at most 64 steps"):
        window_rows(result, 0, 64)
