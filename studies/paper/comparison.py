"""What a result of the paper becomes here: its numbers beside ours, the tables behind them, and why they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

DIGITS = 9
"""Of a difference: what lies beyond is how floats are stored."""
Kind = Literal["measured", "simulated", "derived", "quoted"]


@dataclass(frozen=True)
class Comparison:
    """One number of the paper beside ours.

    Attributes:
        case: Of what, for example a model and a task.
        quantity: What the number says.
        unit: Its unit.
        paper: The printed value; None where the paper prints none.
        paper_basis: On what: model, data, how many cases.
        ours: Our value; None where there is none.
        our_basis: On what.
        kind: How ours came about.
        same_subject: Whether both are of the same model and data, so that their difference is an error; where they are
            not, they stand beside each other and no difference is taken.
        ci_low: Lower end of our 95% interval, where it has one.
        ci_high: Upper end.
        n: Units that our value is over; None for a value of a model that has no spread.
        headline: Whether a short table shows it.
    """

    case: str
    quantity: str
    unit: str
    paper: float | None
    paper_basis: str
    ours: float | None
    our_basis: str
    kind: Kind
    same_subject: bool
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    headline: bool = False

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, where both are of the same subject."""
        if not self.same_subject or self.paper is None or self.ours is None:
            return None
        return round(self.ours - self.paper, DIGITS) + 0.0  # not -0

    def to_row(self) -> dict[str, Any]:
        """As one row of a table."""
        return {**asdict(self), "difference": self.difference}


@dataclass
class Found:
    """What one result gave.

    Attributes:
        comparisons: The paper's values beside ours.
        tables: Further rows by table name.
        facts: Numbers and words about the run (n, seed, model, hashes).
        provenance: Of measurements that were made elsewhere and only read here.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    tables: dict[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
