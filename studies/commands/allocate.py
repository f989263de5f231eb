"""``bittaper allocate``: the widths of prefill and decode."""

from __future__ import annotations

import argparse

from hwsim.trace import FULL_PRECISION_BITS
from studies.commands.options import parse_widths
from studies.common.decoding import load_chosen_model
from studies.common.search import add_search, chosen_settings, chosen_target, report
from studies.common.tasks import TaskChoice, make_chosen_task

HELP = """the lowest widths of prefill and decode that keep a task's quality (PMPD's PAPAlloc)

Tries every pair of --widths whose prefill is at least as wide as its decode steps, on calibration prompts. Lowest:
least mean decode bits, then narrowest prefill. --out holds every pair's score; the chosen pair goes beside it as a
schedule (<name>.schedule.json). A search that was stopped goes on where it was.

examples:
  bittaper allocate --model path/to/store --out results/widths.json
  bittaper allocate --model path/to/store --widths 4,3,2 --data prompts.jsonl --limit 100 --out results/widths.json
  bittaper allocate --model path/to/store --criterion lossless --metric fidelity_rouge_l --out results/widths.json
  bittaper allocate --model path/to/store --widths 8,4,3 --rising --drop-early --out results/widths.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--widths", type=parse_widths, metavar="B,B", help="precision set, as 4,3,2 (default: the stored widths)"
    )
    parser.add_argument("--rising", action="store_true", help="try prefills narrower than the decode steps too")
    add_search(parser, split="calib", drop_early=False)


def run(args: argparse.Namespace) -> None:
    """Search, write, print."""
    from accuracy.linear import stored_widths
    from accuracy.search.allocation import allocate

    target, settings = chosen_target(args), chosen_settings(args)
    lm = load_chosen_model(args)
    selection = allocate(
        lm,
        make_chosen_task(lm, TaskChoice.of(args)),
        args.widths or [bits for bits in stored_widths(lm.model) if bits != FULL_PRECISION_BITS],
        rising=args.rising,
        target=target,
        settings=settings,
    )
    report(args, selection)
