"""``bittaper doctor``: what this machine can run and what is missing."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from textwrap import fill

from studies.commands.options import add_json
from studies.common.output import print_json, print_pairs

HELP = """what this machine can run, and what is missing for the rest

Nothing is installed or changed. A command that mends what is missing stands beside it.

examples:
  bittaper doctor
  bittaper doctor --json
"""

WIDTH_COLUMNS = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the findings."""
    from studies.common.diagnosis import MISSING, USES, machine

    here = machine()
    found = {use: use.findings() for use in USES}
    if args.json:
        versions = {one.what: one.found for use in USES for one in found[use] if one.found}
        uses = [
            {
                "name": use.name,
                "commands": use.commands,
                "ready": not any(one.problem for one in found[use]),
                "missing": [asdict(one) for one in found[use] if one.problem],
            }
            for use in USES
        ]
        print_json({"machine": here, "packages": versions, "uses": uses})
        return
    print("this machine")
    print_pairs(here)
    for use in USES:
        missing = [one for one in found[use] if one.problem]
        print(f"\n{use.name}: {'not ready' if missing else 'ready'} ({use.commands})")
        absent = [one.what for one in missing if one.problem == MISSING]
        if absent:
            print(fill(", ".join(absent), WIDTH_COLUMNS, initial_indent="  missing: ", subsequent_indent="    "))
        for one in missing:
            if one.problem != MISSING:
                print(f"  {one.what} {one.problem}")
        for remedy in dict.fromkeys(one.remedy for one in missing if one.remedy):
            print(f"  -> {remedy}")
