"""What a check yields: rows with a verdict, the parameters that were fitted, and a table for its figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from studies.common.output import write_rows

Verdict = Literal["pass", "fail", "shown"]
Cell = str | int | float | bool | None
DATA = resources.files("studies.validation") / "data"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        check: Which check, as in the study's README.
        case: What was compared.
        unit: Of ``predicted`` and ``reference``.
        predicted: What the simulator says.
        reference: What it is held against.
        error: ``predicted / reference - 1``; the difference where the reference is 0.
        demand: What must hold for a pass; empty where nothing is demanded.
        bound: Largest size of ``error``, where the demand names one.
        verdict: ``pass`` or ``fail``, or ``shown`` where nothing is demanded.
        fitted: Parameters that were fitted for this row, with values; empty where none were.
    """

    check: str
    case: str
    unit: str
    predicted: float
    reference: float
    error: float
    demand: str
    bound: float | None
    verdict: Verdict
    fitted: str = ""


@dataclass(frozen=True)
class Fitted:
    """One fitted parameter: its value and the numbers it was fitted to."""

    check: str
    name: str
    value: float
    unit: str
    fitted_to: str


@dataclass(frozen=True)
class Outcome:
    """What one check found; ``details`` is the table behind its figure."""

    rows: list[Row]
    details: list[dict[str, Cell]]
    fitted: list[Fitted] = field(default_factory=list)


def _error(predicted: float, reference: float) -> float:
    return predicted / reference - 1 if reference else predicted


def _row(
    check: str,
    case: str,
    unit: str,
    predicted: float,
    reference: float,
    *,
    demand: str,
    holds: bool,
    bound: float | None,
    fitted: str,
) -> Row:
    verdict: Verdict = "pass" if holds else "fail"
    return Row(check, case, unit, predicted, reference, _error(predicted, reference), demand, bound, verdict, fitted)


def within(check: str, case: str, unit: str, predicted: float, reference: float, bound: float, fitted: str = "") -> Row:
    """A row that passes if the relative error's size is at most ``bound``."""
    holds = abs(_error(predicted, reference)) <= bound
    demand = "|error| <= bound"
    return _row(check, case, unit, predicted, reference, demand=demand, holds=holds, bound=bound, fitted=fitted)


def at_most(check: str, case: str, unit: str, predicted: float, limit: float, fitted: str = "") -> Row:
    """A row that passes if ``predicted`` does not exceed ``limit``."""
    demand = "predicted <= reference"
    return _row(check, case, unit, predicted, limit, demand=demand, holds=predicted <= limit, bound=None, fitted=fitted)


def at_least(check: str, case: str, unit: str, predicted: float, limit: float, fitted: str = "") -> Row:
    """A row that passes if ``predicted`` is not below ``limit``."""
    demand = "predicted >= reference"
    return _row(check, case, unit, predicted, limit, demand=demand, holds=predicted >= limit, bound=None, fitted=fitted)


def shown(check: str, case: str, unit: str, predicted: float, reference: float, fitted: str = "") -> Row:
    """A row of which nothing is demanded."""
    return Row(check, case, unit, predicted, reference, _error(predicted, reference), "", None, "shown", fitted)


def read_data(name: str) -> list[dict[str, str]]:
    """Rows of a CSV file of published numbers, ``data/NAME.csv``."""
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: Sequence[Mapping[str, Cell]]) -> None:
    """Write rows of equal keys as CSV, atomically; floats with nine significant digits."""
    write_rows(
        path,
        [{key: f"{value:.9g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows],
    )


def as_records(items: Sequence[Row] | Sequence[Fitted]) -> list[dict[str, Any]]:
    """Rows or parameters as JSON values."""
    return [asdict(item) for item in items]
