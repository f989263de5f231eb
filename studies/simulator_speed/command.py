"""``bittaper study simulator-speed``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """how fast the simulator itself is, on this machine

examples:
  bittaper study simulator-speed
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/simulator-speed", help="folder of the results (default results/simulator-speed)"
    )
    parser.add_argument("--repeats", type=positive_int, default=7, help="fresh processes a measurement (default 7)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.simulator_speed.run import Settings, run_simulator_speed

    out = Path(args.out)
    for goal in run_simulator_speed(Settings(out, args.repeats, progress=not args.quiet)):
        verdict = "met" if goal["met"] else "MISSED"
        bound = f"{goal['relation']} {goal['bound']:g} {goal['unit']}"
        print(f"{verdict:<7} {goal['what']}: {goal['median']:.4g} ({bound})")
    print(f"tables  {out / 'summary.csv'}, {out / 'repeats.csv'}; figure {out / 'goals.png'}")
