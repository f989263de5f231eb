"""``bittaper solve``: the static schedule of a task."""

from __future__ import annotations

import argparse

from studies.commands.options import parse_widths, positive_int
from studies.common.decoding import load_chosen_model
from studies.common.search import add_search, chosen_settings, chosen_target, report
from studies.common.tasks import TaskChoice, make_chosen_task

HELP = """the cheapest falling schedule that keeps a task's quality (PMPD's offline solver)

Tries every schedule that falls through --widths at --points switch points, on validation prompts. Cheapest: least mean
decode bits over the responses' real lengths, then narrowest prefill, then fewest switches. Schedules that agree up to a
switch are decoded together up to there, and those that cannot be chosen any more are left out. --out holds every
schedule's score; the chosen one goes beside it (<name>.schedule.json), for --schedule of evaluate and simulate. A
search that was stopped goes on where it was.

examples:
  bittaper solve --model path/to/store --widths 4,3,2 --out results/static.json
  bittaper solve --model path/to/store --widths 4,3 --points 8 --data prompts.jsonl --out results/static.json
  bittaper solve --model path/to/store --widths 4,3 --reference 4 --criterion lossless --out results/static.json
  bittaper solve --model gptq.json --widths 4,3 --metric rouge_l --tolerance 0.02 --out results/static-gptq.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--widths", required=True, type=parse_widths, metavar="B,B", help="precision set, as 4,3,2")
    parser.add_argument("--points", type=positive_int, default=4, metavar="N", help="switch points (default 4)")
    parser.add_argument(
        "--prefill-weight-bits", type=positive_int, metavar="B", help="width of the prefill (default: the highest)"
    )
    add_search(parser, split="val", drop_early=True)


def run(args: argparse.Namespace) -> None:
    """Search, write, print."""
    from accuracy.search.solver import solve

    target, settings = chosen_target(args), chosen_settings(args)
    lm = load_chosen_model(args)
    selection = solve(
        lm,
        make_chosen_task(lm, TaskChoice.of(args)),
        args.widths,
        points=args.points,
        prefill_weight_bits=args.prefill_weight_bits,
        target=target,
        settings=settings,
    )
    report(args, selection)
