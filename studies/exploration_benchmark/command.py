"""``bittaper study exploration-benchmark``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet

HELP = """how good, fast and crash-proof the exploration is, on this machine

efficiency   share of the exhaustive hypervolume against full simulations, by sampler (median of 20 seeds)
exact-speed  seconds and memory of the exact search, up to 10^6 designs, with one process and with two
overhead     trials a second and what a trial costs besides its simulation, up to 10^5 trials
kills        workers and coordinators killed at random: trials lost, repeated, and the front that comes out
sensitivity  error of Sobol's indices against the points that they are measured with

examples:
  bittaper study exploration-benchmark
  bittaper study exploration-benchmark --part efficiency --out results/mine
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from studies.exploration_benchmark.run import PARTS

    parser.add_argument(
        "--out",
        default="results/exploration-benchmark",
        help="folder of the results (default results/exploration-benchmark)",
    )
    parser.add_argument("--part", action="append", choices=list(PARTS), help="run this part only; may be repeated")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the parts and say where to look."""
    from studies.exploration_benchmark.run import Settings, run_exploration_benchmark

    out = Path(args.out)
    for path in run_exploration_benchmark(Settings(out, tuple(args.part or ()), progress=not args.quiet)):
        print(f"figure  {path}")
    print(f"numbers {out / 'exploration_benchmark.json'}; tables beside it, provenance in manifest.json")
