"""``bittaper explore``: run a study file, and ask what came out."""

from __future__ import annotations

import argparse

from studies.commands import explore_ask, explore_run

HELP = """which NPU and which schedule together, within limits

run proves the front of an enumerable space, or samples until the study's budget is spent; a run that was stopped goes
on where it was. ask answers from what was simulated: the design in its first line, what it rests on below.

examples:
  bittaper explore run study.yaml --out results/my-study
  bittaper explore run study.yaml --out results/my-study --workers 8 --budget 500
  bittaper explore run study.yaml --out results/my-study --cluster slurm.yaml
  bittaper explore ask results/my-study --min-tokens-per-s 20 --min-quality 0.98 --minimise bandwidth
  bittaper explore why results/my-study --design 17 --set matrix.macs=1024
  bittaper explore report results/my-study
  bittaper explore sensitivity results/my-study --design 17
  bittaper explore prices results/my-study
  bittaper explore export results/my-study --journal trials.journal --parquet trials.parquet
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions; each sets ``act``, which runs it."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    epilog = HELP.partition("\n\n")[2]
    explore_run.add_actions(actions, epilog)
    explore_ask.add_actions(actions, epilog)


def run(args: argparse.Namespace) -> None:
    """Do what was asked."""
    args.act(args)
