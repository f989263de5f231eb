"""``bittaper study validation``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet

HELP = """the simulator against published numbers, in one table

examples:
  bittaper study validation
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/validation", help="folder of the results (default results/validation)"
    )
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.validation.report import print_summary
    from studies.validation.run import run_validation

    out = Path(args.out)
    print_summary(run_validation(out, progress=not args.quiet))
    print(f"tables   {out / 'validation.csv'}, {out / 'fitted.csv'}, one of details for each check")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
