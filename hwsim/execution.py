"""Runs a plan on an engine: equal steps once where they are separable, one after another where they are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from hwsim.checks import step_precision
from hwsim.config import NpuConfig
from hwsim.lowering import Lowering
from hwsim.plan import DECODE, PREFILL_STEP, SCHEDULER_STEP, Plan, PlannedStep, StepKind
from hwsim.precision import Precision
from hwsim.prefetch import with_prefetch
from hwsim.program import Carry, Engine, Link, Program, Ran, StallKey, Work
from hwsim.service import Services, build_services
from hwsim.trace import ModelShape, TraceHeader
from hwsim.units import Amount, IntArray, kib
from hwsim.workload import Linear, Step, batch_decode_step, decode_step, learned_scheduler_step, prefill_step


@dataclass(frozen=True, slots=True)
class Part:
    """Steps of one program: what they are, how often each ran, and what their units waited for.

    Attributes:
        kind: Phase and weight bits.
        program: Fields may be arrays, an element per distinct step.
        counts: How often each distinct step ran.
        stalls: Cycles waited in all its runs; null where the engine knows no reasons.
    """

    kind: StepKind
    program: Program
    counts: IntArray
    stalls: Mapping[StallKey, int] | None

    @property
    def work(self) -> Work:
        """Work of all its runs."""
        return self.program.work().weighted(self.counts)


@dataclass(frozen=True)
class Execution:
    """A plan that ran; arrays have one entry per planned step.

    Attributes:
        plan: What ran.
        cycles: From start until all units are drained, prefetches aside.
        dram_bytes: Bytes over the memory buses.
        codebook_bytes: Of them, codebooks.
        thrown_away_bytes: Of them, prefetched for nothing.
        parts: The same work, by program.
        places: By step, its part and the element of that part's program, ``[2, steps]``.
        met: By step, what it found of its predecessor's :class:`hwsim.program.Carry`, ``[3, steps]``.
    """

    plan: Plan
    cycles: IntArray
    dram_bytes: IntArray
    codebook_bytes: IntArray
    thrown_away_bytes: IntArray
    parts: tuple[Part, ...]
    places: IntArray
    met: IntArray

    @cached_property
    def work(self) -> Work:
        """Work of all steps."""
        total = Work()
        for part in self.parts:
            total += part.work
        return total


@dataclass
class StepLowering:
    """Lowers planned steps of one model on one NPU.

    Attributes:
        npu: The hardware.
        shape: The model.
        header: Gives the bits of everything but the weights.
    """

    npu: NpuConfig
    shape: ModelShape
    header: TraceHeader
    _services: Services = field(init=False)

    def __post_init__(self) -> None:
        self._services = build_services(self.npu)

    def program(self, kind: StepKind, tokens: Amount) -> Program:
        """Lower a step, or with an array of tokens many decode steps at once.

        Raises:
            InputError: If a buffer is too small for one tile.
        """
        precision = step_precision(self.npu, self.header, kind.weight_bits)
        step = self._step(kind, tokens, precision, 0)
        if kind.warm and (resident_layers := self._resident_layers(step)):
            step = self._step(kind, tokens, precision, resident_layers)
        return Lowering(self._services, precision, self.shape.hidden_size).program(step)

    def _step(self, kind: StepKind, tokens: Amount, precision: Precision, resident_layers: int) -> Step:
        if kind.members is not None:
            return batch_decode_step(self.shape, precision, kind.members, resident_layers=resident_layers)
        if kind.phase == DECODE:
            return decode_step(self.shape, precision, tokens, resident_layers=resident_layers)
        if kind.phase == PREFILL_STEP:
            return prefill_step(self.shape, precision, tokens, resident_layers=resident_layers)
        return learned_scheduler_step(self.shape, precision, tokens)

    def _resident_layers(self, step: Step) -> int:
        """Leading layers whose codebooks the resident part of the codebook store holds."""
        capacity = kib(self.npu.buffers.resident_codebook_kib)
        linears = [operator for operator in step.runs[0].block if isinstance(operator, Linear)]
        entry_bits = self.npu.matrix.codebook_entry_bits
        layer_bytes = sum(linear.n * sum(linear.codebooks_row_bytes(entry_bits)) for linear in linears)
        return min(capacity // layer_bytes, self.shape.layers) if layer_bytes else 0


def execute(npu: NpuConfig, shape: ModelShape, header: TraceHeader, plan: Plan, engine: Engine) -> Execution:
    """Run ``plan``: its steps on their own, or, where the NPU prefetches across steps, as a chain.

    Everything is lowered, and so checked, before anything runs.

    Raises:
        InputError: If a buffer is too small for one tile.
    """
    lowering = StepLowering(npu, shape, header)
    if npu.control.prefetch == "none":
        return run_separable(plan, lowering.program, engine.steps)
    return _run_chain(plan, lowering, engine)


@dataclass(frozen=True, slots=True)
class _Group:
    """Distinct steps of one program, and which of them each planned step is."""

    kind: StepKind
    program: Program
    distinct: int
    rows: IntArray
    indices: IntArray


Chained = tuple[StepKind | None, StepKind | None]
Key = tuple[StepKind, Chained | None]
"""What steps of one program share: their kind, and what they meet and leave where they are chained."""


def _groups(steps: Sequence[PlannedStep], keys: Sequence[Key], lower: Callable[[Key, Amount], Program]) -> list[_Group]:
    """Lower planned steps, those of equal keys together where they differ in their cached tokens only."""
    rows_of: defaultdict[tuple[Key, int | None], list[int]] = defaultdict(list)
    for row, (step, key) in enumerate(zip(steps, keys, strict=True)):
        many = step.kind.phase == DECODE and step.kind.members is None
        rows_of[key, None if many else step.tokens].append(row)
    groups = []
    for (key, tokens), rows in rows_of.items():
        cached, indices = np.unique([steps[row].tokens for row in rows], return_inverse=True)
        program = lower(key, cached if tokens is None else tokens)
        groups.append(_Group(key[0], program, len(cached), np.array(rows), indices))
    return groups


def _execution(
    plan: Plan, groups: Sequence[_Group], cycles: IntArray, parts: Iterable[Part], met: IntArray | None
) -> Execution:
    names = ("dram_bytes", "codebook_bytes", "thrown_away_bytes")
    sizes = {name: np.zeros(len(plan.steps), dtype=np.int64) for name in names}
    places = np.zeros((2, len(plan.steps)), dtype=np.int64)
    for number, group in enumerate(groups):
        work = group.program.work()
        for name, column in sizes.items():
            column[group.rows] = np.broadcast_to(getattr(work, name), group.distinct)[group.indices]
        places[0, group.rows] = number
        places[1, group.rows] = group.indices
    if met is None:
        met = np.zeros((len(Carry._fields), len(plan.steps)), dtype=np.int64)
    return Execution(plan, cycles, **sizes, parts=tuple(parts), places=places, met=met)


def run_separable(
    plan: Plan, lower: Callable[[StepKind, Amount], Program], run: Callable[[Program, int], Ran]
) -> Execution:
    """Run the distinct steps of ``plan``, each once and from a drained NPU.

    Args:
        plan: The steps.
        lower: Gives the program of a kind of step and its tokens.
        run: Gives the cycles of a program's steps.
    """
    keys: list[Key] = [(step.kind, None) for step in plan.steps]
    groups = _groups(plan.steps, keys, lambda key, tokens: lower(key[0], tokens))
    cycles = np.zeros(len(plan.steps), dtype=np.int64)
    parts = []
    for group in groups:
        ran = run(group.program, group.distinct)
        cycles[group.rows] = ran.cycles[group.indices]
        counts = np.bincount(group.indices, minlength=group.distinct)
        stalls = ran.stalls
        parts.append(_part(group, None if stalls is None else {key: waited * counts for key, waited in stalls.items()}))
    return _execution(plan, groups, cycles, parts, None)


def _part(group: _Group, stalls: Mapping[StallKey, IntArray] | None) -> Part:
    total = None if stalls is None else {key: int(waited.sum()) for key, waited in stalls.items()}
    return Part(group.kind, group.program, np.bincount(group.indices, minlength=group.distinct), total)


def _guesses(plan: Plan, *, planned: bool, resident_codebooks: bool) -> list[StepKind | None]:
    """What each step prefetches for: the decode step that follows it in its batch, as far as that can be known."""
    guesses: list[StepKind | None] = []
    starts = set(plan.starts)
    for row, step in enumerate(plan.steps):
        following = plan.steps[row + 1].kind if row + 1 < len(plan.steps) and row + 1 not in starts else None
        # The learned scheduler's own weights go through the same buffer, and only it says what comes next.
        if following is None or following.phase != DECODE or step.kind.phase == SCHEDULER_STEP:
            guesses.append(None)
        elif planned or following.widths == step.kind.widths:
            guesses.append(following)
        else:
            guesses.append(step.kind._replace(phase=DECODE, warm=resident_codebooks))
    return guesses


def _run_chain(plan: Plan, lowering: StepLowering, engine: Engine) -> Execution:
    planned, resident = lowering.npu.control.prefetch == "planned", lowering.npu.buffers.resident_codebook_kib > 0
    guesses = _guesses(plan, planned=planned, resident_codebooks=resident)
    met = [None, *guesses[:-1]]
    keys: list[Key] = [
        (step.kind, chain) for step, chain in zip(plan.steps, zip(met, guesses, strict=True), strict=True)
    ]
    # Its first weights are all that is prefetched of a step, whatever its tokens.
    first_weights = cache(lambda kind: lowering.program(kind, 1))

    def lower(key: Key, tokens: Amount) -> Program:
        kind, chained = key
        expected, following = chained or (None, None)
        program = lowering.program(kind, tokens)
        return with_prefetch(
            program,
            met=program if expected == kind else first_weights(expected) if expected else None,
            following=first_weights(following) if following else None,
        )

    groups = _groups(plan.steps, keys, lower)
    links: dict[int, Link] = {}
    for group in groups:
        for row, index in zip(group.rows.tolist(), group.indices.tolist(), strict=True):
            links[row] = Link(group.program, index, follows=met[row] is not None)
    ran = engine.chain([links[row] for row in range(len(plan.steps))])
    stalls = ran.stalls
    parts = [
        _part(group, None if stalls is None else {key: waited[group.rows] for key, waited in stalls.items()})
        for group in groups
    ]
    return _execution(plan, groups, ran.cycles, parts, ran.met)
