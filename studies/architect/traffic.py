"""Closed forms of what a decode step moves and multiplies, and single steps of a batch by the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hwsim import NpuConfig, SimulationOptions, SimulationResult, simulate
from hwsim.checks import step_precision
from hwsim.config import Memory, Timing
from hwsim.roofline import step_amounts
from hwsim.trace import ModelShape, Schedule, Trace, synthetic_trace
from hwsim.units import bits_to_bytes
from hwsim.workload import batch_decode_step, kv_cache_bytes, stored_model_bytes
from studies.common.subjects import plane_bytes

ROOMY_BYTES = 1 << 50  # a memory that holds any batch; whether the real one does is said beside it


@dataclass(frozen=True, slots=True)
class StepLaw:
    """Least bytes and MACs of a decode step of ``B`` equal sequences: ``shared + B * own``.

    Attributes:
        shared_bytes: Weights and codebooks, read once whatever the batch.
        own_bytes: Keys, values and embedding of each sequence.
        macs: Multiply-accumulates of each sequence.
    """

    shared_bytes: int
    own_bytes: int
    macs: int

    def crossing_batch(self, macs_per_byte: float) -> float | None:
        """Batch at which bytes and MACs take equally long on an NPU of this ridge point; None: at none.

        ``B macs / ridge = shared + B own``: without a solution where a sequence's own bytes alone take longer than
        its MACs.

        >>> StepLaw(100, 1, 10).crossing_batch(5.0), StepLaw(100, 2, 10).crossing_batch(5.0)
        (100.0, None)
        """
        left = self.macs / macs_per_byte - self.own_bytes
        return self.shared_bytes / left if left > 0 else None


def batch_trace(
    shape: ModelShape, weight_bits: int, batch: int, context: int, *, kv_bits: int, lm_head_bits: int
) -> Trace:
    """A batch of equal sequences that prefill ``context`` tokens each and decode one step together."""
    trace = synthetic_trace(
        shape,
        Schedule.uniform(weight_bits),
        prompt_tokens=context,
        decode_tokens=1,
        sequences=batch,
        kv_bits=kv_bits,
        lm_head_bits=lm_head_bits,
    )
    header = trace.header.model_copy(update={"execution": "batched"})
    sequences = tuple(sequence.model_copy(update={"batch_id": 0}) for sequence in trace.sequences)
    return Trace(header=header, sequences=sequences)


def step_law(npu: NpuConfig, shape: ModelShape, trace: Trace, context: int) -> StepLaw:
    """The law of a trace's decode step, from the roofline of one and of two sequences."""
    bits = trace.sequences[0].prefill_weight_bits
    precision = step_precision(npu, trace.header, bits)
    one, two = (step_amounts(npu, batch_decode_step(shape, precision, [(bits, context)] * batch)) for batch in (1, 2))
    own = int(two.main_bytes - one.main_bytes)
    return StepLaw(int(one.main_bytes) - own, own, int(one.macs))


def decode_step_s(npu: NpuConfig, shape: ModelShape, trace: Trace, *, events: bool = False) -> float:
    """Seconds of the one decode step of :func:`batch_trace`."""
    result: SimulationResult = simulate(npu, shape, trace, SimulationOptions(engine="events" if events else "fast"))
    columns = result.columns
    return float(columns.cycles[columns.step >= 0].sum()) / npu.clock_hz


def decode_step_bytes(npu: NpuConfig, shape: ModelShape, trace: Trace) -> int:
    """Bytes that cross the main memory's bus in the one decode step of :func:`batch_trace`."""
    columns = simulate(npu, shape, trace, SimulationOptions(engine="fast")).columns
    return int(columns.dram_bytes[columns.step >= 0].sum())


def with_room(npu: NpuConfig) -> NpuConfig:
    """The same NPU with memories that hold any batch."""
    changes: dict[str, Memory] = {"memory": npu.memory.model_copy(update={"capacity_bytes": ROOMY_BYTES})}
    if npu.second_memory is not None:
        changes["second_memory"] = npu.second_memory.model_copy(update={"capacity_bytes": ROOMY_BYTES})
    return npu.model_copy(update=changes)


def with_faster_memory(npu: NpuConfig, factor: float) -> NpuConfig:
    """The same NPU with all of its off-chip memory ``factor`` times as fast: pins, core timing and refresh alike."""

    def faster(memory: Memory) -> Memory:
        timing = {name: getattr(memory.timing, name) / factor for name in Timing.model_fields if name.endswith("_ns")}
        changes = {
            "bandwidth_bytes_per_s": memory.bandwidth_bytes_per_s * factor,
            "timing": memory.timing.model_copy(update=timing),
        }
        return memory.model_copy(update=changes)

    changes: dict[str, Memory] = {"memory": faster(npu.memory)}
    if npu.second_memory is not None:
        changes["second_memory"] = faster(npu.second_memory)
    return npu.model_copy(update=changes)


def largest_batch(npu: NpuConfig, shape: ModelShape, trace: Trace, context: int) -> int:
    """Most sequences whose caches the memory holds beside the weights of the trace's width."""
    header = trace.header
    bits = trace.sequences[0].prefill_weight_bits
    left = npu.memory.capacity_bytes - stored_model_bytes(shape, {bits}, step_precision(npu, header, bits))
    return max(0, left // kv_cache_bytes(shape, header.kv_bits, context + 1))


def kv_plane_bytes(shape: ModelShape, tokens: int) -> int:
    """Bytes that one bit of every key and value of ``tokens`` tokens takes over all layers."""
    return 2 * shape.layers * tokens * bits_to_bytes(shape.kv_heads * shape.head_dim)


def crossing_context(shape: ModelShape, batch: int = 1) -> int:
    """Context from which a bit of the KV cache is as many bytes as a bit of the weights.

    >>> from hwsim import load_shape
    >>> crossing_context(load_shape("vicuna-7b"))
    24704
    """
    return ceil(plane_bytes(shape) / (batch * kv_plane_bytes(shape, 1)))
