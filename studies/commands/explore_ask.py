"""``bittaper explore ask``, ``why``, ``report``, ``sensitivity`` and ``prices``: read what was explored."""

from __future__ import annotations

import argparse
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.commands.options import (
    add_action,
    add_json,
    add_quiet,
    check_writable,
    non_negative_int,
    parse_overrides,
    positive_int,
)
from studies.common.output import format_table, print_json, without_nan

if TYPE_CHECKING:
    from dse import Answer


SOURCE = "what explore run wrote, or the study file of such a run"
SHOWN_SHARE = 0.01
"""Total index from which a number is printed."""


def add_actions(actions: Any, epilog: str) -> None:
    """Add ``ask``, ``why``, ``report``, ``sensitivity`` and ``prices`` to the actions of ``explore``."""
    _add_ask(actions, epilog)
    _add_why(actions, epilog)
    _add_report(actions, epilog)
    _add_sensitivity(actions, epilog)
    _add_prices(actions, epilog)


def _add_ask(actions: Any, epilog: str) -> None:
    from dse.objective import ALIASES

    parser = add_action(actions, "ask", "the best evaluated design within limits", epilog)
    parser.add_argument("folder", metavar="STUDY", help=SOURCE)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--minimise", metavar="QUANTITY", help=f"one of {', '.join(ALIASES)}, or a parameter's path")
    target.add_argument("--maximise", metavar="QUANTITY", help="the same, the other way")
    for alias in ALIASES:
        for bound in ("min", "max"):
            option = f"--{bound}-{alias.replace('_', '-')}"
            parser.add_argument(option, type=float, metavar="X", dest=f"limit_{bound}_{alias}")
    add_json(parser)
    parser.set_defaults(act=_ask)


def _ask(args: argparse.Namespace) -> None:
    from dse import ask

    limits = {
        name.removeprefix("limit_"): value
        for name, value in vars(args).items()
        if name.startswith("limit_") and value is not None
    }
    answer = ask(args.folder, limits, minimise=args.minimise, maximise=args.maximise)
    if args.json:
        print_json(answer_record(answer))
    else:
        print(answer)


def answer_record(answer: Answer) -> dict[str, Any]:
    """An answer as JSON can hold it."""
    return {
        "target": answer.target,
        "direction": answer.direction,
        "design": None if answer.design is None else without_nan(answer.design),
        "margins": [
            {
                "constraint": str(margin.constraint),
                "amount": margin.amount,
                "share": margin.share,
                "interval": margin.interval,
                "doubt": margin.doubt,
            }
            for margin in answer.margins
        ],
        "binding": None if answer.binding is None else str(answer.binding),
        "asked": answer.asked,
        "exact": answer.exact,
        "space_size": answer.space_size,
        "quality": answer.quality,
        "simulator_error": {
            name: [
                {"basis": one.title, "fitted": one.fitted, "n": one.n, "median": one.median, "worst": one.worst}
                for one in bases
            ]
            for name, bases in answer.errors.items()
        },
    }


def _add_why(actions: Any, epilog: str) -> None:
    parser = add_action(actions, "why", "why a design is not on the front: simulate it and say what beats it", epilog)
    parser.add_argument("folder", metavar="STUDY", help=SOURCE)
    parser.add_argument("--design", type=non_negative_int, metavar="TRIAL", help="start from this trial's values")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="value of a parameter")
    parser.add_argument("--schedule", metavar="LABEL", help="for example p4:4>3@40 (default: the trial's)")
    parser.add_argument("--allow-command", action="store_true", help="let the study's live quality command run")
    add_json(parser)
    parser.set_defaults(act=_why)


def _why(args: argparse.Namespace) -> None:
    from dse import explain

    found = explain(
        args.folder,
        parse_overrides(args.set),
        design=args.design,
        schedule=args.schedule,
        allow_command=args.allow_command,
    )
    if not args.json:
        print(found)
        return
    print_json(
        {
            "schedule": found.schedule,
            "parameters": dict(found.parameters),
            "metrics": without_nan(found.metrics),
            "reasons": found.reasons,
            "trial": found.trial,
            "on_front": found.on_front,
            "rival": None if found.rival is None else found.rival.number,
        }
    )


def _add_report(actions: Any, epilog: str) -> None:
    parser = add_action(
        actions, "report", "what was explored, what binds, what things are worth: HTML and Markdown", epilog
    )
    parser.add_argument("folder", metavar="STUDY", help=SOURCE)
    parser.add_argument("--out", metavar="DIR", help="folder of the report (default: report in the exploration's)")
    add_quiet(parser)
    parser.set_defaults(act=_report)


def _report(args: argparse.Namespace) -> None:
    from studies.explore_report.run import write_exploration_report

    page = write_exploration_report(args.folder, Path(args.out) if args.out else None, progress=not args.quiet)
    print(f"report   {page}, {page.with_suffix('.md')}; tables and figures are beside them")


def _add_sensitivity(actions: Any, epilog: str) -> None:
    parser = add_action(
        actions,
        "sensitivity",
        "how much each number matters, by simulating around a design or over the study's ranges",
        epilog,
    )
    parser.add_argument("folder", metavar="STUDY", help=SOURCE)
    parser.add_argument(
        "--design",
        type=non_negative_int,
        metavar="TRIAL",
        help="vary around this trial, with the constants that the NPU file assumes (default: the study's ranges)",
    )
    parser.add_argument(
        "--around", type=float, metavar="SHARE", help="share by which numbers vary around the design (default 0.1)"
    )
    parser.add_argument(
        "--points",
        type=positive_int,
        help="points of each sample, a power of two (default 256); points x (numbers + 2) designs are simulated",
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the sequence (default 0)")
    parser.add_argument("--allow-command", action="store_true", help="let the study's live quality command run")
    add_quiet(parser)
    add_json(parser)
    parser.set_defaults(act=_sensitivity)


def _sensitivity(args: argparse.Namespace) -> None:
    from dse import measure_sensitivity
    from dse.exploration import results_folder

    check_writable(results_folder(args.folder))
    given = {name: value for name in ("around", "points") if (value := getattr(args, name)) is not None}
    found = measure_sensitivity(
        args.folder,
        design=args.design,
        seed=args.seed,
        allow_command=args.allow_command,
        progress=not args.quiet,
        **given,
    )
    path = found.write(results_folder(args.folder))
    if args.json:
        indices = [without_nan(row) for row in found.table.to_dict("records")]
        held = dict(found.held)
        caution = found.caution
        print_json(
            {"file": str(path), "simulated": found.simulated, "held": held, "caution": caution, "indices": indices}
        )
        return
    shown = found.table[found.table["total_order"] >= SHOWN_SHARE]
    rows = [
        [
            row["parameter"],
            row["metric"],
            f"{row['low']:.6g}..{row['high']:.6g}" if not isinstance(row["low"], str) else "all",
            "assumed" if row["assumed"] else "",
            f"{row['first_order']:z.2f}",
            f"{row['total_order']:z.2f}",
            f"{row['total_order_ci_low']:z.2f}..{row['total_order_ci_high']:z.2f}",
        ]
        for row in shown.to_dict("records")
    ]
    print(format_table(["number", "metric", "range", "", "first order", "total", "95%"], rows))
    for name, reason in found.held.items():
        print(f"held: {name}: {reason}")
    small = found.table["parameter"].nunique() - shown["parameter"].nunique()
    print(f"{small} numbers have a part in less than {SHOWN_SHARE:.0%} of any metric's variance; all are in {path}")
    points = int(found.table["n"].iloc[0])
    print(f"Sobol's indices, n = {points}, {found.simulated} designs; explore report shows them")
    if found.caution is not None:
        print(f"note: {found.caution}")


def _add_prices(actions: Any, epilog: str) -> None:
    parser = add_action(
        actions, "prices", "what loosening each limit buys, by exploring exactly again beyond it", epilog
    )
    parser.add_argument("folder", metavar="STUDY", help=SOURCE)
    parser.add_argument(
        "--loosen",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="shares of the bound by which each limit is loosened (default 0.01 0.05 0.1)",
    )
    parser.add_argument("--workers", type=positive_int, default=1, help="processes that simulate (default 1)")
    add_quiet(parser)
    add_json(parser)
    parser.set_defaults(act=_prices)


def _prices(args: argparse.Namespace) -> None:
    from dse.prices import shadow_prices
    from dse.words import in_words

    shares = {} if args.loosen is None else {"shares": args.loosen}
    table = shadow_prices(args.folder, workers=args.workers, progress=not args.quiet, **shares)
    if args.json:
        print_json([without_nan(row) for row in table.to_dict("records")])
        return
    rows = [
        [
            row["constraint"],
            f"{row['relaxed_by']:.2g}",
            row["objective"],
            in_words(row["objective"], row["best"]),
            in_words(row["objective"], row["best_relaxed"]),
            f"{'+' * (row['gain'] >= 0)}{in_words(row['objective'], row['gain'], 4)}",
            "n/a" if isnan(row["volume_gain"]) else f"{row['volume_gain']:+.2%}",
        ]
        for row in table.to_dict("records")
    ]
    print(format_table(["limit", "loosened", "objective", "best", "then", "gain", "hypervolume"], rows))
