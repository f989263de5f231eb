"""``bittaper explore``: run a study file, and ask what came out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.commands.options import add_json, add_quiet, positive_int
from studies.common.output import format_table, print_json, without_nan

if TYPE_CHECKING:
    from dse import Exploration

HELP = """which NPU and which schedule together, within limits

run simulates designs until the study's budget is spent; a run that was stopped goes on where it was.
ask answers from what was simulated, in one line.

examples:
  bittaper explore run study.yaml --out results/my-study
  bittaper explore run study.yaml --out results/my-study --budget 500
  bittaper explore ask results/my-study --min-tokens-per-s 20 --min-quality 0.98 --minimise bandwidth
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from dse.objective import ALIASES

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    epilog = HELP.partition("\n\n")[2]
    raw = argparse.RawDescriptionHelpFormatter
    run_parser = actions.add_parser(
        "run", help="explore a study file, or go on with it", epilog=epilog, formatter_class=raw
    )
    run_parser.add_argument("study", metavar="FILE", help="study file (YAML)")
    run_parser.add_argument("--out", help="folder for record and tables (default: results/NAME of the study)")
    run_parser.add_argument("--budget", type=positive_int, help="designs to simulate instead of the file's number")
    add_quiet(run_parser)
    add_json(run_parser)
    ask_parser = actions.add_parser(
        "ask", help="the best evaluated design within limits", epilog=epilog, formatter_class=raw
    )
    ask_parser.add_argument("folder", metavar="FOLDER", help="what explore run wrote")
    target = ask_parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--minimise", metavar="QUANTITY", help=f"one of {', '.join(ALIASES)}, or a parameter's path")
    target.add_argument("--maximise", metavar="QUANTITY", help="the same, the other way")
    for alias in ALIASES:
        for bound in ("min", "max"):
            option = f"--{bound}-{alias.replace('_', '-')}"
            ask_parser.add_argument(option, type=float, metavar="X", dest=f"limit_{bound}_{alias}")
    add_json(ask_parser)


def run(args: argparse.Namespace) -> None:
    """Explore or answer."""
    if args.action == "run":
        _run(args)
    else:
        _ask(args)


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


def _ask(args: argparse.Namespace) -> None:
    from dse import ask

    limits = {
        name.removeprefix("limit_"): value
        for name, value in vars(args).items()
        if name.startswith("limit_") and value is not None
    }
    answer = ask(args.folder, limits, minimise=args.minimise, maximise=args.maximise)
    if args.json:
        print_json(
            {
                "target": answer.target,
                "direction": answer.direction,
                "design": None if answer.design is None else without_nan(answer.design),
                "margins": answer.margins,
                "binding": None if answer.binding is None else str(answer.binding),
                "asked": answer.asked,
            }
        )
    else:
        print(answer)
