"""What must hold for every NPU, model, schedule and length."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwsim.load import load_npu
from hwsim.roofline import roofline_cycles
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, ModelShape, Schedule, synthetic_trace

NESTED = st.integers(2, 8)
WIDTH = st.one_of(NESTED, st.just(16))


@st.composite
def shapes(draw):
    kv_heads = draw(st.sampled_from([1, 2, 3, 4]))
    return ModelShape(
        name="random",
        layers=draw(st.integers(1, 5)),
        hidden_size=draw(st.sampled_from([8, 48, 64, 100, 256, 512])),
        ffn_size=draw(st.integers(8, 700)),
        heads=kv_heads * draw(st.sampled_from([1, 2, 4])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 20, 32, 64])),
        vocab_size=draw(st.integers(2, 3000)),
        max_context=4096,
        mlp=draw(st.sampled_from(["gated", "two-matrix"])),
        parallel_attention=draw(st.booleans()),
        rotary_fraction=draw(st.sampled_from([0.0, 0.25, 1.0])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
    )


SPARSE = {"density": {"q_proj": 0.7, "k_proj": 0.125, "up_proj": 0.5, "down_proj": 1.0}}

# Buffers down to one tile, arrays and buses from starved to abundant, functions from free to dominant.
OVERRIDES = st.fixed_dictionaries(
    {
        "matrix.macs": st.integers(6, 16).map(lambda exponent: 1 << exponent),
        "memory.bandwidth_bytes_per_s": st.floats(1e8, 2e12),
        "memory.channels": st.sampled_from([1, 3, 32]),
        "memory.timing.controller_latency_ns": st.sampled_from([0, 40, 900]),
        "clock_hz": st.sampled_from([225e6, 1e9, 1.7e9]),
        "sfu.lanes": st.sampled_from([1, 16, 512]),
        "buffers.weight_kib": st.sampled_from([4, 9, 64, 1024]),
        "buffers.kv_kib": st.sampled_from([4, 33, 512]),
        "buffers.codebook_kib": st.sampled_from([2, 5, 256]),
        "buffers.activation_kib": st.sampled_from([4, 20, 8192]),
        "control.issue_cycles": st.sampled_from([0, 1, 30]),
        "control.sync_cycles": st.sampled_from([0, 16]),
        "matrix.pipeline_cycles": st.sampled_from([0, 16, 300]),
        "matrix.bit_serial": st.sampled_from([False, False, True]),
        "matrix.sparsity": st.sampled_from([None, None, SPARSE]),
        "control.prefill_bucket_tokens": st.sampled_from([1, 1, 32]),
        "control.decode_bucket_tokens": st.sampled_from([1, 1, 16]),
    }
)


@st.composite
def schedules(draw, width=WIDTH):
    starts = draw(st.lists(st.integers(0, 7), max_size=3))
    pairs = [(0, draw(width)), *((start, draw(width)) for start in starts)]
    return Schedule.from_pairs(draw(width), pairs)


@st.composite
def workloads(draw, width=WIDTH):
    shape = draw(shapes())
    trace = synthetic_trace(
        shape,
        draw(schedules(width)),
        prompt_tokens=draw(st.integers(1, 200)),
        decode_tokens=draw(st.integers(0, 8)),
        sequences=draw(st.sampled_from([1, 1, 2])),
        kv_bits=draw(st.sampled_from([4, 8, 16])),
        lm_head_bits=draw(st.sampled_from([4, 8, 16])),
        activation_bits=draw(st.sampled_from([8, 16])),
    )
    return shape, trace


def _simulate(overrides, shape, trace, *, engine="fast", **options):
    """Simulate, or say None where a buffer is too small for one tile."""
    npu = load_npu("pmpd-4k", overrides)
    try:
        return npu, simulate(npu, shape, trace, SimulationOptions(engine=engine, **options))
    except InputError as error:
        assert "half of the buffer holds" in str(error) or "the buffer holds" in str(error)
        return npu, None


quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(OVERRIDES, workloads())
def test_no_configuration_is_faster_than_its_roofline(overrides, workload):
    npu, result = _simulate(overrides, *workload)
    if result is not None:
        assert result.cycles >= roofline_cycles(npu, *workload)


@quick
@given(OVERRIDES, workloads())
def test_bytes_are_conserved_and_no_unit_is_busier_than_time_allows(overrides, workload):
    _, result = _simulate(overrides, *workload)
    if result is None:
        return
    assert sum(result.bytes_by_kind.values()) == result.dram_bytes == result.columns.dram_bytes.sum()
    assert all(0 <= share <= 1 for share in result.utilisation.values())
    assert result.busy_cycles["dram"] > 0
    shape, trace = workload
    bucket = overrides["control.prefill_bucket_tokens"]
    prompts = [-(-sequence.prompt_tokens // bucket) * bucket for sequence in trace.sequences]
    tokens = sum(prompts) + trace.decode_steps()
    token_bytes = 2 * shape.layers * -(-shape.kv_heads * shape.head_dim * trace.header.kv_bits // 8)
    assert result.bytes_by_kind["kv_append"] == tokens * token_bytes


@settings(quick, max_examples=8)
@given(OVERRIDES, workloads())
def test_memo_and_exact_simulation_agree(overrides, workload):
    _, memo = _simulate(overrides, *workload, engine="events")
    _, exact = _simulate(overrides, *workload, engine="events", exact=True)
    if memo is not None:
        assert memo.columns.cycles.tolist() == exact.columns.cycles.tolist()


def _check_engines(overrides, workload):
    _, events = _simulate(overrides, *workload, engine="events")
    _, fast = _simulate(overrides, *workload)
    if events is not None:
        assert fast.columns.cycles.tolist() == events.columns.cycles.tolist()
        assert (fast.engine, fast.events_simulated) == ("fast", 0)
        assert fast.energy_j == events.energy_j


@settings(quick, max_examples=60)
@given(OVERRIDES, workloads())
def test_the_fast_engine_equals_the_event_engine_to_the_cycle(overrides, workload):
    _check_engines(overrides, workload)


@pytest.mark.slow
@settings(quick, max_examples=2000)
@given(OVERRIDES, workloads())
def test_the_fast_engine_equals_the_event_engine_to_the_cycle_at_length(overrides, workload):
    _check_engines(overrides, workload)


@quick
@given(OVERRIDES, workloads(), st.floats(1, 50))
def test_more_bandwidth_is_never_slower(overrides, workload, factor):
    _, base = _simulate(overrides, *workload)
    key = "memory.bandwidth_bytes_per_s"
    _, more = _simulate({**overrides, key: overrides[key] * factor}, *workload)
    if base is not None:
        assert (more.columns.cycles <= base.columns.cycles).all()


@quick
@given(OVERRIDES, workloads(), st.integers(1, 6))
def test_more_macs_are_never_slower(overrides, workload, doublings):
    _, base = _simulate(overrides, *workload)
    _, more = _simulate({**overrides, "matrix.macs": overrides["matrix.macs"] << doublings}, *workload)
    if base is not None:
        assert (more.columns.cycles <= base.columns.cycles).all()


@quick
@given(OVERRIDES, workloads(), st.integers(2, 9))
def test_more_lanes_are_never_slower(overrides, workload, factor):
    _, base = _simulate(overrides, *workload)
    _, more = _simulate({**overrides, "sfu.lanes": overrides["sfu.lanes"] * factor}, *workload)
    if base is not None:
        assert (more.columns.cycles <= base.columns.cycles).all()


@quick
@given(OVERRIDES, workloads(width=st.integers(3, 8)), st.data())
def test_fewer_bits_are_never_more_bytes(overrides, workload, data):
    shape, trace = workload
    lower = trace.model_copy(
        update={
            "sequences": tuple(
                sequence.model_copy(
                    update={
                        "prefill_weight_bits": data.draw(st.integers(2, sequence.prefill_weight_bits)),
                        "decode_weight_bits": tuple(
                            (data.draw(st.integers(2, bits)), count) for bits, count in sequence.decode_weight_bits
                        ),
                    }
                )
                for sequence in trace.sequences
            )
        }
    )
    _, base = _simulate(overrides, shape, trace)
    _, less = _simulate(overrides, shape, lower)
    if base is not None:
        assert (less.columns.dram_bytes <= base.columns.dram_bytes).all()
