"""``bittaper study kmeans-comparison``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """our k-means beside flash1dkmeans and scikit-learn: error and time on real rows

examples:
  bittaper study kmeans-comparison
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/kmeans-comparison", help="folder of the results (default results/kmeans-comparison)"
    )
    parser.add_argument(
        "--rows", type=positive_int, help="rows of real weights (default 2000, or all that the models have)"
    )
    parser.add_argument("--repeats", type=positive_int, default=5, help="timed repeats (default 5)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.kmeans_comparison.report import print_tables
    from studies.kmeans_comparison.run import Settings, run_kmeans_comparison

    out = Path(args.out)
    print_tables(run_kmeans_comparison(Settings(out, args.rows, args.repeats, progress=not args.quiet)))
    print(f"tables  {', '.join(str(out / f'{name}.csv') for name in ('seed', 'nested', 'times'))}")
    print(f"figure  {out / 'kmeans_comparison.png'}")
