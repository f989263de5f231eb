"""Closed forms of what a decode step moves, against the simulator and its own checks."""

from __future__ import annotations

import pytest

from hwsim import NPU_NAMES, SHAPE_NAMES, load_npu, load_shape, simulate
from hwsim.checks import check_trace, step_precision
from hwsim.roofline import step_bound
from hwsim.trace import InputError
from hwsim.workload import batch_decode_step
from studies.architect.traffic import (
    StepLaw,
    batch_trace,
    crossing_context,
    decode_step_s,
    kv_plane_bytes,
    largest_batch,
    plane_bytes,
    step_law,
    with_faster_memory,
    with_room,
)

NPU = load_npu("pmpd-16k")
SHAPE = load_shape("mobilellama-1.4b")
BITS = {"kv_bits": 16, "lm_head_bits": 16}


def trace_of(batch: int, context: int = 128, weight_bits: int = 3):
    return batch_trace(SHAPE, weight_bits, batch, context, **BITS)


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_a_plane_is_a_bit_of_every_block_weight(name):
    shape = load_shape(name)
    weights = shape.layers * sum(n * k for _, n, k in shape.block_linears())
    assert plane_bytes(shape) == weights / 8  # all six have columns in whole words
    heads = 2 * shape.layers * shape.kv_heads * shape.head_dim
    assert kv_plane_bytes(shape, 1000) == 1000 * heads / 8
    assert crossing_context(shape) == -(-weights // heads)


def test_a_batch_of_n_crosses_at_an_nth_of_the_context():
    shape = load_shape("vicuna-7b")
    for batch in (2, 4, 8):
        assert crossing_context(shape, batch) == pytest.approx(crossing_context(shape) / batch, abs=1)


def test_the_law_gives_the_traffic_of_any_batch():
    law = step_law(NPU, SHAPE, trace_of(1), 128)
    for batch in (1, 3, 8):
        result = simulate(with_room(NPU), SHAPE, trace_of(batch))
        step = result.columns.dram_bytes[result.columns.step >= 0].sum()
        # Beyond the least: activations that do not fit, and whole bursts of the new keys and values.
        assert law.shared_bytes + batch * law.own_bytes <= step
        assert step == pytest.approx(law.shared_bytes + batch * law.own_bytes, rel=0.01)


def test_the_crossing_batch_solves_the_roofline():
    law = StepLaw(shared_bytes=1_000_000, own_bytes=300, macs=9_000)
    batch = law.crossing_batch(20.0)
    assert batch is not None
    assert batch * law.macs / 20.0 == pytest.approx(law.shared_bytes + batch * law.own_bytes)
    assert law.crossing_batch(30.0) is None  # 300 bytes of each take exactly as long as its MACs


def test_a_step_bound_by_memory_takes_half_as_long_with_a_memory_twice_as_fast():
    trace = trace_of(1)
    once, twice = (decode_step_s(with_faster_memory(NPU, factor), SHAPE, trace) for factor in (1.0, 2.0))
    assert once == decode_step_s(NPU, SHAPE, trace)
    assert once / twice == pytest.approx(2, rel=0.01)


def test_both_engines_run_a_batch_alike():
    trace = trace_of(5)
    assert decode_step_s(NPU, SHAPE, trace) == decode_step_s(NPU, SHAPE, trace, events=True)


def test_the_largest_batch_is_the_last_that_is_not_refused():
    npu = load_npu("pmpd-4k", {"memory.capacity_bytes": 3 << 30})
    most = largest_batch(npu, SHAPE, trace_of(1), 128)
    assert 1 <= most < 256
    check_trace(npu, SHAPE, trace_of(most))
    with pytest.raises(InputError, match="memory.capacity_bytes"):
        check_trace(npu, SHAPE, trace_of(most + 1))
    check_trace(with_room(npu), SHAPE, trace_of(most + 1))


@pytest.mark.parametrize("name", NPU_NAMES)
def test_no_step_beats_its_bound(name):
    npu, trace = load_npu(name), trace_of(4)
    precision = step_precision(npu, trace.header, 3)
    bound = step_bound(npu, batch_decode_step(SHAPE, precision, [(3, 128)] * 4))
    assert decode_step_s(npu, SHAPE, trace) * npu.clock_hz >= bound * (1 - 1e-12)
