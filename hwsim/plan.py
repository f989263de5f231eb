"""The steps of a trace in the order they run, one sequence after another or batch after batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from hwsim.checks import LEARNED_SCHEDULER
from hwsim.trace import FULL_PRECISION_BITS, Trace

PREFILL_STEP = -1
SCHEDULER_STEP = -2
DECODE = 0
PHASES = {PREFILL_STEP: "prefill", SCHEDULER_STEP: "scheduler", DECODE: "decode"}

Members = tuple[tuple[int, int], ...]
"""Weight bits and cached tokens of each sequence in a decode step."""


class StepKind(NamedTuple):
    """What steps have in common that differ in one number only: the prompt's or the cached tokens.

    Attributes:
        phase: ``PREFILL_STEP``, ``SCHEDULER_STEP`` or ``DECODE``.
        weight_bits: Highest width read.
        warm: The step before read the same codebooks, so those that stay on chip need not be read.
        members: Of a decode step of several sequences; null for one.
    """

    phase: int
    weight_bits: int
    warm: bool = False
    members: Members | None = None

    @property
    def widths(self) -> frozenset[int]:
        """All weight widths of the step."""
        return frozenset([self.weight_bits] if self.members is None else [bits for bits, _ in self.members])

    @property
    def codebooks(self) -> frozenset[int]:
        """Widths whose codebooks it looks up."""
        return frozenset() if self.phase == SCHEDULER_STEP else self.widths - {FULL_PRECISION_BITS}


class PlannedStep(NamedTuple):
    """One step.

    Attributes:
        kind: What it shares with others.
        tokens: Prompt tokens of a prefill or scheduler's run, cached tokens of a decode step; 0 for several.
        sequence: Index in the trace; for a batch, of its first sequence still decoding.
        step: Decode step, or the phase.
        yields: Tokens it makes.
        context: As ``tokens``, summed over a batch.
        switched_from: Weight bits of the step before, if it was a step of the same sequence or batch at others.
    """

    kind: StepKind
    tokens: int
    sequence: int
    step: int
    yields: int
    context: int
    switched_from: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order they run.

    Attributes:
        steps: All of them.
        starts: Rows in ``steps`` where a batch (or a sequence, where they run one after another) starts.
        start_rows: By sequence, where its batch starts.
        first_token_rows: By sequence, the step that ends with its first token.
        end_rows: By sequence, its last step.
    """

    steps: tuple[PlannedStep, ...]
    starts: tuple[int, ...]
    start_rows: tuple[int, ...]
    first_token_rows: tuple[int, ...]
    end_rows: tuple[int, ...]

    @property
    def switch_rows(self) -> list[int]:
        """Rows whose weight bits differ from the row before in the same sequence or batch."""
        return [row for row, step in enumerate(self.steps) if step.switched_from is not None]

    def with_warm_switches(self) -> Plan:
        """The same steps, had the codebooks of every new width been on chip already."""
        steps = [
            step._replace(kind=step.kind._replace(warm=True)) if step.switched_from else step for step in self.steps
        ]
        return replace(self, steps=tuple(steps))


@dataclass(frozen=True, slots=True)
class BatchStep:
    """One decode step of a batch: the sequences that take part, by index in the trace, and what each needs."""

    step: int
    sequences: tuple[int, ...]
    members: Members


def batches_of(trace: Trace) -> list[list[int]]:
    """Indices of the sequences that run together, in the order of first appearance: one each if sequential."""
    if trace.header.execution == "sequential":
        return [[index] for index in range(len(trace.sequences))]
    batches: defaultdict[int, list[int]] = defaultdict(list)
    for index, sequence in enumerate(trace.sequences):
        batches[sequence.batch_id].append(index)
    return list(batches.values())


def decode_steps_of(trace: Trace, batch: Sequence[int]) -> Iterator[BatchStep]:
    """Decode steps of one batch; sequences that are done have dropped out."""
    widths = {index: trace.sequences[index].expand() for index in batch}
    for step in range(max(len(bits) for bits in widths.values())):
        decoding = tuple(index for index in batch if step < len(widths[index]))
        members = tuple((widths[index][step], trace.sequences[index].prompt_tokens + step) for index in decoding)
        yield BatchStep(step, decoding, members)


def plan_steps(trace: Trace, *, resident_codebooks: bool = False) -> Plan:
    """Line up the steps of ``trace``.

    In a batch the prefills run first, one by one, each at its own width and with the learned scheduler's run behind it
    if there is one; then all sequences decode in step, and those that are done drop out.

    Args:
        trace: The trace.
        resident_codebooks: Whether codebooks can stay on chip, so that it matters which the step before read.
    """
    steps: list[PlannedStep] = []
    starts: list[int] = []
    count = len(trace.sequences)
    start_rows, first_rows, end_rows = [0] * count, [0] * count, [0] * count
    learned = trace.header.scheduler == LEARNED_SCHEDULER
    codebooks: frozenset[int] = frozenset()

    def add(step: PlannedStep) -> None:
        nonlocal codebooks
        needed = step.kind.codebooks
        warm = resident_codebooks and bool(needed) and needed == codebooks
        steps.append(step._replace(kind=step.kind._replace(warm=warm)))
        codebooks = needed or codebooks

    for batch in batches_of(trace):
        starts.append(len(steps))
        before = None
        for index in batch:
            sequence = trace.sequences[index]
            prompt, bits = sequence.prompt_tokens, sequence.prefill_weight_bits
            start_rows[index] = starts[-1]
            for phase in (PREFILL_STEP, SCHEDULER_STEP) if learned else (PREFILL_STEP,):
                yields = int(phase == PREFILL_STEP)
                add(PlannedStep(StepKind(phase, bits), prompt, index, phase, yields, prompt))
            first_rows[index] = end_rows[index] = len(steps) - 1
            before = bits
        for step, decoding, members in (
            (one.step, one.sequences, one.members) for one in decode_steps_of(trace, batch)
        ):
            bits = max(width for width, _ in members)
            alone = len(members) == 1
            kind = StepKind(DECODE, bits, members=None if alone else members)
            context = sum(cached for _, cached in members)
            switched = before if before != bits else None
            tokens = context if alone else 0
            add(PlannedStep(kind, tokens, decoding[0], step, len(decoding), context, switched))
            before = bits
            for index in decoding:
                end_rows[index] = len(steps) - 1
    return Plan(tuple(steps), tuple(starts), tuple(start_rows), tuple(first_rows), tuple(end_rows))
