"""``bittaper study decoding-speed``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """tokens/s of batches, steps saved by shared prefixes, caches, and near-ties

examples:
  bittaper study decoding-speed
  bittaper study decoding-speed --quick
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/decoding-speed", help="folder of the results (default results/decoding-speed)"
    )
    parser.add_argument(
        "--repeats",
        type=positive_int,
        default=5,
        help="turns of every timed mode, of whole grids at most 3 (default 5)",
    )
    parser.add_argument("--quick", action="store_true", help="the shipped model with a handful of prompts only")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.decoding_speed.report import print_tables
    from studies.decoding_speed.run import Settings, run_decoding_speed

    out = Path(args.out)
    print_tables(run_decoding_speed(Settings(out, args.repeats, args.quick, progress=not args.quiet)))
    print(f"tables  {', '.join(str(path) for path in sorted(out.glob('*.csv')))}")
    print(f"figure  {out / 'decoding_speed.png'}")
