from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from hwsim.checks import step_precision
from hwsim.events import EventEngine
from hwsim.fast import FastEngine
from hwsim.load import load_npu
from hwsim.lowering import build_lowering
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.step_profile import profile_row, profile_step
from hwsim.timeline import INSTRUCTIONS, OPERATIONS, RUN, interesting_rows, timeline_events, write_timeline
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import decode_step
from hwsim_strategies import TINY

SCHEDULE = Schedule.from_pairs(4, [(0, 4), (3, 2)])


@pytest.fixture(scope="module")
def npu():
    return load_npu("pmpd-4k", {"buffers.weight_kib": 4, "buffers.kv_kib": 2})


@pytest.fixture(scope="module")
def trace():
    return synthetic_trace(TINY, SCHEDULE, prompt_tokens=20, decode_tokens=5, sequences=2)


@pytest.fixture(scope="module")
def result(npu, trace):
    return simulate(npu, TINY, trace)


@pytest.mark.parametrize(
    ("row", "tokens"), [(0, {"prompt_tokens": 20}), (1, {"cached_tokens": 20}), (4, {"cached_tokens": 23})]
)
def test_a_profile_ends_when_the_simulated_step_does(npu, trace, result, row, tokens):
    bits = int(result.columns.weight_bits[row])
    profile = profile_step(npu, TINY, trace.header, weight_bits=bits, **tokens)
    assert profile.cycles == result.columns.cycles[row]
    assert profile.operations["dram_bytes"].sum() == result.columns.dram_bytes[row]
    assert profile.operations["end_cycle"].max() <= profile.cycles


def test_no_unit_does_two_instructions_at_once(npu, trace):
    profile = profile_step(npu, TINY, trace.header, weight_bits=4, cached_tokens=20)
    for unit in ("dram", "matrix", "sfu", "control"):
        spans = sorted(span[2:] for span in profile.spans if span.unit == unit)
        for (start, cycles), (following, _) in pairwise(spans):
            assert start + cycles <= following


def test_busy_stalled_and_drained_cycles_fill_the_step(npu, trace):
    profile = profile_step(npu, TINY, trace.header, weight_bits=4, cached_tokens=20)
    for unit, reasons in profile.stall_cycles.items():
        busy = sum(span.cycles for span in profile.spans if span.unit == unit)
        assert busy + sum(reasons.values()) == profile.cycles
        assert reasons["drained"] >= 0


def test_a_memory_bound_step_stalls_the_matrix_unit_on_its_tiles():
    shape = load_shape("mobilellama-1.4b")
    header = synthetic_trace(shape, SCHEDULE, prompt_tokens=8, decode_tokens=1).header
    profile = profile_step(load_npu("pmpd-4k"), shape, header, weight_bits=4, cached_tokens=8)
    stalls = profile.stall_cycles["matrix"]
    assert max(stalls, key=stalls.__getitem__) == "tile"
    assert stalls["tile"] > 0.9 * profile.cycles
    starved = load_npu("pmpd-4k", {"matrix.macs": 64, "memory.bandwidth_bytes_per_s": 1e12})
    profile = profile_step(starved, shape, header, weight_bits=4, cached_tokens=8)
    assert max(profile.stall_cycles["dram"], key=profile.stall_cycles["dram"].__getitem__) == "slot"


def test_one_kind_of_step_must_be_asked_for(npu, trace):
    with pytest.raises(ValueError, match="either prompt_tokens"):
        profile_step(npu, TINY, trace.header, weight_bits=4)


def test_detail_is_shown_for_the_prefill_the_first_step_and_each_switch(result):
    assert interesting_rows(result) == [0, 1, 4]


def test_a_timeline_shows_every_step_and_keeps_time(npu, trace, result, tmp_path):
    path = tmp_path / "timeline.json"
    write_timeline(path, npu, result)
    events = json.loads(path.read_text())["traceEvents"]
    steps = [event for event in events if event["pid"] == RUN and event["ph"] == "X"]
    assert len(steps) == 12
    assert sum(step["args"]["cycles"] for step in steps) == result.cycles
    last = steps[-1]
    assert last["ts"] + last["dur"] == pytest.approx(result.cycles / npu.clock_hz * 1e6)
    detailed = [steps[row] for row in (0, 1, 4)]
    for process in (OPERATIONS, INSTRUCTIONS):
        slices = [event for event in events if event["pid"] == process and event["ph"] == "X"]
        for event in slices:
            inside = [
                s
                for s in detailed
                if s["ts"] <= event["ts"] + 1e-9 and event["ts"] + event["dur"] <= s["ts"] + s["dur"] + 1e-6
            ]
            assert inside, event
    names = {event["name"] for event in events if event["pid"] == INSTRUCTIONS}
    assert {"LD q_proj", "MV q_proj", "MISC q_proj", "ST kv_append", "SYS sync", "LD attention"} <= names


def test_the_analytic_mode_has_no_timeline(npu, trace):
    result = simulate(npu, TINY, trace, SimulationOptions(mode="pmpd-analytic"))
    with pytest.raises(InputError, match="mode = 'pmpd-analytic'"):
        timeline_events(npu, result)


ROWS = {
    "separable": {},
    "prefetched": {"control.prefetch": "assume-unchanged", "buffers.resident_codebook_kib": 8},
    "searched": {"control.tiling": "search"},
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("execution", ["sequential", "batched"])
@pytest.mark.parametrize("engine", ["fast", "events"])
def test_every_row_can_be_looked_at_and_takes_what_the_simulation_said(name, execution, engine):
    one = synthetic_trace(TINY, Schedule.from_pairs(4, [(0, 4), (3, 2)]), prompt_tokens=30, decode_tokens=6)
    twice = tuple(one.sequences[0].model_copy(update={"id": str(number)}) for number in range(2))
    header = one.header.model_copy(update={"execution": execution, "scheduler": "learned"})
    trace = one.model_copy(update={"header": header, "sequences": twice})
    result = simulate(load_npu("pmpd-4k", ROWS[name]), TINY, trace, SimulationOptions(engine=engine))
    stalls = Counter()
    for row, cycles in enumerate(result.columns.cycles.tolist()):
        profile = profile_row(result, row)
        assert profile.cycles == cycles
        for unit, reasons in profile.stall_cycles.items():
            busy = sum(max(0, min(s.start + s.cycles, cycles) - s.start) for s in profile.spans if s.unit == unit)
            assert busy + sum(reasons.values()) == cycles
            assert all(waited >= 0 for waited in reasons.values())
            stalls.update({(unit, reason): waited for reason, waited in reasons.items()})
        assert sum(stage.work.dram_bytes for stage in profile.stages) == result.columns.dram_bytes[row]
    if engine == "events" and name != "prefetched":  # a prefetch waits in one step and loads in the next
        told = {(unit, reason): c for unit, reasons in result.stall_cycles.items() for reason, c in reasons.items()}
        assert stalls == Counter(told)


def test_only_rows_of_a_realistic_simulation_can_be_looked_at():
    trace = synthetic_trace(TINY, Schedule.uniform(4), prompt_tokens=30, decode_tokens=2)
    result = simulate(load_npu("pmpd-4k"), TINY, trace)
    with pytest.raises(InputError, match=r"row = 3: must be 0\.\.2"):
        profile_row(result, 3)
    analytic = simulate(load_npu("pmpd-4k"), TINY, trace, SimulationOptions(mode="pmpd-analytic"))
    with pytest.raises(InputError, match="mode = 'pmpd-analytic'"):
        profile_row(analytic, 0)


@pytest.mark.parametrize("widths", [(2, 8), (4, 4), (16, 3)])
def test_layers_may_differ_in_width_within_a_step(widths):
    npu, header = load_npu("pmpd-4k"), synthetic_trace(TINY, SCHEDULE, prompt_tokens=20, decode_tokens=2).header
    layers = [widths[layer % 2] for layer in range(TINY.layers)]
    mixed = profile_step(npu, TINY, header, weight_bits=layers, cached_tokens=20)

    def layer_bytes(profile, layer):
        return sum(
            stage.work.dram_bytes for stage, at in zip(profile.stages, profile.layers, strict=True) if at == layer
        )

    for layer, bits in enumerate(layers):
        alone = profile_step(npu, TINY, header, weight_bits=bits, cached_tokens=20)
        assert layer_bytes(mixed, layer) == layer_bytes(alone, layer)
        if len(set(widths)) == 1:
            assert mixed.cycles == alone.cycles
    precision = step_precision(npu, header, max(widths))
    step = decode_step(TINY, precision, 20, layer_weight_bits=layers)
    program = build_lowering(npu, precision, TINY.hidden_size).program(step)
    for engine in (FastEngine(), EventEngine(), EventEngine(exact=True)):
        assert engine.steps(program, 1).cycles.tolist() == [mixed.cycles]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([4], "has 1 entries: must be [0-9]+, one per layer"),
        ([4] * TINY.layers + [4], "one per layer"),
        ([1], "= 1: pmpd"),
    ],
)
def test_widths_by_layer_must_be_supported_and_one_for_each(widths, message):
    header = synthetic_trace(TINY, SCHEDULE, prompt_tokens=20, decode_tokens=2).header
    with pytest.raises(InputError, match=message):
        profile_step(load_npu("pmpd-4k"), TINY, header, weight_bits=widths, cached_tokens=20)
