"""The rows that the study writes: values with intervals, and paired comparisons with what they say of a claim."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from accuracy.statistics import LOSSLESS_TOLERANCE, Interval
from studies.pmpd.bench import SEED, Measured

EQUAL_BITS = 0.02
"""Two methods read equally many bits if their means differ by no more than this."""


@dataclass
class Tables:
    """Everything that was measured, in long form.

    Attributes:
        scores: One row per model, experiment, method and metric.
        comparisons: One row per paired comparison.
        notes: What could not be measured and why.
    """

    scores: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a row belongs: model, result of the paper, pair of widths."""

    model: str
    experiment: str
    pair: str

    def add(self, tables: Tables, measured: Measured, high: Measured) -> None:
        """Add a method's values, and its paired differences to the high width alone."""
        for metric, value in measured.scores.items():
            tables.scores.append(
                {
                    **asdict(self),
                    "method": measured.method,
                    "schedule": measured.label,
                    "mean_bits": round(measured.mean_bits, 4),
                    "metric": metric,
                    **_columns(value),
                    **{f"minus_high_{name}": end for name, end in _ends(measured.minus(high, metric)).items()},
                }
            )

    def compare(self, tables: Tables, claim: str, ours: Measured, theirs: Measured, metric: str) -> None:
        """Add a paired difference and whether the claim that ours is better holds."""
        difference = ours.minus(theirs, metric)
        self._add(tables, claim, ours, theirs.method, theirs.mean_bits, metric, difference, verdict(difference))

    def compare_lossless(self, tables: Tables, claim: str, ours: Measured, theirs: Measured, metric: str) -> None:
        """Add a paired relative difference and whether the claim holds that ours loses less than 1%."""
        difference = ours.minus(theirs, metric, relative=True)
        shifted = Interval(
            difference.value + LOSSLESS_TOLERANCE,
            difference.low + LOSSLESS_TOLERANCE,
            difference.high + LOSSLESS_TOLERANCE,
            difference.n,
        )
        self._add(
            tables, claim, ours, theirs.method, theirs.mean_bits, metric, difference, verdict(shifted), relative=True
        )

    def compare_with(
        self,
        tables: Tables,
        claim: str,
        ours: Measured,
        theirs: tuple[str, float],
        metric: str,
        difference: Interval,
    ) -> None:
        """Add a difference that was computed elsewhere, to ``theirs`` (method, mean bits)."""
        self._add(tables, claim, ours, *theirs, metric, difference, verdict(difference))

    def _add(
        self,
        tables: Tables,
        claim: str,
        ours: Measured,
        other: str,
        other_bits: float,
        metric: str,
        difference: Interval,
        says: str,
        *,
        relative: bool = False,
    ) -> None:
        tables.comparisons.append(
            {
                **asdict(self),
                "claim": claim,
                "method": ours.method,
                "against": other,
                "mean_bits": round(ours.mean_bits, 4),
                "against_mean_bits": round(other_bits, 4),
                "equal_bits": abs(ours.mean_bits - other_bits) <= EQUAL_BITS,
                "metric": metric,
                "relative": relative,
                **_columns(difference),
                "verdict": says,
            }
        )


def verdict(difference: Interval) -> str:
    """What a paired interval says of the claim that the difference is positive.

    >>> verdict(Interval(1.0, 0.2, 1.8, 10)), verdict(Interval(0.1, -0.2, 0.4, 10)), verdict(Interval(-1, -2, -0.1, 10))
    ('holds', 'not resolved', 'contradicted')
    """
    if difference.low > 0:
        return "holds"
    return "contradicted" if difference.high < 0 else "not resolved"


def _columns(one: Interval) -> dict[str, Any]:
    return {
        **_ends(one),
        "n": one.n,
        "seed": SEED,
    }


def _ends(one: Interval) -> dict[str, float]:
    return {"value": round(one.value, 5), "ci_low": round(one.low, 5), "ci_high": round(one.high, 5)}
