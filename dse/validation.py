"""The error that the simulator showed against published numbers, shipped as a small file with its provenance.

``bittaper study validation`` compares the simulator with real devices and other models; what an answer needs of
its kept results is in ``data/validation_error.json``, written by ``python -m studies.validation.shipped_error``.
An error is predicted / reference - 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field, FiniteFloat

from dse.objective import METRICS
from hwsim.trace import Record, read_text

if TYPE_CHECKING:
    import pandas as pd

Values = TypeVar("Values", "float", "pd.Series[float]")

DATA_PATH = Path(__file__).parent / "data" / "validation_error.json"


class Point(Record):
    """One comparison of the validation."""

    case: str
    error: FiniteFloat = Field(gt=-1, description="predicted / reference - 1, of the first metric of its basis")


class ErrorBasis(Record):
    """Comparisons of one kind; :class:`ErrorRange` says which of them judge."""

    mode: Literal["realistic", "pmpd-analytic"]
    metrics: tuple[str, ...] = Field(min_length=1, description="Metrics the comparisons speak for.")
    title: str = Field(description="What was compared.")
    fitted: bool = Field(description="Whether constants were fitted to other numbers of the same machine.")
    points: tuple[Point, ...] = Field(min_length=1)

    @property
    def n(self) -> int:
        """Number of comparisons."""
        return len(self.points)

    @property
    def median(self) -> float:
        """Median absolute error."""
        return median(abs(point.error) for point in self.points)

    @property
    def worst(self) -> float:
        """Largest absolute error."""
        return max(abs(point.error) for point in self.points)

    def of(self, metric: str) -> ErrorBasis:
        """The same of one of its metrics alone: a rate that is 25% too high is a time that is 20% too short."""
        if METRICS[metric].better == METRICS[self.metrics[0]].better:
            return self.model_copy(update={"metrics": (metric,)})
        points = tuple(Point(case=point.case, error=1 / (1 + point.error) - 1) for point in self.points)
        return self.model_copy(update={"metrics": (metric,), "points": points})

    @property
    def direction(self) -> str | None:
        """``fast`` or ``slow`` (of a time ``short`` or ``long``) where all predictions were too much so."""
        above = {point.error > 0 for point in self.points}
        return None if len(above) > 1 else _side(self, above.pop())

    def __str__(self) -> str:
        size = f"{self.worst:.1%}" if self.n == 1 else f"median {self.median:.1%}, worst {self.worst:.1%}"
        side = "" if self.direction is None else f", {'all ' * (self.n > 1)}too {self.direction}"
        return f"{size}{side} (n = {self.n}, {self.title})"


def _side(basis: ErrorBasis, above: bool) -> str:
    """What a prediction that is above, or below, the reference is too much of."""
    high, low = ("fast", "slow") if METRICS[basis.metrics[0]].better == "maximize" else ("long", "short")
    return high if above else low


@dataclass(frozen=True)
class ErrorRange:
    """How far off the simulator may be in one metric, each way: what bars and doubts are drawn from.

    The rule: every comparison with nothing fitted judges, of whichever basis, since no NPU file of a study is fitted to
    speeds that its machine was measured at. Where there is none, as in pmpd-analytic mode, all judge. An error is
    predicted / true - 1, so the true value lies between value / (1 + largest error) and value / (1 + smallest error);
    0 is always among the errors, since a simulator that was only ever seen too fast may be right.

    Attributes:
        bases: Those that judge, all of one metric.
    """

    bases: tuple[ErrorBasis, ...]

    @classmethod
    def judging(cls, bases: Sequence[ErrorBasis]) -> ErrorRange | None:
        """The rule above, for the bases of one metric; None where there is none."""
        unfitted = tuple(basis for basis in bases if not basis.fitted)
        return cls(unfitted or tuple(bases)) if bases else None

    @property
    def smallest(self) -> float:
        """The error furthest below 0; 0 where none is below."""
        return min(0.0, *(point.error for basis in self.bases for point in basis.points))

    @property
    def largest(self) -> float:
        """The error furthest above 0; 0 where none is above."""
        return max(0.0, *(point.error for basis in self.bases for point in basis.points))

    def true_low(self, value: Values) -> Values:
        """The least that a simulated value, or each of several, may be in truth."""
        return value / (1 + self.largest)

    def true_high(self, value: Values) -> Values:
        """The most that a simulated value, or each of several, may be in truth."""
        return value / (1 + self.smallest)

    @property
    def n(self) -> int:
        """Number of comparisons that judge."""
        return sum(basis.n for basis in self.bases)

    def describe(self, error: float) -> str:
        """One of the two ends in words, with the basis that showed it."""
        basis = self._basis(error)
        return f"{self._size(error)} (n = {basis.n}, {basis.title})"

    def brief(self) -> str:
        """Both ends in words."""
        return self._together(self._size(error) for error in self._ends())

    def __str__(self) -> str:
        return self._together(self.describe(error) for error in self._ends())

    def _ends(self) -> list[float]:
        return [error for error in (self.largest, self.smallest) if error]

    def _basis(self, error: float) -> ErrorBasis:
        return next(basis for basis in self.bases if any(point.error == error for point in basis.points))

    def _size(self, error: float) -> str:
        return f"{abs(error):.1%} too {_side(self._basis(error), error > 0)}"

    def _together(self, ends: Iterable[str]) -> str:
        return f"{'up to ' * (self.n > 1)}{' and '.join(ends) or 'nothing'}"


class ValidationErrors(Record):
    """The file: every basis, and the results they were taken from."""

    schema_version: Literal["1.0"] = "1.0"
    study: str
    results_sha256: dict[str, str] = Field(description="Hash of each results file that was read.")
    commit: str = Field(description="Of the run that wrote these results.")
    created_utc: str
    bases: tuple[ErrorBasis, ...]


@cache
def validation_errors() -> ValidationErrors:
    """The shipped file."""
    return ValidationErrors.model_validate_json(read_text(DATA_PATH))


def error_bases(mode: str, metric: str) -> tuple[ErrorBasis, ...]:
    """What validation says of a metric in a modelling mode; empty where it says nothing."""
    return tuple(
        basis.of(metric) for basis in validation_errors().bases if basis.mode == mode and metric in basis.metrics
    )


def judged_by(mode: str, metric: str) -> ErrorRange | None:
    """The errors that bars and margins of a metric are judged by; None where nothing was validated."""
    return ErrorRange.judging(error_bases(mode, metric))
