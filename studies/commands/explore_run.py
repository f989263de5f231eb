"""``bittaper explore run`` and ``export``: explore a study file, or go on with it; give its record to other tools."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError
from studies.commands.options import add_action, add_json, add_quiet, positive_int
from studies.common.output import format_table, print_json, without_nan

if TYPE_CHECKING:
    from dse import Exploration
    from dse.storage import SharedStudy

SHOWN_DESIGNS = 20
"""Of a front that is printed; the table ``pareto.csv`` has them all."""


def add_actions(actions: Any, epilog: str) -> None:
    """Add ``run`` and ``export`` to the actions of ``explore``."""
    _add_run(actions, epilog)
    _add_export(actions, epilog)


def _add_run(actions: Any, epilog: str) -> None:
    parser = add_action(actions, "run", "explore a study file, or go on with it", epilog)
    parser.add_argument("study", metavar="FILE", help="study file (YAML)")
    parser.add_argument("--out", help="folder for record and tables (default: results/NAME of the study)")
    parser.add_argument("--budget", type=positive_int, help="designs to simulate instead of the file's number")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=positive_int, help="processes that simulate (default: one a core that may be used)"
    )
    where.add_argument(
        "--cluster",
        metavar="WHERE",
        help="simulate on Dask instead: local, a scheduler's address, or a YAML file that says how to submit jobs to "
        "LSF, SLURM or SGE",
    )
    parser.add_argument(
        "--allow-command", action="store_true", help="let the study run the command that it names for live quality"
    )
    parser.add_argument(
        "--retry",
        action="store_true",
        help="evaluate again what could not be evaluated before: its quality command failed, or its worker was ended",
    )
    _add_storage(parser)
    add_quiet(parser)
    add_json(parser)
    parser.set_defaults(act=_run)


def _add_export(actions: Any, epilog: str) -> None:
    parser = add_action(actions, "export", "write what was explored for other tools: Optuna, CSV, Parquet", epilog)
    parser.add_argument("folder", metavar="FOLDER", help="what explore run wrote")
    parser.add_argument("--journal", metavar="FILE", help="Optuna journal, for optuna.load_study and optuna-dashboard")
    parser.add_argument("--csv", metavar="FILE", help="trials as CSV")
    parser.add_argument("--parquet", metavar="FILE", help="trials as Parquet")
    _add_storage(parser)
    parser.set_defaults(act=_export)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage",
        metavar="PLACE",
        help="a team's Optuna storage (postgresql://... or a journal file): its designs are known, new ones are added",
    )
    parser.add_argument("--storage-study", metavar="NAME", help="the Optuna study there")


def _storage(args: argparse.Namespace) -> SharedStudy | None:
    if (args.storage is None) != (args.storage_study is None):
        missing = "--storage-study NAME" if args.storage_study is None else "--storage PLACE"
        raise InputError(f"--storage and --storage-study belong together: give {missing} too")
    if args.storage is None:
        return None
    from dse.storage import SharedStudy

    return SharedStudy(args.storage, args.storage_study)


def _export(args: argparse.Namespace) -> None:
    from dse.export import export
    from dse.storage import sync

    storage = _storage(args)
    if (args.journal, args.csv, args.parquet, storage) == (None, None, None, None):
        raise InputError("explore export: nothing to write; give --journal, --csv, --parquet or --storage")
    for path in export(args.folder, journal=args.journal, csv=args.csv, parquet=args.parquet):
        print(f"wrote {path}")
    if storage is not None:
        print(sync(args.folder, storage))


def _run(args: argparse.Namespace) -> None:
    from dse import explore, read_study
    from dse.pool import available_cores

    study = read_study(args.study)
    if args.budget is not None:
        study = study.model_copy(update={"budget": args.budget})
    out = Path(args.out) if args.out else Path("results") / study.name
    found = explore(
        study,
        out,
        progress=not args.quiet,
        workers=args.workers or available_cores(),
        cluster=args.cluster,
        allow_command=args.allow_command,
        storage=_storage(args),
        retry=args.retry,
    )
    if args.json:
        print_json({"folder": str(out), "pareto": front_records(found), "counts": vars(found.counts)})
        return
    print(format_front(found))
    if found.certificate is not None:
        print(format_certificate(found.certificate))
    for note in found.notes:
        print(f"note: {note}")
    counts = found.counts
    taken = f", {counts.taken_over} taken over" if counts.taken_over else ""
    print(
        f"{counts.evaluated} designs simulated{taken} ({counts.infeasible} break a limit, {counts.invalid} cannot run; "
        f"{'the whole space' if found.exhausted else found.sampler + ' sampler'}); tables are in {out}"
    )
    print(f"what they say: bittaper explore report {out}")


def front_records(found: Exploration) -> list[dict[str, object]]:
    """The front's rows with what was chosen and what came out, as plain values."""
    names = [objective.name for objective in found.study.objectives]
    limits = [constraint.name for constraint in found.study.constraints]
    columns = dict.fromkeys(["number", "schedule", *found.study.parameters, *names, *limits])
    rows = found.pareto[[column for column in columns if column in found.pareto]]
    return [without_nan(row) for row in rows.to_dict("records")]


def format_front(found: Exploration) -> str:
    """The front as an aligned table in the units of the report; of a long one, designs spread along it."""
    from studies.explore_report.quantities import cell, quantity

    records = front_records(found)
    values = {name: [record[name] for record in records] for name in records[0]}
    # A bandwidth that is chosen and minimised is one column, the metric's.
    shown = [name for name in values if "." not in name or values.get(name.rpartition(".")[2]) != values[name]]
    count = min(len(records), SHOWN_DESIGNS)
    chosen = [records[round(index * (len(records) - 1) / max(1, count - 1))] for index in range(count)]
    rows = [[str(row["number"]), *(cell(name, row[name]) for name in shown[1:])] for row in chosen]
    more = f"\n{len(records) - count} more in pareto.csv" if len(records) > count else ""
    return format_table(["trial", *(quantity(name).name for name in shown[1:])], rows) + more


def format_certificate(certificate: Mapping[str, Any]) -> str:
    """What an enumeration has shown, in one line."""
    pruned = ", ".join(f"{count} {reason}" for reason, count in certificate["pruned"].items()) or "none"
    confirmed = certificate["confirmed"]
    again = ""
    if confirmed is not None:
        engine = f" on engine {confirmed['engine']}" if confirmed["engine"] else ""
        again = f"; {confirmed['front']} of the front and {confirmed['pruned']} pruned ones confirmed{engine}"
    proved = "exact" if certificate["complete"] else "not yet proved"
    return (
        f"{certificate['designs']} designs in the space: {certificate['simulated']} simulated, pruned: {pruned}, "
        f"{certificate['open']} left open; the front is {proved}{again}"
    )
