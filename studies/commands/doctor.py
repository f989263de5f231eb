"""``bittaper doctor``: what this machine can run and what is missing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING

from studies.commands.options import add_json
from studies.common.output import print_json, print_pairs

if TYPE_CHECKING:
    from studies.common.diagnosis import Finding, Use

HELP = """what this machine can run, and what is missing for the rest

Nothing is installed or changed. Below each use stand the commands that mend what it lacks; what is missing stands once,
at the end, with the uses that need it.

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
    from studies.common.diagnosis import USES, machine

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
    print()
    for use in USES:
        problems = [one for one in found[use] if one.problem]
        print(f"{use.name}: {'not ready' if problems else 'ready'} ({use.commands})")
        for remedy in dict.fromkeys(one.remedy for one in problems if one.remedy):
            print(f"  -> {remedy}")
    if lines := list(_missing(found)):
        print("\nwhat is missing")
        print("\n".join(lines))


def _missing(found: Mapping[Use, Sequence[Finding]]) -> Iterator[str]:
    """What is missing or wrong, each thing once, under the uses that need it."""
    from studies.common.diagnosis import MISSING

    needed_by: dict[tuple[str, str], list[str]] = {}
    for use, findings in found.items():
        for one in findings:
            if one.problem:
                needed_by.setdefault((one.what, one.problem), []).append(use.name)
    for names in dict.fromkeys(map(tuple, needed_by.values())):
        mine = [key for key, uses in needed_by.items() if tuple(uses) == names]
        absent = ", ".join(what for what, problem in mine if problem == MISSING)
        wrong = [f"{what} {problem}" for what, problem in mine if problem != MISSING]
        text = f"  for {', '.join(names)}: {'; '.join(filter(None, [absent, *wrong]))}"
        yield fill(text, WIDTH_COLUMNS, subsequent_indent="    ", break_on_hyphens=False)
