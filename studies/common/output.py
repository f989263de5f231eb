"""How commands print and write tables: JSON and CSV for programs, aligned text for people."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwsim.trace import atomic_writer


def print_json(value: object) -> None:
    """Print a JSON value, indented; NaN and infinity are refused."""
    print(json.dumps(value, indent=2, allow_nan=False))


def without_nan(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A table's row as JSON can hold it: NaN (an empty cell) becomes null.

    >>> without_nan({"a": float("nan"), "b": 1.5})
    {'a': None, 'b': 1.5}
    """
    return {str(key): None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV, atomically; the columns are those of all rows, a cell that a row lacks is empty."""
    with atomic_writer(path) as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print ``name  value`` lines, aligned."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        print(f"  {name:<{width}}  {value}")


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right.

    >>> print(format_table(["width", "BLEU"], [["4", "50.1"], ["3", "9.2"]]))
    width  BLEU
    4      50.1
    3       9.2
    """
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def si(value: float, unit: str) -> str:
    """Write a number with a decimal prefix and three significant digits.

    >>> si(32e9, "B/s"), si(0.00213, "s"), si(0, "B")
    ('32 GB/s', '2.13 ms', '0 B')
    """
    if value == 0:
        return f"0 {unit}"
    for factor, prefix in (
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1, ""),
        (1e-3, "m"),
        (1e-6, "µ"),
        (1e-9, "n"),
    ):
        if abs(value) >= factor * 0.9995:
            return f"{three_digits(value / factor)} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def three_digits(value: float) -> str:
    """Three significant digits without an exponent (``f'{1234:.3g}'`` would give 1.23e+03).

    >>> three_digits(1643.2), three_digits(0.0123)
    ('1643', '0.0123')
    """
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
