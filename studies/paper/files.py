"""The files of a result: one JSON that holds everything, and its tables as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hwsim.trace import InputError, atomic_writer, canonical_sha256, collect_provenance, read_json, write_json
from studies.common.output import without_nan
from studies.common.report import check_version
from studies.paper.comparison import Found
from studies.paper.result import Result

SCHEMA_VERSION = "1.0"
DIGITS = "%.7g"


@dataclass(frozen=True)
class Kept:
    """A result as its JSON file holds it.

    Attributes:
        name: The result.
        settings: What decided its numbers.
        comparisons: The paper's values beside ours.
        tables: Further rows.
        facts: About the run.
        provenance: Of the run, and of measurements that it read.
        seconds: Wall time of the run that made it; less than the whole where it went on with an interrupted one.
        cpu_seconds: Of this process, for the same.
    """

    name: str
    settings: Mapping[str, Any]
    comparisons: Sequence[Mapping[str, Any]]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    facts: Mapping[str, Any]
    provenance: Mapping[str, Any]
    seconds: float
    cpu_seconds: float


def result_file(out: Path, name: str) -> Path:
    """Where a result's numbers are."""
    return out / f"{name}.json"


def write_result(
    out: Path, result: Result, settings: Mapping[str, Any], found: Found, seconds: float, cpu_seconds: float
) -> Kept:
    """Write the tables, and last the JSON file, whose presence means that the result is complete."""
    comparisons = [without_nan(one.to_row()) for one in found.comparisons]
    tables = {name: [without_nan(row) for row in rows] for name, rows in found.tables.items()}
    for name, rows in {"": comparisons, **tables}.items():
        write_table(out / f"{result.name}{'-' if name else ''}{name}.csv", rows)
    value = {
        "schema_version": SCHEMA_VERSION,
        "name": result.name,
        "settings": settings,
        "comparisons": comparisons,
        "tables": tables,
        "facts": found.facts,
        "provenance": {"run": collect_provenance(out, **_origin(found)), **found.provenance},
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }
    write_json(result_file(out, result.name), value)
    return read_result(out, result.name)


def _origin(found: Found) -> dict[str, Any]:
    """Seed and device, of a result that has them."""
    return {key: found.facts[key] for key in ("seed", "device") if key in found.facts}


def read_result(out: Path, name: str) -> Kept:
    """Read a finished result.

    Raises:
        InputError: If it is missing, cut, or of another version.
    """
    path = result_file(out, name)
    value = read_json(path)
    check_version(path, value)
    try:
        return Kept(**{key.name: value[key.name] for key in fields(Kept)})
    except KeyError as error:
        raise InputError(f"{path}: has no {error}; it was cut or is another file: remove it and run again") from None


def is_kept(out: Path, name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the result is there, made with these settings.

    Raises:
        InputError: If it is there but cut, or of another version.
    """
    if not result_file(out, name).is_file():
        return False
    return canonical_sha256(read_result(out, name).settings) == canonical_sha256(settings)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV; columns are those of all rows, in the order in which they appear."""
    import pandas as pd

    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_writer(path) as file:
        pd.DataFrame(list(rows), columns=columns).to_csv(file, index=False, float_format=DIGITS)
