"""``bittaper compare``: two simulation results side by side."""

from __future__ import annotations

import argparse

from hwsim.trace import InputError, read_json
from studies.commands.options import add_json
from studies.common.output import format_table, print_json

HELP = """two simulation results side by side, with their ratios

A and B are files that `bittaper simulate --json` printed.

examples:
  bittaper simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 64 --decode-tokens 60 --weight-bits 4 --json > a.json
  bittaper simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 64 --decode-tokens 60 --weight-bits 3 --json > b.json
  bittaper compare a.json b.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("a", metavar="A", help="result of bittaper simulate --json")
    parser.add_argument("b", metavar="B", help="another one")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the numbers both results have, and B / A."""
    a, b = read_json(args.a), read_json(args.b)
    for path, value in ((args.a, a), (args.b, b)):
        if not isinstance(value, dict) or not {"mode", "engine", "cycles"} <= value.keys():
            raise InputError(f"{path}: mode, engine or cycles is missing; give what bittaper simulate --json printed")
    if a["mode"] != b["mode"]:
        raise InputError(f"{args.b}: mode = {b['mode']!r}: must be {a['mode']!r} as in {args.a}; modes do not compare")
    rows = [
        {"quantity": key, "a": a[key], "b": b[key], "b_over_a": b[key] / a[key] if a[key] else None}
        for key in a
        if _is_number(a[key]) and _is_number(b.get(key))
    ]
    if args.json:
        print_json({"mode": a["mode"], "rows": rows})
        return
    cells = [
        [
            row["quantity"],
            f"{row['a']:,.6g}",
            f"{row['b']:,.6g}",
            "-" if row["b_over_a"] is None else f"{row['b_over_a']:.3f}",
        ]
        for row in rows
    ]
    print(format_table(["quantity", "A", "B", "B / A"], cells))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
