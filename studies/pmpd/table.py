"""The rows that the study writes: values with intervals, and paired comparisons with what they say of a claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from accuracy.statistics import LOSSLESS_TOLERANCE, Interval
from hwsim.trace import InputError
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
        """Add a paired difference, for the claim that ours is better."""
        self._add(tables, claim, ours, (theirs.method, theirs.mean_bits), metric, ours.minus(theirs, metric))

    def compare_lossless(self, tables: Tables, claim: str, ours: Measured, theirs: Measured, metric: str) -> None:
        """Add a paired relative difference, for the claim that ours loses less than 1%, or a note why there is none."""
        try:
            difference = ours.minus(theirs, metric, relative=True)
        except InputError as error:
            tables.notes.append({**asdict(self), "note": f"{claim}, {metric}: {error}"})
            return
        self._add(tables, claim, ours, (theirs.method, theirs.mean_bits), metric, difference, relative=True)

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
        self._add(tables, claim, ours, theirs, metric, difference)

    def _add(
        self,
        tables: Tables,
        claim: str,
        ours: Measured,
        theirs: tuple[str, float],
        metric: str,
        difference: Interval,
        *,
        relative: bool = False,
    ) -> None:
        other, other_bits = theirs
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
            }
        )


def verdict(row: Mapping[str, Any]) -> str:
    """What a comparison's paired interval says of its claim.

    A relative difference belongs to the claim that nothing is lost (more than -1%), any other to the claim that ours is
    better. Where both did the same on every prompt, there is nothing to resolve.

    >>> verdict({"relative": False, "ci_low": 0.2, "ci_high": 1.8})
    'holds'
    >>> verdict({"relative": True, "ci_low": -0.005, "ci_high": 0.1})
    'holds'
    """
    low, high = row["ci_low"], row["ci_high"]
    if low == high == 0 and not row["relative"]:
        return "the same"
    bound = -LOSSLESS_TOLERANCE if row["relative"] else 0.0
    if low > bound:
        return "holds"
    return "contradicted" if high < bound else "not resolved"


def _columns(one: Interval) -> dict[str, Any]:
    return {
        **_ends(one),
        "n": one.n,
        "seed": SEED,
    }


def _ends(one: Interval) -> dict[str, float]:
    return {"value": round(one.value, 5), "ci_low": round(one.low, 5), "ci_high": round(one.high, 5)}
