"""``bittaper explore ask``: one-line questions to what was explored."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from studies.commands.options import add_json
from studies.common.output import print_json, without_nan

if TYPE_CHECKING:
    from dse import Answer


def add_actions(actions: Any, epilog: str) -> None:
    """Add ``ask`` to the actions of ``explore``."""
    from dse.objective import ALIASES

    parser = actions.add_parser(
        "ask",
        help="the best evaluated design within limits",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="STUDY", help="what explore run wrote, or the study file of such a run")
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
            name: [{"basis": one.title, "n": one.n, "median": one.median, "worst": one.worst} for one in bases]
            for name, bases in answer.errors.items()
        },
    }
