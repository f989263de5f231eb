"""NPU + model shape + trace -> result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal, get_args

import numpy as np

from hwsim.batched import run_batches
from hwsim.checks import LEARNED_SCHEDULER, check_trace, step_precision
from hwsim.config import NpuConfig
from hwsim.events import EventEngine
from hwsim.fast import FastEngine
from hwsim.lowering import Lowering
from hwsim.metrics import PREFILL_STEP, SCHEDULER_STEP, Execution, SimulationResult, StepColumns, summarise
from hwsim.program import Engine, Program, Work, stack_work
from hwsim.service import build_services
from hwsim.trace import FULL_PRECISION_BITS, InputError, ModelShape, Trace, unknown_name
from hwsim.units import BITS_PER_BYTE, Amount, IntArray, bits_to_bytes
from hwsim.workload import Precision, Step, decode_step, kv_cache_bytes, learned_scheduler_step, prefill_step

ANALYTIC_KV_BITS = 8  # the paper's NPU keeps int8 keys and values


ModeName = Literal["realistic", "pmpd-analytic"]
EngineName = Literal["events", "fast"]
MODES: tuple[str, ...] = get_args(ModeName)
ENGINES: tuple[str, ...] = get_args(EngineName)


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

    mode: ModeName = "realistic"
    engine: EngineName = "events"
    allow_model_mismatch: bool = False
    exact: bool = False
    analytic_codebooks: bool = False

    def __post_init__(self) -> None:
        for field, known in (("mode", MODES), ("engine", ENGINES)):
            if getattr(self, field) not in known:
                raise unknown_name(field, getattr(self, field), known)


@dataclass(frozen=True, slots=True)
class _Costs:
    """Cycles and work of distinct steps that differ in one number: the prompt's tokens or the cached tokens."""

    tokens: IntArray
    cycles: IntArray
    work: Work


DECODE = 0
_CostTable = dict[tuple[int, int], _Costs]
"""By phase (``PREFILL_STEP``, ``SCHEDULER_STEP`` or ``DECODE``) and weight bits."""


def _distinct_steps(trace: Trace) -> tuple[dict[int, IntArray], dict[int, IntArray]]:
    """Prompt lengths of prefills and cached tokens of decode steps, by weight bits, sorted."""
    prompts: defaultdict[int, set[int]] = defaultdict(set)
    contexts: defaultdict[int, set[int]] = defaultdict(set)
    for sequence in trace.sequences:
        cached = sequence.prompt_tokens
        prompts[sequence.prefill_weight_bits].add(cached)
        for bits, count in sequence.decode_weight_bits:
            contexts[bits].update(range(cached, cached + count))
            cached += count

    def as_arrays(found: dict[int, set[int]]) -> dict[int, IntArray]:
        return {bits: np.array(sorted(tokens), dtype=np.int64) for bits, tokens in sorted(found.items())}

    return as_arrays(prompts), as_arrays(contexts)


def _realistic(npu: NpuConfig, shape: ModelShape, trace: Trace, engine: Engine) -> _CostTable:
    prompts, contexts = _distinct_steps(trace)
    services = build_services(npu)

    def lower(bits: int, step_of: Callable[[ModelShape, Precision, Amount], Step], tokens: Amount) -> Program:
        precision = step_precision(npu, trace.header, bits)
        return Lowering(services, precision, shape.hidden_size).program(step_of(shape, precision, tokens))

    # Everything is lowered, and so checked, before anything runs. Prefills differ in structure: one by one.
    once = [(PREFILL_STEP, prefill_step)]
    if trace.header.scheduler == LEARNED_SCHEDULER:
        once.append((SCHEDULER_STEP, learned_scheduler_step))
    single = {
        (phase, bits): [lower(bits, step_of, tokens) for tokens in lengths.tolist()]
        for phase, step_of in once
        for bits, lengths in prompts.items()
    }
    decode = {bits: lower(bits, decode_step, cached) for bits, cached in contexts.items()}
    table: _CostTable = {}
    for (phase, bits), programs in single.items():
        cycles = np.concatenate([engine.program_cycles(program, 1) for program in programs])
        table[phase, bits] = _Costs(prompts[bits], cycles, stack_work([program.work() for program in programs]))
    for bits, program in decode.items():
        cached = contexts[bits]
        table[DECODE, bits] = _Costs(cached, engine.program_cycles(program, len(cached)), program.work())
    return table


def _analytic(npu: NpuConfig, shape: ModelShape, trace: Trace, *, codebooks: bool) -> _CostTable:
    """The idealised model: bytes over peak bandwidth, and no prefill."""
    prompts, contexts = _distinct_steps(trace)
    cycles_per_byte = Fraction(npu.clock_hz) / Fraction(npu.memory.bandwidth_bytes_per_s)
    rows = shape.layers * sum(n for _, n, _ in shape.block_linears())
    table: _CostTable = {
        (PREFILL_STEP, bits): _Costs(lengths, np.zeros_like(lengths), Work()) for bits, lengths in prompts.items()
    }
    for bits, cached in contexts.items():
        weights = shape.linear_weights() * bits // BITS_PER_BYTE
        nested = bits != FULL_PRECISION_BITS
        tables = rows * bits_to_bytes(npu.matrix.codebook_entry_bits << bits) if codebooks and nested else 0
        kv_read = cached * kv_cache_bytes(shape, ANALYTIC_KV_BITS, 1)
        sizes = (weights + tables + kv_read).tolist()
        cycles = np.array([ceil(size * cycles_per_byte) for size in sizes], dtype=np.int64)
        macs = shape.linear_weights()
        work = Work(
            weight_bytes=weights,
            codebook_bytes=tables,
            kv_read_bytes=kv_read,
            macs=macs,
            mac_ops=macs,
            dram_busy_cycles=cycles,
        )
        table[DECODE, bits] = _Costs(cached, cycles, work)
    return table


def _collect(trace: Trace, table: _CostTable) -> Execution:
    """Line the steps up in the order they ran, and add their work."""
    parts: list[tuple[Amount, ...]] = []
    used: defaultdict[tuple[int, int], list[IntArray]] = defaultdict(list)

    def add(phase: int, number: int, steps: IntArray, bits: int, tokens: IntArray) -> None:
        costs = table[phase, bits]
        where = np.searchsorted(costs.tokens, tokens)
        used[phase, bits].append(where)
        sizes = np.broadcast_to(costs.work.dram_bytes, costs.tokens.shape)
        one = np.ones_like(tokens)
        yields = one * (phase != SCHEDULER_STEP)
        parts.append((number * one, steps, yields, bits * one, tokens, costs.cycles[where], sizes[where]))

    for number, sequence in enumerate(trace.sequences):
        prompt, prefill_bits = np.array([sequence.prompt_tokens], dtype=np.int64), sequence.prefill_weight_bits
        for phase in (PREFILL_STEP, SCHEDULER_STEP):
            if (phase, prefill_bits) in table:
                add(phase, number, np.array([phase]), prefill_bits, prompt)
        start = 0
        for bits, count in sequence.decode_weight_bits:
            steps = np.arange(start, start + count)
            add(DECODE, number, steps, bits, sequence.prompt_tokens + steps)
            start += count
    total = Work()
    for key, indices in used.items():
        times = np.bincount(np.concatenate(indices), minlength=len(table[key].tokens))
        total += table[key].work.weighted(times)
    columns = StepColumns(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)))
    before = columns.step < 0

    def of_sequences(rows: Amount) -> IntArray:
        sums = np.bincount(columns.sequence[rows], weights=columns.cycles[rows], minlength=len(trace.sequences))
        return sums.astype(np.int64)

    return Execution(columns, total, first_token_cycles=of_sequences(before), end_cycles=of_sequences(slice(None)))


def _refuse_batches(trace: Trace) -> None:
    if trace.header.execution == "batched":
        raise InputError("trace execution = 'batched': pmpd-analytic knows one sequence at a time; use 'realistic'")


def simulate(
    npu: NpuConfig,
    shape: ModelShape,
    trace: Trace,
    options: SimulationOptions | None = None,
) -> SimulationResult:
    """Simulate every sequence of ``trace`` on ``npu``, one after another or in batches, as its header says.

    Bits of activations, KV cache and lm_head come from the trace's header. Where its scheduler is ``learned``, that
    one's run behind each prefill is part of the time to the first token.

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
    check_trace(npu, shape, trace)
    engine: Engine = FastEngine() if options.engine == "fast" else EventEngine(exact=options.exact)
    if options.mode == "pmpd-analytic":
        _refuse_batches(trace)
        execution = _collect(trace, _analytic(npu, shape, trace, codebooks=options.analytic_codebooks))
    elif trace.header.execution == "batched":
        execution = run_batches(npu, shape, trace, engine)
    else:
        execution = _collect(trace, _realistic(npu, shape, trace, engine))
    return summarise(
        npu,
        model=shape.name,
        mode=options.mode,
        engine=options.engine if options.mode == "realistic" else "analytic",
        model_mismatch=mismatch,
        execution=execution,
        mean_decode_bits=trace.mean_decode_bits() if trace.decode_steps() else None,
        events=(engine.simulated, engine.memoised),
    )
