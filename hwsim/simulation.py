"""NPU + model shape + trace -> result."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from hwsim.config import NpuConfig
from hwsim.events import EventEngine
from hwsim.fast import FastEngine
from hwsim.lowering import build_lowering
from hwsim.metrics import PREFILL_STEP, SimulationResult, StepColumns, summarise
from hwsim.program import Program, Work
from hwsim.trace import FULL_PRECISION_BITS, InputError, ModelShape, Trace, TraceHeader
from hwsim.units import BITS_PER_BYTE, IntArray, bits_to_bytes
from hwsim.workload import Precision, decode_step, kv_cache_bytes, prefill_step, stored_model_bytes

ANALYTIC_KV_BITS = 8  # the paper's NPU keeps int8 keys and values


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """How to simulate.

    Attributes:
        mode: ``realistic``, or ``pmpd-analytic``: the idealised model behind the paper's Fig. 5, which counts
            the decoder's linear weights and an int8 KV cache over the peak bandwidth and nothing else.
        engine: ``events``: SimPy, instruction by instruction. ``fast``: recurrences, equal to the cycle.
        allow_model_mismatch: Accept a trace of another model; the result is labelled.
        exact: Event engine without memo: every stage of every step is simulated.
        analytic_codebooks: ``pmpd-analytic`` also counts codebook traffic.
    """

    mode: Literal["realistic", "pmpd-analytic"] = "realistic"
    engine: Literal["events", "fast"] = "events"
    allow_model_mismatch: bool = False
    exact: bool = False
    analytic_codebooks: bool = False


class Engine(Protocol):
    """Finds the cycles of the steps of a program."""

    simulated: int
    memoised: int

    def program_cycles(self, program: Program, steps: int) -> IntArray:
        """Cycles of each of the program's ``steps`` steps, from start to drained."""


@dataclass(frozen=True, slots=True)
class _Costs:
    """Cycles and work of every distinct step: by (prompt tokens, bits) and by (bits, cached tokens)."""

    prefill: dict[tuple[int, int], tuple[int, Work]]
    decode: dict[tuple[int, int], tuple[int, Work]]


def _precision(npu: NpuConfig, header: TraceHeader, weight_bits: int) -> Precision:
    return Precision(
        weight_bits=weight_bits,
        activation_bits=header.activation_bits,
        kv_bits=header.kv_bits,
        lm_head_bits=header.lm_head_bits,
        codebook_entry_bits=npu.matrix.codebook_entry_bits,
    )


def check_fit(npu: NpuConfig, shape: ModelShape, trace: Trace) -> None:
    """Refuse what cannot run: an unsupported width, a too long sequence, a model larger than the memory.

    Raises:
        InputError: With field, value, bound and remedy.
    """
    if not trace.sequences:
        raise InputError("trace has 0 sequences: must have at least 1")
    if trace.header.execution == "batched":
        raise InputError("trace execution = 'batched': only 'sequential' can be simulated")
    widths: set[int] = set()
    longest = 0
    for sequence in trace.sequences:
        widths |= {sequence.prefill_weight_bits, *(bits for bits, _ in sequence.decode_weight_bits)}
        tokens = sequence.prompt_tokens + sequence.decode_steps
        if tokens > shape.max_context:
            raise InputError(
                f"sequence '{sequence.id}': prompt_tokens + decode steps = {tokens}: {shape.name} holds at most "
                f"{shape.max_context} tokens"
            )
        longest = max(longest, tokens)
    if unsupported := sorted(widths - set(npu.matrix.weight_widths)):
        supported = ", ".join(str(bits) for bits in npu.matrix.weight_widths)
        raise InputError(
            f"trace weight_bits = {unsupported[0]}: {npu.name} supports {supported}; "
            "change the schedule or matrix.weight_widths"
        )
    precision = _precision(npu, trace.header, max(widths))
    needed = stored_model_bytes(shape, widths, precision)
    needed += kv_cache_bytes(shape, trace.header.kv_bits, longest)
    if needed > npu.memory.capacity_bytes:
        raise InputError(
            f"{npu.name}: memory.capacity_bytes = {npu.memory.capacity_bytes}: {shape.name} with weights of "
            f"{'/'.join(str(bits) for bits in sorted(widths))} bits and {longest} tokens of KV cache needs {needed}; "
            "raise it or lower the bits"
        )


def _realistic(npu: NpuConfig, shape: ModelShape, trace: Trace, engine: Engine) -> _Costs:
    prefills = {(sequence.prompt_tokens, sequence.prefill_weight_bits) for sequence in trace.sequences}
    contexts: defaultdict[int, set[int]] = defaultdict(set)
    for sequence in trace.sequences:
        cached = sequence.prompt_tokens
        for bits, count in sequence.decode_weight_bits:
            contexts[bits].update(range(cached, cached + count))
            cached += count
    # Everything is lowered, and so checked, before anything runs.
    prefill_programs: dict[tuple[int, int], Program] = {}
    for tokens, bits in sorted(prefills):
        precision = _precision(npu, trace.header, bits)
        lowering = build_lowering(npu, precision, shape.hidden_size)
        prefill_programs[tokens, bits] = lowering.program(prefill_step(shape, precision, tokens))
    decode_programs: dict[int, tuple[IntArray, Program]] = {}
    for bits, tokens_set in sorted(contexts.items()):
        precision = _precision(npu, trace.header, bits)
        cached_tokens = np.array(sorted(tokens_set), dtype=np.int64)
        lowering = build_lowering(npu, precision, shape.hidden_size)
        decode_programs[bits] = cached_tokens, lowering.program(decode_step(shape, precision, cached_tokens))
    prefill = {
        key: (int(engine.program_cycles(program, 1)[0]), program.work()) for key, program in prefill_programs.items()
    }
    decode = {}
    for bits, (cached_tokens, program) in decode_programs.items():
        cycles, work = engine.program_cycles(program, len(cached_tokens)), program.work()
        for index, tokens in enumerate(cached_tokens.tolist()):
            decode[bits, tokens] = int(cycles[index]), work.at(index)
    return _Costs(prefill, decode)


def _analytic(npu: NpuConfig, shape: ModelShape, trace: Trace, *, codebooks: bool) -> _Costs:
    """The idealised model: bytes over peak bandwidth, and no prefill."""
    cycles_per_byte = Fraction(npu.clock_hz) / Fraction(npu.memory.bandwidth_bytes_per_s)
    rows = shape.layers * sum(n for _, n, _ in shape.block_linears())
    decode = {}
    for sequence in trace.sequences:
        for cached, bits in enumerate(sequence.expand(), start=sequence.prompt_tokens):
            if (bits, cached) in decode:
                continue
            weights = shape.linear_weights() * bits // BITS_PER_BYTE
            tables = 0
            if codebooks and bits != FULL_PRECISION_BITS:
                tables = rows * bits_to_bytes(npu.matrix.codebook_entry_bits << bits)
            kv_read = kv_cache_bytes(shape, ANALYTIC_KV_BITS, cached)
            cycles = -(-(weights + tables + kv_read) * cycles_per_byte // 1)
            work = Work(
                weight_bytes=weights,
                codebook_bytes=tables,
                kv_read_bytes=kv_read,
                macs=shape.linear_weights(),
                mac_ops=shape.linear_weights(),
                dram_busy_cycles=int(cycles),
            )
            decode[bits, cached] = int(cycles), work
    prefill = {(s.prompt_tokens, s.prefill_weight_bits): (0, Work()) for s in trace.sequences}
    return _Costs(prefill, decode)


def _collect(trace: Trace, costs: _Costs) -> tuple[StepColumns, Work]:
    rows: list[tuple[int, int, int, int, int, int]] = []
    uses: defaultdict[int, int] = defaultdict(int)
    works: dict[int, Work] = {}

    def add(number: int, step: int, bits: int, context: int, cost: tuple[int, Work]) -> None:
        cycles, work = cost
        rows.append((number, step, bits, context, cycles, int(work.dram_bytes)))
        uses[id(work)] += 1
        works[id(work)] = work

    for number, sequence in enumerate(trace.sequences):
        prompt, bits = sequence.prompt_tokens, sequence.prefill_weight_bits
        add(number, PREFILL_STEP, bits, prompt, costs.prefill[prompt, bits])
        for step, bits in enumerate(sequence.expand()):
            add(number, step, bits, prompt + step, costs.decode[bits, prompt + step])
    total = Work()
    for key, times in uses.items():
        total += works[key].times(times)
    table = np.array(rows, dtype=np.int64)
    return StepColumns(*table.T), total


def simulate(
    npu: NpuConfig,
    shape: ModelShape,
    trace: Trace,
    options: SimulationOptions | None = None,
) -> SimulationResult:
    """Simulate every sequence of ``trace`` on ``npu``, one after another.

    Bits of activations, KV cache and lm_head come from the trace's header.

    Args:
        npu: The hardware, from :func:`hwsim.load_npu`.
        shape: The model, from :func:`hwsim.load_shape`.
        trace: What ran: precision of every step.
        options: Mode and engine; defaults if left out.

    Raises:
        InputError: If the trace belongs to another model and that is not allowed, a width is not supported, a
            sequence is too long, or the model does not fit the memory or a tile its buffer.
    """
    options = options or SimulationOptions()
    mismatch = trace.header.model.shape.sha256() != shape.sha256()
    if mismatch and not options.allow_model_mismatch:
        raise InputError(
            f"trace model '{trace.header.model.name}' has another shape than '{shape.name}': "
            "simulate the trace's own model, or allow the mismatch (--allow-model-mismatch) and get a labelled result"
        )
    check_fit(npu, shape, trace)
    engine: Engine = FastEngine() if options.engine == "fast" else EventEngine(exact=options.exact)
    if options.mode == "pmpd-analytic":
        costs = _analytic(npu, shape, trace, codebooks=options.analytic_codebooks)
    else:
        costs = _realistic(npu, shape, trace, engine)
    columns, work = _collect(trace, costs)
    return summarise(
        npu,
        model=shape.name,
        mode=options.mode,
        engine=options.engine if options.mode == "realistic" else "analytic",
        model_mismatch=mismatch,
        columns=columns,
        work=work,
        events=(engine.simulated, engine.memoised),
    )
