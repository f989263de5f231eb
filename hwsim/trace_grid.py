"""Many NPUs times many traces at once, by the fast engine: what an exploration of 10^6 designs needs.

Steps are separable, so the cycles of a trace are the sum over its distinct steps of how often each runs times what it
takes. The steps of all traces are run once for all NPUs; each trace then costs a product of two matrices, of integers
and exact. Energy is that of the summed work, as in :mod:`hwsim.metrics`, so every number is the one that
:func:`hwsim.simulate` gives for the pair.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwsim.checks import LEARNED_SCHEDULER, check_fit, step_precision
from hwsim.config import NpuConfig
from hwsim.cost import work_energy_j
from hwsim.npu_table import NpuTable
from hwsim.plan import DECODE, PREFILL_STEP, SCHEDULER_STEP
from hwsim.program import TRAFFIC_FIELDS, Work
from hwsim.stacked_steps import NpuStacks, StackedSteps, StepKey
from hwsim.trace import FULL_PRECISION_BITS, InputError, ModelShape, Trace
from hwsim.units import IntArray

FloatArray = NDArray[np.float64]

EXACT_FLOAT = 1 << 53
"""Integers below this are floats too, and so are their sums and products: floats multiply matrices faster."""

_SUMMED = (
    *TRAFFIC_FIELDS.values(),
    "second_bytes",
    "mac_ops",
    "sparse_mac_ops",
    "lookup_bits",
    "sfu_ops",
    "sram_bytes",
)
"""Work that bytes and energy come from; NPUs of one stack do the same."""


class Steps(Protocol):
    """Runs single steps of NPUs.

    Attributes:
        stacks: Rows of NPUs that do the same work.
    """

    @property
    def stacks(self) -> Sequence[NDArray[np.intp]]:
        """Rows of NPUs that do the same work."""

    def cycles(self, key: StepKey, tokens: IntArray, rows: NDArray[np.intp]) -> IntArray:
        """Cycles ``[rows, steps]``; -1 where a step cannot run."""

    def work(self, key: StepKey, tokens: IntArray, row: int) -> Work:
        """Work of the steps."""

    def monotone_from(self, key: StepKey, tokens: IntArray, row: int) -> NDArray[np.bool_]:
        """Which steps are known to take no longer than any later one."""


@dataclass(frozen=True)
class TraceCounts:
    """How often each step of a sequential trace runs.

    Attributes:
        trace: The trace.
        once: Of each prefill and each run of the learned scheduler.
        decode: By width, the fewest cached tokens and how often steps of these and more run.
    """

    trace: Trace
    once: Mapping[StepKey, int]
    decode: Mapping[int, tuple[int, IntArray]]

    @classmethod
    def of(cls, trace: Trace) -> TraceCounts:
        """Count the steps of ``trace``."""
        assert trace.header.execution == "sequential", "steps of a batch have members, not a number of tokens"
        once: Counter[StepKey] = Counter()
        starts: defaultdict[int, Counter[int]] = defaultdict(Counter)
        phases = (PREFILL_STEP, SCHEDULER_STEP) if trace.header.scheduler == LEARNED_SCHEDULER else (PREFILL_STEP,)
        for sequence in trace.sequences:
            once.update(StepKey(phase, sequence.prefill_weight_bits, sequence.prompt_tokens) for phase in phases)
            cached = sequence.prompt_tokens
            for bits, count in sequence.decode_weight_bits:
                starts[bits][cached] += 1
                starts[bits][cached + count] -= 1
                cached += count
        decode = {}
        for bits, changes in starts.items():
            first, end = min(changes), max(changes)
            steps = np.zeros(end - first + 1, dtype=np.int64)
            for cached, change in changes.items():
                steps[cached - first] = change
            decode[bits] = first, np.cumsum(steps)[:-1]
        return cls(trace, once, decode)

    @cached_property
    def widths(self) -> frozenset[int]:
        """All weight widths."""
        return frozenset({key.weight_bits for key in self.once} | self.decode.keys())

    def largest_cache(self, npu: NpuConfig) -> int:
        """Most tokens of keys and values that a sequence needs."""
        precision = step_precision(npu, self.trace.header, FULL_PRECISION_BITS)
        lengths = {(sequence.prompt_tokens, sequence.decode_steps) for sequence in self.trace.sequences}
        return max(precision.cache_tokens(prompt, steps) for prompt, steps in lengths)

    def fits_context(self, shape: ModelShape) -> bool:
        """Whether the model holds every sequence."""
        lengths = [sequence.prompt_tokens + sequence.decode_steps for sequence in self.trace.sequences]
        return 0 < max(lengths, default=0) <= shape.max_context


@dataclass(frozen=True)
class TraceGrid:
    """One row per NPU, one column per trace; totals over a trace's sequences.

    Attributes:
        runs: Where the NPU can run the trace; :func:`hwsim.simulate` says why it cannot elsewhere, where the
            numbers mean nothing.
        prefill_cycles: Of all prefills.
        scheduler_cycles: Of all runs of the learned scheduler behind them.
        decode_cycles: Of all decode steps.
        dram_bytes: Over the memory buses.
        work_j: Energy of the work; the static energy is beside it.
    """

    runs: NDArray[np.bool_]
    prefill_cycles: IntArray
    scheduler_cycles: IntArray
    decode_cycles: IntArray
    dram_bytes: IntArray
    work_j: FloatArray


def evaluate_traces(
    table: NpuTable,
    shape: ModelShape,
    traces: Sequence[TraceCounts],
    *,
    steps: Steps | None = None,
    samples: int | None = None,
) -> TraceGrid:
    """Run every trace on every NPU.

    Args:
        table: NPUs, for the fast engine each :func:`hwsim.stacked_steps.is_separable`.
        shape: The model.
        traces: Traces that agree in the bits of everything but the weights.
        steps: What runs single steps; by default the fast engine.
        samples: Run only so many steps of each width and count the steps between two of them as the shorter one:
            a lower bound of the decode cycles. Null: every step, exactly.
    """
    header = traces[0].trace.header
    if steps is None:
        steps = StackedSteps(NpuStacks(table), shape, header)
    size = len(table), len(traces)
    runs = _fits(table, shape, traces)
    cycles = {phase: np.zeros(size, dtype=np.int64) for phase in (PREFILL_STEP, SCHEDULER_STEP, DECODE)}
    moved, work_j = np.zeros(size, dtype=np.int64), np.zeros(size)
    keys = _keys(traces)
    technology = technologies(table)
    for rows in steps.stacks:
        work = {name: np.zeros(len(traces), dtype=np.int64) for name in _SUMMED}
        for key, (tokens, counts) in keys.items():
            used, shares = (tokens, counts) if samples is None else _sampled(steps, key, tokens, counts, rows, samples)
            taken = steps.cycles(key, used, rows)
            failed = taken[:, 0] < 0
            if failed.any():
                runs[np.ix_(rows[failed], counts.any(axis=0))] = False
            if failed.all():
                continue
            cycles[key.phase][rows] += _exact_product(taken, shares)
            done = steps.work(key, tokens, int(rows[np.argmin(failed)]))
            for name in _SUMMED:
                work[name] += np.broadcast_to(getattr(done, name), tokens.shape) @ counts
        total = Work(**work)
        moved[rows] = total.dram_bytes
        for same in np.unique(technology[rows]).tolist():
            chosen = rows[technology[rows] == same]
            work_j[chosen] = sum(work_energy_j(table.npu(int(chosen[0])), total).values())
    return TraceGrid(runs, cycles[PREFILL_STEP], cycles[SCHEDULER_STEP], cycles[DECODE], moved, work_j)


def _keys(traces: Sequence[TraceCounts]) -> dict[StepKey, tuple[IntArray, IntArray]]:
    """By kind of step its tokens, and how often each trace runs each, ``[steps, traces]``."""
    found: dict[StepKey, tuple[IntArray, IntArray]] = {}
    for key in sorted({key for trace in traces for key in trace.once}, key=_order):
        found[key] = np.zeros(1, dtype=np.int64), np.array([[trace.once.get(key, 0) for trace in traces]])
    for bits in sorted({bits for trace in traces for bits in trace.decode}):
        spans = [trace.decode[bits] for trace in traces if bits in trace.decode]
        low, high = min(first for first, _ in spans), max(first + len(steps) for first, steps in spans)
        counts = np.zeros((high - low, len(traces)), dtype=np.int64)
        for column, trace in enumerate(traces):
            if bits in trace.decode:
                first, steps = trace.decode[bits]
                counts[first - low : first - low + len(steps), column] = steps
        run = np.flatnonzero(counts.any(axis=1))
        found[StepKey(DECODE, bits)] = low + run, counts[run]
    return found


def _order(key: StepKey) -> tuple[int, int, int]:
    return key.phase, key.weight_bits, key.prompt_tokens


def _sampled(
    steps: Steps, key: StepKey, tokens: IntArray, counts: IntArray, rows: NDArray[np.intp], samples: int
) -> tuple[IntArray, IntArray]:
    """Some of the steps, and how often they run if each also stands for those up to the next one."""
    if key.phase != DECODE or len(tokens) <= samples:
        return tokens, counts
    wanted = tokens[np.linspace(0, len(tokens), samples, endpoint=False).astype(int)]
    # One token less where the steps wanted are not known to be shorter than all that follow.
    wanted = wanted - ~steps.monotone_from(key, wanted, int(rows[0]))
    if not (steps.monotone_from(key, wanted, int(rows[0])).all() and wanted[0] >= 1):
        return tokens, counts
    wanted = np.unique(wanted)
    stands_for = np.searchsorted(wanted, tokens, side="right") - 1
    shares = np.zeros((len(wanted), counts.shape[1]), dtype=np.int64)
    np.add.at(shares, stands_for, counts)
    return wanted, shares


def _exact_product(cycles: IntArray, counts: IntArray) -> IntArray:
    """Product of integer matrices; of floats where they hold all sums."""
    if int(cycles.max()) * int(counts.sum(axis=0).max()) < EXACT_FLOAT:
        product: IntArray = np.rint(cycles.astype(float) @ counts.astype(float)).astype(np.int64)
        return product
    return np.asarray(np.matmul(cycles, counts), dtype=np.int64)


def _fits(table: NpuTable, shape: ModelShape, traces: Sequence[TraceCounts]) -> NDArray[np.bool_]:
    """Where the NPU has the widths and the memory for a trace and the model its context, ``[NPUs, traces]``."""
    npus, kind = table.combinations("matrix", "control", "memory", "second_memory")
    known: dict[Hashable, int] = {}
    columns: list[NDArray[np.bool_]] = []
    numbers = []
    contexts = [trace.fits_context(shape) for trace in traces]
    for npu in npus:
        key = _fit_key(npu)
        if key not in known:
            known[key] = len(known)
            checked: dict[Hashable, bool] = {}
            row = []
            for trace, context in zip(traces, contexts, strict=True):
                need = trace.widths, trace.largest_cache(npu) if context else 0
                if need not in checked:
                    checked[need] = context and _fit(npu, shape, trace, need[1])
                row.append(context and checked[need])
            columns.append(np.array(row))
        numbers.append(known[key])
    found: NDArray[np.bool_] = np.array(columns)[np.array(numbers)[kind]]
    return found


def _fit(npu: NpuConfig, shape: ModelShape, trace: TraceCounts, cached_tokens: int) -> bool:
    try:
        check_fit(npu, shape, trace.trace.header, set(trace.widths), cached_tokens)
    except InputError:
        return False
    return True


def _fit_key(npu: NpuConfig) -> Hashable:
    """All of an NPU that :func:`hwsim.checks.check_fit` depends on."""
    matrix, second, control = npu.matrix, npu.second_memory, npu.control
    return (
        (matrix.weight_widths, matrix.codebook_entry_bits, matrix.bit_serial),
        None if matrix.sparsity is None else matrix.sparsity.model_dump_json(),
        (control.prefill_bucket_tokens, control.decode_bucket_tokens),
        npu.memory.capacity_bytes,
        None if second is None else (second.capacity_bytes, second.holds),
    )


def technologies(table: NpuTable) -> NDArray[np.intp]:
    """Number of all that the energy of some work depends on, ``[NPUs]``."""

    def key(npu: NpuConfig) -> Hashable:
        matrix, second = npu.matrix, npu.second_memory
        return (
            npu.cost.node,
            npu.cost.dram,
            None if second is None else second.technology,
            (matrix.activation_bits, matrix.bit_serial, matrix.codebook_entry_bits),
            None if matrix.sparsity is None else matrix.sparsity.group,
        )

    return table.classify(key, "matrix", "cost", "second_memory")[1]
