"""The error that the simulator showed against published numbers, shipped as a small file with its provenance.

``bittaper study validation`` compares the simulator with real devices and other models; what an answer needs of
its kept results is in ``data/validation_error.json``, written by ``python -m studies.validation.shipped_error``.
An error is predicted / reference - 1.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import Field, FiniteFloat

from dse.objective import METRICS
from hwsim.trace import Record, read_text

DATA_PATH = Path(__file__).parent / "data" / "validation_error.json"


class Point(Record):
    """One comparison of the validation."""

    case: str
    error: FiniteFloat = Field(description="predicted / reference - 1, of the first metric of its basis")


class ErrorBasis(Record):
    """Comparisons of one kind.

    The first basis listed for a mode and metric is the one that margins are judged by. No NPU file of a study is fitted
    to speeds that its machine was measured at, so that is one with nothing fitted, where there is one: in pmpd-analytic
    mode there is none.
    """

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
        """``fast`` or ``slow`` where all predictions were too much so."""
        rate = METRICS[self.metrics[0]].better == "maximize"
        fast = {(point.error > 0) == rate for point in self.points}
        return None if len(fast) > 1 else "fast" if fast.pop() else "slow"

    def __str__(self) -> str:
        size = f"{self.worst:.1%}" if self.n == 1 else f"median {self.median:.1%}, worst {self.worst:.1%}"
        side = "" if self.direction is None else f", {'all ' * (self.n > 1)}too {self.direction}"
        return f"{size}{side} (n = {self.n}, {self.title})"


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


def judged_by(mode: str, metric: str) -> ErrorBasis | None:
    """The basis that margins of a metric are judged by; None where nothing was validated."""
    return next(iter(error_bases(mode, metric)), None)
