"""``bittaper compare``: two simulation results side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from studies.commands.options import add_json
from studies.common.output import format_table, print_json

if TYPE_CHECKING:
    from studies.common.comparison import DecodeTime, Row
    from studies.common.simulation_folder import Saved

HELP = """two simulation results side by side, and where a difference comes from

A and B are folders of `bittaper simulate --out`, or files that `bittaper simulate --json` printed.

examples:
  bittaper simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 64 --decode-tokens 60 --weight-bits 4 --out a
  bittaper simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 64 --decode-tokens 60 --weight-bits 3 --out b
  bittaper compare a b
  bittaper compare a b --json
"""

_MS_PER_S = 1e3
_BASIS = {
    "matrix": "busy or waiting on the matrix unit",
    "bus": "busy on the memory bus only: the waits are known to the event engine",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("a", metavar="A", help="a folder of bittaper simulate --out, or a file of --json")
    parser.add_argument("b", metavar="B", help="another one")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print what both results have, B / A, and the difference in decode time by operation."""
    from studies.common.comparison import check_comparable, compare_decode_time, compare_numbers
    from studies.common.simulation_folder import read_simulation

    a, b = read_simulation(args.a), read_simulation(args.b)
    check_comparable(a, b)
    rows, decode = compare_numbers(a.numbers, b.numbers), compare_decode_time(a, b)
    if args.json:
        print_json(
            {
                "mode": a.numbers["mode"],
                "a": _identity(a),
                "b": _identity(b),
                "rows": [row.to_json_dict() for row in rows],
                "decode_s_per_token": None if decode is None else _decode_json(decode),
            }
        )
        return
    for name, saved in (("A", a), ("B", b)):
        identity = _identity(saved)
        print(f"{name}  {identity['source']}: {identity['model']} on {identity['npu']}, {identity['engine']} engine")
    for group in dict.fromkeys(row.group for row in rows):
        print(f"\n{_group_table(group, [row for row in rows if row.group == group])}")
    if decode is not None:
        print(f"\n{_decode_table(decode)}")


def _identity(saved: Saved) -> dict[str, str | None]:
    return {"source": saved.source, **{key: saved.numbers.get(key) for key in ("model", "npu", "mode", "engine")}}


def _decode_json(decode: DecodeTime) -> dict[str, object]:
    rows = [
        {"operation": row.operation, "a": row.a_s, "b": row.b_s, "b_minus_a": row.difference_s} for row in decode.rows
    ]
    return {"basis": decode.basis, "rows": rows}


def _group_table(group: str, rows: Sequence[Row]) -> str:
    cells = [[row.quantity, row.unit, _text(row.a), _text(row.b), _text(row.b_over_a, ".3f")] for row in rows]
    return format_table([group, "unit", "A", "B", "B / A"], cells)


def _decode_table(decode: DecodeTime) -> str:
    total_a, total_b = sum(row.a_s for row in decode.rows), sum(row.b_s for row in decode.rows)
    difference = total_b - total_a
    cells = []
    for name, a_s, b_s in [*((r.operation, r.a_s, r.b_s) for r in decode.rows), ("all", total_a, total_b)]:
        # Rounded before it is written, so that nothing reads -0.0%.
        share = f"{round((b_s - a_s) / difference, 3) + 0.0:.1%}" if difference else "-"
        cells.append([name, "ms", *(f"{value * _MS_PER_S:.4f}" for value in (a_s, b_s, b_s - a_s)), share])
    table = format_table(["decode time per token", "unit", "A", "B", "B - A", "of all"], cells)
    return f"{table}\n({_BASIS[decode.basis]})"


def _text(value: float | None, form: str = ",.6g") -> str:
    return "-" if value is None else format(value, form)
