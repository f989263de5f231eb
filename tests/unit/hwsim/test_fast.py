"""The fast engine equals the event engine to the cycle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.events import EventEngine, State, run_stages
from hwsim.fast import FastEngine, States, advance
from hwsim.load import load_npu
from hwsim.lowering import build_lowering
from hwsim.precision import Precision
from hwsim.program import Kind, Pool, Timing
from hwsim.shapes import load_shape
from hwsim.workload import decode_step, prefill_step

CYCLES = st.one_of(st.integers(0, 3), st.integers(0, 40), st.integers(0, 5000))
TILES = st.one_of(st.integers(1, 8), st.integers(1, 60))


@st.composite
def timings(draw, kv_bus):
    kind = draw(st.sampled_from([Kind.TILES] * 6 + [Kind.LOAD, Kind.STORE, Kind.SYNC, Kind.MARK]))
    if kind is Kind.MARK:
        return Timing(kind)
    if kind is Kind.SYNC:
        return Timing(kind, load=draw(CYCLES))
    if kind is not Kind.TILES:
        return Timing(kind, load=draw(CYCLES), load_latency=draw(CYCLES), bus=draw(st.integers(0, 1)))
    parts = draw(st.sampled_from(["load matrix sfu", "load matrix", "matrix sfu", "matrix", "sfu"])).split()
    fields = {}
    for part in parts:
        fields[part], fields[f"last_{part}"] = draw(CYCLES), draw(CYCLES)
        fields[f"{part}_latency"] = draw(CYCLES)
    pool = draw(st.sampled_from(Pool))
    tiles = 1 if parts == ["sfu"] else draw(TILES)
    return Timing(
        kind,
        pool,
        draw(st.booleans()),
        tiles,
        bus=kv_bus if pool is Pool.KV else 0,
        prefetched=draw(st.integers(0, min(2, tiles))) if pool is Pool.WEIGHT and "load" in parts else 0,
        **fields,
    )


@st.composite
def programs(draw):
    """Stages that share two memories, with or without loads for the next step behind them."""
    kv_bus = draw(st.integers(0, 1))
    stages = draw(st.lists(timings(kv_bus), min_size=1, max_size=5))
    if draw(st.booleans()):
        load, last, latency = draw(CYCLES), draw(CYCLES), draw(CYCLES)
        tiles = draw(st.integers(1, 2))
        stages.append(Timing(Kind.PREFETCH, tiles=tiles, load=load, last_load=last, load_latency=latency))
    return stages


@st.composite
def states(draw):
    """Any state a run can leave behind: slots are freed in order, by a matrix unit that is done with them."""
    weight, kv = (sorted(draw(st.tuples(CYCLES, CYCLES))) for _ in range(2))
    matrix = max(draw(CYCLES), weight[1], kv[1])
    ready = draw(CYCLES)
    output = ready + draw(CYCLES)
    mark = min(draw(CYCLES), output)
    fetched = draw(CYCLES), draw(CYCLES)
    return State(draw(CYCLES), draw(CYCLES), matrix, draw(CYCLES), ready, output, mark, *weight, *kv, *fetched)


def _as_arrays(state: State) -> States:
    arrays = [np.array([value]) for value in state]
    return States(arrays[:2], *arrays[2:7], slots=[arrays[7:9], arrays[9:11]], fetched=arrays[11:13])


def _as_state(states: States) -> State:
    slots = [slot for pair in states.slots for slot in pair]
    units = (states.matrix, states.sfu, states.input, states.output, states.mark)
    return State(*(int(value[0]) for value in (*states.buses, *units, *slots, *states.fetched)))


def _check_stages(stages, state):
    expected = run_stages(stages, state).state
    found = _as_arrays(state)
    for stage in stages:
        advance(stage, found)
    assert _as_state(found) == expected


@settings(max_examples=400, deadline=None)
@given(programs(), states())
def test_any_stages_from_any_state_leave_the_same_state(stages, state):
    _check_stages(stages, state)


@pytest.mark.slow
@settings(max_examples=8_000, deadline=None)
@given(programs(), states())
def test_any_stages_from_any_state_leave_the_same_state_at_length(stages, state):
    _check_stages(stages, state)


@pytest.mark.parametrize("npu", ["pmpd-4k", "pmpd-16k"])
@pytest.mark.parametrize("bits", [16, 4, 2])
def test_whole_steps_of_a_real_model_agree(npu, bits):
    shape, precision = load_shape("mobilellama-1.4b"), Precision(bits)
    lowering = build_lowering(load_npu(npu), precision, shape.hidden_size)
    contexts = np.arange(500, 520)
    decode = lowering.program(decode_step(shape, precision, contexts))
    prefill = lowering.program(prefill_step(shape, precision, 500))
    for program, steps in ((decode, len(contexts)), (prefill, 1)):
        fast, events = FastEngine(), EventEngine()
        assert fast.steps(program, steps).cycles.tolist() == events.steps(program, steps).cycles.tolist()
        assert fast.simulated == 0 < events.simulated
