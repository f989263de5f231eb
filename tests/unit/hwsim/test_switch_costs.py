"""Prefetching across steps, codebooks that stay on chip, and what a switch of width then costs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.load import load_npu
from hwsim.metrics import SimulationResult
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import Schedule, synthetic_trace
from hwsim_strategies import TINY

GUESS = {"control.prefetch": "assume-unchanged"}
PLAN = {"control.prefetch": "planned"}


def _run(overrides, schedule, *, shape=TINY, prompt=20, steps=12, engine="events", **options) -> SimulationResult:
    trace = synthetic_trace(shape, schedule, prompt_tokens=prompt, decode_tokens=steps)
    return _simulate(overrides, trace, shape=shape, engine=engine, **options)


def _simulate(overrides, trace, *, shape=TINY, engine="events", **options) -> SimulationResult:
    npu = load_npu("pmpd-4k", overrides)
    return simulate(npu, shape, trace, SimulationOptions(engine=engine, **options))


def _falling(*widths):
    """A schedule that takes one more width every three steps, after a prefill at the first."""
    return Schedule.from_pairs(widths[0], [(3 * index, bits) for index, bits in enumerate(widths)])


def _codebook_layer_bytes(bits, shape=TINY):
    return sum(n for _, n, _ in shape.block_linears()) * 2 * (1 << bits)


def test_a_switch_is_free_where_nothing_crosses_the_end_of_a_step():
    switches = _run({}, _falling(4, 3, 2)).switches
    assert switches[["step", "from_bits", "to_bits"]].values.tolist() == [[3, 4, 3], [6, 3, 2]]
    assert not switches[["thrown_away_bytes", "codebook_bytes", "cycles"]].to_numpy().any()


def test_a_switch_nobody_expected_throws_away_the_first_tiles_of_the_old_width():
    result = _run(GUESS, _falling(4, 3))
    # One tile holds all of q_proj here: 96 rows of 4 planes of 3 words, and a codebook of 16 entries each.
    assert result.switches.thrown_away_bytes.tolist() == [96 * (4 * 3 * 4 + 16 * 2)]
    assert result.bytes_by_kind["thrown_away"] == result.switches.thrown_away_bytes.sum()
    assert result.switches.cycles.item() > 0
    assert result.dram_bytes - result.bytes_by_kind["thrown_away"] == _run({}, _falling(4, 3)).dram_bytes


def test_two_slots_hold_two_tiles_of_a_layer_that_has_more():
    shape = load_shape("mobilellama-1.4b")
    result = _run(GUESS, Schedule.from_pairs(4, [(0, 3)]), shape=shape, steps=2, engine="fast")
    tile = 1024 * 1024 // 2 // (2048 // 8 * 4)  # rows of q_proj whose four planes fill half of the weight buffer
    assert result.switches.thrown_away_bytes.tolist() == [2 * tile * (2048 // 8 * 4 + 16 * 2)]


def test_a_planned_schedule_throws_nothing_away():
    result = _run(PLAN, _falling(4, 3, 2))
    assert result.bytes_by_kind["thrown_away"] == 0
    assert result.switch_cycles == 0
    assert result.dram_bytes == _run({}, _falling(4, 3, 2)).dram_bytes


def test_expecting_no_change_is_as_good_as_a_plan_until_something_changes():
    assert _run(GUESS, Schedule.uniform(3)).cycles == _run(PLAN, Schedule.uniform(3)).cycles


def test_prefetching_hides_the_drain_of_every_step_where_the_embedding_has_a_memory_of_its_own():
    shape, npu = load_shape("mobilellama-1.4b"), load_npu("pmpd-4k")
    memory = npu.memory.model_dump() | {"holds": ("embedding",), "technology": "ddr4"}
    trace = synthetic_trace(shape, Schedule.uniform(4), prompt_tokens=32, decode_tokens=5)
    results = []
    for prefetch in ("none", "planned"):
        fields = npu.model_dump() | {"second_memory": memory}
        fields["control"] |= {"prefetch": prefetch}
        results.append(simulate(type(npu).model_validate(fields), shape, trace))
    drained = results[0].stall_cycles["dram"]["drained"] // 6  # of the prefill and five equal steps
    assert drained > 0
    assert (results[0].steps.cycles - results[1].steps.cycles).tolist() == [0, *[drained] * 5]


def test_resident_codebooks_are_read_at_each_new_width_and_then_no_more():
    capacity = {"buffers.resident_codebook_kib": 2 * _codebook_layer_bytes(4) / 1024}
    streamed, resident = _run({}, _falling(4, 3)), _run(capacity, _falling(4, 3))
    # Two layers' codebooks of 4 bits fit, and so do all three layers' of 3 bits. The prefill and the first step at
    # 3 bits read everything; the other 3 + 8 steps only what is not on chip.
    saved = 3 * 2 * _codebook_layer_bytes(4) + 8 * 3 * _codebook_layer_bytes(3)
    assert streamed.bytes_by_kind["codebooks"] - resident.bytes_by_kind["codebooks"] == saved
    assert resident.cycles < streamed.cycles
    switches = resident.switches
    assert switches.codebook_bytes.tolist() == [3 * _codebook_layer_bytes(3)]
    assert 0 < switches.cycles.item() <= streamed.cycles


def test_a_store_that_holds_no_layer_changes_nothing():
    too_small = {"buffers.resident_codebook_kib": _codebook_layer_bytes(2) / 1024 - 0.01}
    assert _run(too_small, _falling(3, 2)).cycles == _run({}, _falling(3, 2)).cycles


def test_switching_every_step_never_finds_its_codebooks():
    resident = {"buffers.resident_codebook_kib": 1024}
    alternating = Schedule.from_pairs(4, [(step, 3 if step % 2 else 4) for step in range(12)])
    assert _run(resident, alternating).bytes_by_kind["codebooks"] == pytest.approx(
        _run({}, alternating).bytes_by_kind["codebooks"] - 3 * _codebook_layer_bytes(4), abs=0
    )  # only the first step follows one, the prefill, at its own width


@st.composite
def machines(draw):
    """NPUs whose steps are not separable, from starved to idle memories."""
    return {
        "control.prefetch": draw(st.sampled_from(["planned", "assume-unchanged"])),
        "buffers.resident_codebook_kib": draw(st.sampled_from([0, 4, 24, 512])),
        "buffers.weight_kib": draw(st.sampled_from([4, 16, 1024])),
        "memory.bandwidth_bytes_per_s": draw(st.sampled_from([1e9, 32e9, 4e11])),
        "matrix.macs": draw(st.sampled_from([64, 256, 4096])),
    }


@st.composite
def schedules(draw):
    """Any widths, changing as often as every step."""
    widths = draw(st.lists(st.sampled_from([2, 3, 4, 8, 16]), min_size=1, max_size=8))
    return Schedule.from_pairs(draw(st.sampled_from([2, 4, 16])), list(enumerate(widths)))


@settings(max_examples=25, deadline=None)
@given(machines(), schedules())
def test_chained_steps_agree_in_both_engines_with_and_without_memo(overrides, schedule):
    fast, events = (_run(overrides, schedule, steps=9, engine=engine) for engine in ("fast", "events"))
    exact = _run(overrides, schedule, steps=9, exact=True)
    assert fast.steps.cycles.tolist() == events.steps.cycles.tolist() == exact.steps.cycles.tolist()
    assert fast.switches.equals(events.switches)
    assert fast.bytes_by_kind == events.bytes_by_kind
    assert events.stall_cycles == exact.stall_cycles
    assert all(cycles >= 0 for reasons in events.stall_cycles.values() for cycles in reasons.values())
    for unit, reasons in events.stall_cycles.items():
        assert events.busy_cycles[unit] + sum(reasons.values()) == events.cycles
    operations = events.operations
    assert operations.dram_bytes.sum() == events.dram_bytes
    for unit, reasons in events.stall_cycles.items():
        assert operations[f"{unit}_busy_cycles"].sum() == events.busy_cycles[unit]
        assert operations[f"{unit}_stall_cycles"].sum() == sum(reasons.values()) - reasons["drained"]


def _batch(*sequences):
    """One batch of (prompt tokens, steps, schedule)."""
    lines = []
    for number, (prompt, steps, schedule) in enumerate(sequences):
        one = synthetic_trace(TINY, schedule, prompt_tokens=prompt, decode_tokens=steps)
        lines.append(one.sequences[0].model_copy(update={"id": str(number)}))
    header = one.header.model_copy(update={"execution": "batched", "schedule": None})
    return one.model_copy(update={"header": header, "sequences": tuple(lines)})


@pytest.mark.parametrize("prefetch", ["planned", "assume-unchanged"])
def test_a_batch_prefetches_what_all_its_sequences_need(prefetch):
    trace = _batch((20, 8, _falling(4, 3)), (9, 5, Schedule.uniform(2, 4)), (30, 2, Schedule.uniform(8)))
    overrides = {"control.prefetch": prefetch, "buffers.resident_codebook_kib": 512}
    fast, events = (_simulate(overrides, trace, engine=engine) for engine in ("fast", "events"))
    exact = _simulate(overrides, trace, exact=True)
    assert fast.steps.equals(events.steps)
    assert fast.steps.equals(exact.steps)
    # 8 bits after a prefill at 8 are expected; then the widest sequence ends, and later the one at 4 bits falls to 3.
    assert fast.switches[["step", "from_bits", "to_bits"]].values.tolist() == [[2, 8, 4], [3, 4, 3]]
    thrown = fast.switches.thrown_away_bytes
    assert (thrown > 0).all() if prefetch == "assume-unchanged" else (thrown == 0).all()


def test_sequences_that_follow_one_another_do_not_prefetch_for_each_other():
    one = _batch((20, 4, Schedule.uniform(4)))
    two = _batch((20, 4, Schedule.uniform(4)), (20, 4, Schedule.uniform(4)))
    alone, both = (
        _simulate(
            PLAN, trace.model_copy(update={"header": trace.header.model_copy(update={"execution": "sequential"})})
        )
        for trace in (one, two)
    )
    assert both.steps.cycles.tolist() == alone.steps.cycles.tolist() * 2


def test_a_batch_in_blocks_of_tokens_prefetches_weights_not_its_spilled_input():
    trace = synthetic_trace(TINY, _falling(4, 3), prompt_tokens=3, decode_tokens=6, sequences=20)
    together = tuple(sequence.model_copy(update={"batch_id": 0}) for sequence in trace.sequences)
    header = trace.header.model_copy(update={"execution": "batched"})
    trace = trace.model_copy(update={"header": header, "sequences": together})
    overrides = {**GUESS, "buffers.activation_kib": 4}
    fast, events = (_simulate(overrides, trace, engine=engine) for engine in ("fast", "events"))
    assert fast.bytes_by_kind["activations"] > 0
    assert fast.switches.thrown_away_bytes.tolist() == [96 * (4 * 3 * 4 + 16 * 2)]
    assert fast.columns.cycles.tolist() == events.columns.cycles.tolist()
