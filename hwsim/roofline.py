"""The bound no configuration can beat: bytes that must cross the bus, multiplications that must be done."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from hwsim.checks import step_precision
from hwsim.config import Memory, NpuConfig
from hwsim.plan import DECODE, PREFILL_STEP, Members, batches_of, decode_steps_of
from hwsim.precision import Precision
from hwsim.trace import ModelShape, Trace
from hwsim.units import Amount, kib
from hwsim.workload import Attention, Embedding, KvAppend, Linear, Operator, Step, batch_decode_step, prefill_step


def _content_bytes_and_macs(operator: Operator, entry_bits: int) -> tuple[str, Amount, Amount]:
    match operator:
        case Linear():
            row = operator.row_bytes + operator.index_row_bytes + sum(operator.codebooks_row_bytes(entry_bits))
            return "weights", operator.n * row, operator.macs
        case Attention():
            return "kv", operator.cached * operator.token_bytes, operator.macs
        case KvAppend():
            return "kv", operator.bytes, 0
        case Embedding():
            return "embedding", operator.bytes, 0
        case _:
            return "", 0, 0


class StepAmounts(NamedTuple):
    """What a step, or each of several, moves and multiplies at the least: bytes over each memory's bus, and MACs."""

    main_bytes: Amount
    second_bytes: Amount
    macs: Amount


def step_amounts(npu: NpuConfig, step: Step) -> StepAmounts:
    """Least bytes and MACs of one step, or of many decode steps that differ in their cached tokens.

    Every weight, codebook and cached key or value is read once, every new key and value written once. Codebooks that
    may stay on chip count as there already.
    """
    macs: Amount = 0
    sizes: defaultdict[str, Amount] = defaultdict(int)
    entry_bits = 0 if npu.buffers.resident_codebook_kib else npu.matrix.codebook_entry_bits
    for operators, times in ((step.head, 1), *((run.block, run.layers) for run in step.runs), (step.tail, 1)):
        for operator in operators:
            content, operator_bytes, operator_macs = _content_bytes_and_macs(operator, entry_bits)
            sizes[content] += times * operator_bytes
            macs += times * operator_macs
    second_bytes = sum(sizes[content] for content in npu.second_memory.holds) if npu.second_memory else 0
    return StepAmounts(sum(sizes.values()) - second_bytes, second_bytes, macs)


def prefetchable_bytes(npu: NpuConfig) -> int:
    """Most bytes of a step that the step before can have loaded: full weight and codebook buffers."""
    return 0 if npu.control.prefetch == "none" else kib(npu.buffers.weight_kib + npu.buffers.codebook_kib)


def step_bound(npu: NpuConfig, step: Step) -> int:
    """Least cycles of one step: the longest of its bytes over each memory's peak bandwidth and its MACs."""
    amounts = step_amounts(npu, step)
    main_bytes = max(0, amounts.main_bytes - prefetchable_bytes(npu))
    cycles = [_bus_cycles(npu, npu.memory, main_bytes), ceil(Fraction(amounts.macs, npu.matrix.macs))]
    if npu.second_memory is not None:
        cycles.append(_bus_cycles(npu, npu.second_memory, amounts.second_bytes))
    return max(cycles)


def _bus_cycles(npu: NpuConfig, memory: Memory, size: int) -> int:
    return ceil(Fraction(size) * Fraction(npu.clock_hz) / Fraction(memory.bandwidth_bytes_per_s))


def phase_bounds(npu: NpuConfig, shape: ModelShape, trace: Trace) -> dict[int, int]:
    """Least cycles by phase (``PREFILL_STEP``, ``DECODE``): the sum of the bounds of its steps."""
    header = trace.header

    def precision(weight_bits: int) -> Precision:
        return step_precision(npu, header, weight_bits)

    def decode_bound(members: Members) -> int:
        return step_bound(npu, batch_decode_step(shape, precision(max(members)[0]), members))

    total = {PREFILL_STEP: 0, DECODE: 0}
    for sequence in trace.sequences:
        prefill = prefill_step(shape, precision(sequence.prefill_weight_bits), sequence.prompt_tokens)
        total[PREFILL_STEP] += step_bound(npu, prefill)
    known: dict[Members, int] = {}
    for batch in batches_of(trace):
        for batch_step in decode_steps_of(trace, batch):
            members = batch_step.members
            if members not in known:
                known[members] = decode_bound(members)
            total[DECODE] += known[members]
    return total


def roofline_cycles(npu: NpuConfig, shape: ModelShape, trace: Trace) -> int:
    """Least cycles in which ``npu`` can run ``trace``: the sum of its steps' bounds."""
    return sum(phase_bounds(npu, shape, trace).values())
