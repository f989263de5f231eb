"""One row of quality a schedule: scores of several workloads combined, related to a reference, and labelled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dse.interpolation import Estimate
from dse.quality_files import WorkloadTable
from hwsim.trace import Quality

Labels = dict[str, str | int | float | bool]
"""Where a row's numbers come from."""


@dataclass(frozen=True)
class Score:
    """The quality of one schedule on one workload.

    Attributes:
        record: The record, or one of those it was interpolated between, for everything but the numbers.
        value: The score.
        low: Lower end of its 95% interval; None without one.
        high: Upper end.
        n: Prompts; None where a quoted number does not say.
        estimate: How it was interpolated; None where it is the record's own.
        live: Whether the study's command measured it.
    """

    record: Quality
    value: float
    low: float | None
    high: float | None
    n: int | None
    estimate: Estimate | None = None
    live: bool = False

    @classmethod
    def of(cls, record: Quality, *, live: bool = False) -> Score:
        """A record's own score."""
        return cls(record, record.value, record.ci_low, record.ci_high, record.n, live=live)

    @classmethod
    def between(cls, table: WorkloadTable, estimate: Estimate) -> Score:
        """An interpolated score."""
        neighbours = [table.records[label] for label in estimate.neighbours]
        n = fewest(one.n for one in neighbours)
        return cls(neighbours[0], estimate.value, estimate.low, estimate.high, n, estimate)


def fewest(counts: Iterable[int | None]) -> int | None:
    """The least of some numbers of prompts; None where one is not known."""
    known = list(counts)
    return None if None in known else min(count for count in known if count is not None)


def combine_scores(
    row: Sequence[Score],
    references: Sequence[Score | None],
    weights: Sequence[float],
    aggregate: Literal["weighted", "worst"],
) -> dict[str, float]:
    """Combine the workloads' scores of one schedule into metrics.

    Interval ends are combined like the values, which is wider than the true interval of a mean of
    independent measurements. The reference's own uncertainty is left out of the relative ones.

    Args:
        row: Score of each workload.
        references: What each relates to.
        weights: Of the workloads.
        aggregate: Mean by weight, or the worst.
    """
    found: dict[str, float] = {}
    total = math.fsum(weights)
    ascending = row[0].record.direction == "maximize"

    def combine(name: str, values: Sequence[float | None], lower_is_worse: bool) -> None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return
        if aggregate == "worst":
            found[name] = min(known) if lower_is_worse else max(known)
        else:
            found[name] = math.fsum(w * value for w, value in zip(weights, known, strict=True)) / total

    if len({(score.record.metric, score.record.direction) for score in row}) == 1:
        combine("quality", [score.value for score in row], ascending)
        combine("quality_ci_low", [score.low for score in row], ascending)
        combine("quality_ci_high", [score.high for score in row], ascending)
    pairs = [(score, full) for score, full in zip(row, references, strict=True) if full is not None]
    if len(pairs) == len(row) and all(score.value > 0 and full.value > 0 for score, full in pairs):
        combine("relative_quality", [_relative(score.value, full) for score, full in pairs], True)
        for name, end in (("relative_quality_ci_low", 0), ("relative_quality_ci_high", 1)):
            ends = [_relative_interval(score, full) for score, full in pairs]
            combine(name, [None if pair is None else pair[end] for pair in ends], True)
    return found


def _relative(value: float, full: Score) -> float:
    """Ratio to the reference, turned so that lower is worse whatever the metric's direction."""
    return value / full.value if full.record.direction == "maximize" else full.value / value


def _relative_interval(score: Score, full: Score) -> tuple[float, float] | None:
    if score.low is None or score.high is None or min(score.low, score.high) <= 0:
        return None
    ends = sorted(_relative(value, full) for value in (score.low, score.high))
    return ends[0], ends[1]


def row_labels(row: Sequence[Score], references: Sequence[Score | None]) -> Labels:
    """Say of a row what was measured, on what, by whom, and what was interpolated."""
    records = [score.record for score in row]

    def join(field: str) -> str:
        return "+".join(dict.fromkeys(str(getattr(record, field)) for record in records))

    labels: Labels = {
        "quality_metric": join("metric"),
        "quality_model": join("model_name"),
        "quality_task": join("task"),
        "quality_split": join("split"),
        "quality_source": "+".join(dict.fromkeys("live" if score.live else score.record.source for score in row)),
        "quality_reference": "+".join(
            dict.fromkeys("none" if one is None else one.record.scheduler_label for one in references)
        ),
    }
    if (n := fewest(score.n for score in row)) is not None:
        labels["quality_n"] = n
    citations = dict.fromkeys(record.citation for record in records if record.citation)
    if citations:
        labels["quality_citation"] = "; ".join(citations)
    estimates = [score.estimate for score in row if score.estimate is not None]
    labels["quality_interpolated"] = bool(estimates)
    if estimates:
        labels["quality_interpolation_error"] = max(estimate.error for estimate in estimates)
        labels["quality_interpolation_n"] = min(estimate.comparisons for estimate in estimates)
    return labels


def reference_scores(tables: Sequence[WorkloadTable]) -> list[Score | None]:
    """What each workload's relative quality relates to."""
    return [None if one.reference is None else Score.of(one.records[one.reference]) for one in tables]
