"""``bittaper explore run``: explore a study file, or go on with it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.commands.options import add_json, add_quiet, positive_int
from studies.common.output import format_table, print_json, without_nan

if TYPE_CHECKING:
    from dse import Exploration


def add_actions(actions: Any, epilog: str) -> None:
    """Add ``run`` to the actions of ``explore``."""
    parser = actions.add_parser(
        "run",
        help="explore a study file, or go on with it",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="FILE", help="study file (YAML)")
    parser.add_argument("--out", help="folder for record and tables (default: results/NAME of the study)")
    parser.add_argument("--budget", type=positive_int, help="designs to simulate instead of the file's number")
    add_quiet(parser)
    add_json(parser)
    parser.set_defaults(act=_run)


def _run(args: argparse.Namespace) -> None:
    from dse import explore, read_study

    study = read_study(args.study)
    if args.budget is not None:
        study = study.model_copy(update={"budget": args.budget})
    out = Path(args.out) if args.out else Path("results") / study.name
    found = explore(study, out, progress=not args.quiet)
    if args.json:
        print_json({"folder": str(out), "pareto": front_records(found), "counts": vars(found.counts)})
        return
    print(format_front(found))
    if found.certificate is not None:
        print(format_certificate(found.certificate))
    for note in found.notes:
        print(f"note: {note}")
    counts = found.counts
    print(
        f"{counts.evaluated} designs simulated ({counts.infeasible} break a limit, {counts.invalid} cannot run; "
        f"{'the whole space' if found.exhausted else found.sampler + ' sampler'}); tables are in {out}"
    )


def front_records(found: Exploration) -> list[dict[str, object]]:
    """The front's rows with what was chosen and what came out, as plain values."""
    names = [objective.name for objective in found.study.objectives]
    limits = [constraint.name for constraint in found.study.constraints]
    columns = dict.fromkeys(["number", "schedule", *found.study.parameters, *names, *limits])
    rows = found.pareto[[column for column in columns if column in found.pareto]]
    return [without_nan(row) for row in rows.to_dict("records")]


def format_front(found: Exploration) -> str:
    """The front as an aligned table."""
    records = front_records(found)
    rows = [[f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values()] for row in records]
    return format_table(list(records[0]), rows)


def format_certificate(certificate: Mapping[str, Any]) -> str:
    """What an enumeration has shown, in one line."""
    pruned = ", ".join(f"{count} {reason}" for reason, count in certificate["pruned"].items()) or "none"
    return (
        f"{certificate['designs']} designs in the space: {certificate['simulated']} simulated, pruned: {pruned} "
        f"({certificate['confirmed']} of them simulated to confirm), {certificate['open']} left open; the front is "
        f"{'exact' if certificate['complete'] else 'not yet proved'}"
    )
