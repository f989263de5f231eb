"""What the commands that choose a schedule share: options, the table, the files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import InputError, write_schedule
from studies.commands.options import add_json, add_quiet, non_negative_int, parse_schedule, positive_int
from studies.common.decoding import add_device
from studies.common.output import format_table, print_json
from studies.common.tasks import add_task

if TYPE_CHECKING:
    from accuracy.search.search import SearchSettings
    from accuracy.search.selection import Candidate, Selection, Target

DEFAULT_BATCH_SIZE = 32


def add_search(parser: argparse.ArgumentParser, *, split: str, drop_early: bool) -> None:
    """Offer the options of a search.

    Args:
        parser: The command's.
        split: Default split.
        drop_early: Whether candidates drop out early by default.
    """
    parser.add_argument("--model", required=True, help="nested store, or a .json map of widths to models")
    parser.add_argument("--out", required=True, metavar="FILE", help="result (.json); what is done is kept beside it")
    add_task(parser)
    parser.add_argument("--split", choices=("calib", "val"), default=split, help=f"prompts to use (default {split})")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N prompts of the split")
    group = parser.add_argument_group("quality to keep", "the reference's score, less a tolerance")
    group.add_argument("--metric", metavar="NAME", help="what is measured (default: the task's first)")
    group.add_argument("--encoder", metavar="E", help="folder or hub name of the encoder of bertscore")
    reference = group.add_mutually_exclusive_group()
    reference.add_argument("--reference", metavar="S", default="16", help="schedule that sets it (default 16)")
    reference.add_argument("--reference-score", metavar="Q", type=float, help="a given score instead")
    group.add_argument("--tolerance", type=float, default=0.01, help="share of the reference's score (default 0.01)")
    group.add_argument(
        "--criterion",
        choices=("point", "lossless"),
        default="point",
        help="point (default): the score itself; lossless: the low end of its paired 95%% interval",
    )
    group = parser.add_argument_group("search")
    group.add_argument(
        "--drop-early",
        action=argparse.BooleanOptionalAction,
        default=drop_early,
        help="leave candidates out once they cannot be chosen any more; the choice is the same",
    )
    group.add_argument(
        "--approximate", action="store_true", help="leave out too what is unlikely to be chosen; the choice may differ"
    )
    group.add_argument(
        "--batch-size", type=positive_int, default=DEFAULT_BATCH_SIZE, metavar="N", help="prompts run together"
    )
    group.add_argument("--seed", type=non_negative_int, default=0, help="of the bootstrap (default 0)")
    add_device(group)
    parser.set_defaults(workers=None)
    add_quiet(parser)
    add_json(parser)


def chosen_target(args: argparse.Namespace) -> Target:
    """The quality to keep."""
    from accuracy.search.selection import Target

    reference = parse_schedule(args.reference) if args.reference_score is None else args.reference_score
    return Target(reference, args.tolerance, args.criterion)


def chosen_settings(args: argparse.Namespace) -> SearchSettings:
    """How to search."""
    from accuracy.metrics import get_metric
    from accuracy.search.search import SearchSettings

    metric = args.metric
    if args.encoder is not None:
        if metric not in ("bertscore", "fidelity_bertscore"):
            raise InputError(f"--encoder {args.encoder}: is for --metric bertscore or fidelity_bertscore; leave it out")
        metric = get_metric(metric, encoder=args.encoder)
    return SearchSettings(
        split=args.split,
        metric=metric,
        limit=args.limit,
        seed=args.seed,
        batch_size=args.batch_size,
        drop_early=args.drop_early,
        approximate=args.approximate,
        out=Path(args.out),
        progress=not args.quiet,
    )


def report(args: argparse.Namespace, selection: Selection) -> None:
    """Write the chosen schedule beside the result, and print what was found."""
    path = Path(args.out).with_suffix(".schedule.json")
    if selection.chosen is not None:
        write_schedule(path, selection.chosen)
    if args.json:
        print_json(selection.model_dump(mode="json"))
        return
    header = ["schedule", "keeps it", "mean bits", selection.metric, "95% interval", "change", "95% interval"]
    print(format_table(header, [_row(one) for one in selection.candidates]))
    reference = "given" if selection.reference is None else selection.reference.label()
    print(
        f"{selection.task} {selection.split}, n = {selection.n}, seed {selection.seed}; reference {reference}: "
        f"{selection.reference_value:.2f}, required ({selection.criterion}): {selection.required_value:.2f}"
    )
    print(
        f"{selection.decode_steps} steps, {selection.decode_steps_run} run ({selection.steps_saved:.1%} shared); "
        f"{selection.responses} responses, {selection.responses_dropped} left out early"
    )
    how = " (approximate)" if selection.approximate else ""
    if selection.chosen is not None:
        print(f"chosen{how}: {selection.chosen.label()}; {path}")
    elif selection.nearest is not None:
        print(f"none keeps the quality{how}; the nearest is {selection.nearest.label()}")


def _row(one: Candidate) -> list[str]:
    if one.dropped:
        reasons = {"cost": "costs more", "quality": "no", "interval": "unlikely"}
        return [one.label, reasons[one.dropped], f"left out after {one.n}", *[""] * 4]
    change = one.change
    return [
        one.label,
        "yes" if one.feasible else "no",
        f"{one.mean_decode_bits:.3f}",
        f"{one.value:.2f}",
        f"[{one.ci_low:.2f}, {one.ci_high:.2f}]",
        "" if change is None else f"{change.value:+.2%}",
        "" if change is None else f"[{change.ci_low:+.2%}, {change.ci_high:+.2%}]",
    ]
