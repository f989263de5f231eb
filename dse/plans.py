"""What a design runs: a schedule told beforehand, or the plans that a scheduler made prompt by prompt.

A learned scheduler plans from each prompt, so no schedule tells what it does on prompts nobody tried. What it did on
those of an evaluation is known: the quality file has its score, and a trace each response's widths. Together they are
one candidate, timed by replaying the trace as it was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from dse.schedule_space import STATIC
from hwsim.trace import InputError, Schedule, Trace

LABEL_KEY = "scheduler_label"
"""Under which a trace's provenance keeps the label that its quality record has."""


@dataclass(frozen=True)
class RecordedPlan:
    """A scheduler that plans by prompt, as recorded.

    Attributes:
        scheduler: Its registered name, for example ``learned``.
        scheduler_label: Tells it from others of its kind.
        recorded_widths: Every width that some response read.
        mean_decode_bits: Over all decode steps of the first workload's trace.
    """

    scheduler: str
    scheduler_label: str
    recorded_widths: frozenset[int]
    mean_decode_bits: float

    def label(self) -> str:
        """Its name in tables, records and canonical forms."""
        return self.scheduler_label

    def widths(self) -> set[int]:
        """Every width that appears, prefill included."""
        return set(self.recorded_widths)


Plan = Schedule | RecordedPlan
"""What a design may run."""


def scheduler_name(plan: Plan) -> str:
    """Kind of scheduler: ``static``, or the recorded one's name."""
    return plan.scheduler if isinstance(plan, RecordedPlan) else STATIC


def typical_bits(plan: Plan) -> float:
    """A fair order of plans where the number of steps is not known: the mean of the widths of a schedule."""
    if isinstance(plan, RecordedPlan):
        return plan.mean_decode_bits
    return fmean(segment.weight_bits for segment in plan.decode)


def trace_of(scheduler: str, label: str, traces: Sequence[Trace]) -> Trace | None:
    """The trace recorded under a scheduler that plans by prompt, out of a workload's.

    A trace says which scheduler made it, and in its provenance under which label; one without a label belongs to the
    only scheduler of its name.

    Raises:
        InputError: If several would do.
    """
    found = [
        trace
        for trace in traces
        if trace.header.schedule is None
        and trace.header.scheduler == scheduler
        and trace.header.provenance.get(LABEL_KEY, label) == label
    ]
    if len(found) > 1:
        raise InputError(
            f"workloads: {len(found)} traces were recorded under the scheduler '{label}'; keep one of them a workload"
        )
    return found[0] if found else None


def widths_of(trace: Trace) -> set[int]:
    """Every width that a trace's responses read."""
    decode = {bits for sequence in trace.sequences for bits, _ in sequence.decode_weight_bits}
    return decode | {sequence.prefill_weight_bits for sequence in trace.sequences}


def recorded_names(traces: Iterable[Trace]) -> list[tuple[str, str]]:
    """Name and label of every scheduler that planned a trace by prompt."""
    headers = [trace.header for trace in traces if trace.header.schedule is None]
    return [(header.scheduler, header.provenance.get(LABEL_KEY, header.scheduler)) for header in headers]


def recorded_plans(names: Iterable[tuple[str, str]], workloads: Sequence[Sequence[Trace]]) -> dict[str, RecordedPlan]:
    """Plans that every workload recorded.

    Args:
        names: Name and label of the schedulers looked for, for example those whose quality was measured.
        workloads: Recorded traces of each workload.

    Returns:
        By label; schedulers that not every workload has a trace of are missing.

    Raises:
        InputError: If a workload has several traces of one scheduler.
    """
    found: dict[str, RecordedPlan] = {}
    for scheduler, label in dict.fromkeys(names):
        traces = [trace_of(scheduler, label, given) for given in workloads]
        known = [trace for trace in traces if trace is not None]
        if traces and len(known) == len(traces):
            widths = frozenset[int]().union(*(widths_of(trace) for trace in known))
            found[label] = RecordedPlan(scheduler, label, widths, known[0].mean_decode_bits())
    return found
