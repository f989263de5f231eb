"""Batches: what is shared, what is not, and when each sequence gets its tokens."""

from __future__ import annotations

import pytest

from hwsim.load import load_npu
from hwsim.precision import Precision
from hwsim.roofline import roofline_cycles
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.timeline import timeline_events
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import kv_cache_bytes, stored_model_bytes
from hwsim_strategies import TINY


def _trace(*sequences, shape=TINY, batch_ids=None, execution="batched"):
    """Make a trace from (prompt tokens, decode steps, weight bits) of each sequence."""
    lines = []
    for number, (prompt, steps, bits) in enumerate(sequences):
        one = synthetic_trace(shape, Schedule.uniform(bits), prompt_tokens=prompt, decode_tokens=steps)
        batch = 0 if batch_ids is None else batch_ids[number]
        lines.append(one.sequences[0].model_copy(update={"id": str(number), "batch_id": batch}))
    header = one.header.model_copy(update={"execution": execution, "schedule": None})
    return one.model_copy(update={"header": header, "sequences": tuple(lines)})


@pytest.fixture(scope="module")
def npu():
    return load_npu("pmpd-4k")


def test_a_batch_of_one_is_the_sequence_alone(npu):
    batched, alone = (simulate(npu, TINY, _trace((20, 6, 4), execution=how)) for how in ("batched", "sequential"))
    assert batched.columns.cycles.tolist() == alone.columns.cycles.tolist()
    assert batched.to_json_dict() == {**alone.to_json_dict(), "events_memoised": batched.events_memoised,
                                      "events_simulated": batched.events_simulated}  # fmt: skip


def test_batches_one_after_another_equal_sequential_execution(npu):
    sequences = [(20, 6, 4), (9, 3, 2), (30, 0, 16)]
    batched = simulate(npu, TINY, _trace(*sequences, batch_ids=[0, 1, 2]))
    alone = simulate(npu, TINY, _trace(*sequences, execution="sequential"))
    assert batched.cycles == alone.cycles
    assert (batched.ttft_s, batched.e2e_s) == (alone.ttft_s, alone.e2e_s)


def test_planes_are_read_once_up_to_the_highest_width_and_caches_for_each(npu):
    def decode_bytes(kind, *widths):
        """Bytes of one decode step: a batch with it less the same batch without."""
        with_step, without = (simulate(npu, TINY, _trace(*((20, steps, bits) for bits in widths))) for steps in (1, 0))
        return with_step.bytes_by_kind[kind] - without.bytes_by_kind[kind]

    for kind in ("weights", "lm_head"):
        assert decode_bytes(kind, 4, 2, 3) == decode_bytes(kind, 4)
    for kind in ("codebooks", "kv_read", "kv_append", "embedding"):
        assert decode_bytes(kind, 4, 2, 3) == sum(decode_bytes(kind, bits) for bits in (4, 2, 3))


def test_sequences_drop_out_when_they_are_done(npu):
    result = simulate(npu, TINY, _trace((20, 5, 3), (10, 2, 3)))
    decode = result.steps[result.steps["step"] >= 0]
    assert decode["tokens"].tolist() == [2, 2, 1, 1, 1]
    assert decode["context"].tolist() == [30, 32, 22, 23, 24]
    assert result.decode_steps == 7
    assert result.decode_tokens_per_s == pytest.approx(7 / (decode["cycles"].sum() / 1e9))


def test_first_and_last_tokens_are_timed_from_the_start_of_the_batch(npu):
    result = simulate(npu, TINY, _trace((20, 2, 3), (10, 1, 3)))
    first, second, *steps = result.columns.cycles.tolist()
    assert result.ttft_s * 1e9 == pytest.approx((first + first + second) / 2)
    assert result.prefill_s * 1e9 == pytest.approx((first + second) / 2)
    ends = first + second + sum(steps), first + second + steps[0]
    assert result.e2e_s * 1e9 == pytest.approx(sum(ends) / 2)
    # The first step yields two tokens, the second one.
    assert result.tpot_s * 1e9 == pytest.approx((2 * steps[0] + steps[1]) / 3)


def test_a_batch_decodes_more_tokens_a_second_than_its_sequences_alone():
    npu, shape = load_npu("pmpd-16k"), load_shape("mobilellama-1.4b")
    sequences = [(32, 2, 4)] * 4
    batched, alone = (
        simulate(npu, shape, _trace(*sequences, shape=shape, execution=how), SimulationOptions(engine="fast"))
        for how in ("batched", "sequential")
    )
    assert 3 < batched.decode_tokens_per_s / alone.decode_tokens_per_s < 4


@pytest.mark.parametrize("overrides", [{}, {"buffers.activation_kib": 1, "buffers.weight_kib": 4}, {"matrix.macs": 64}])
def test_engines_agree_and_no_batch_beats_its_roofline(overrides):
    npu = load_npu("pmpd-4k", overrides)
    trace = _trace((20, 5, 4), (10, 2, 2), (7, 7, 16), (90, 3, 4))
    fast, events = (simulate(npu, TINY, trace, SimulationOptions(engine=engine)) for engine in ("fast", "events"))
    assert fast.columns.cycles.tolist() == events.columns.cycles.tolist()
    assert fast.cycles >= roofline_cycles(npu, TINY, trace)
    assert sum(fast.bytes_by_kind.values()) == fast.dram_bytes == fast.columns.dram_bytes.sum()


def test_caches_of_a_batch_must_fit_together():
    capacity = stored_model_bytes(TINY, {4}, Precision(4)) + kv_cache_bytes(TINY, 16, 300)
    small = load_npu("pmpd-4k", {"memory.capacity_bytes": capacity})
    simulate(small, TINY, _trace((200, 5, 4), (200, 5, 4), batch_ids=[0, 1]))
    with pytest.raises(InputError, match="410 tokens of KV cache needs"):
        simulate(small, TINY, _trace((200, 5, 4), (200, 5, 4)))


def test_the_analytic_mode_refuses_batches_and_a_timeline_shows_them_whole(npu):
    trace = _trace((20, 2, 3), (10, 1, 3))
    with pytest.raises(InputError, match="'batched'"):
        simulate(npu, TINY, trace, SimulationOptions(mode="pmpd-analytic"))
    events = timeline_events(npu, simulate(npu, TINY, trace))
    assert sum(event["ph"] == "X" and event["pid"] == 1 for event in events) == 4
