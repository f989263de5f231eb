"""``bittaper study pmpd``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet

HELP = """phases, patterns, schedulers and baselines of the paper on small real models

examples:
  bittaper study pmpd
  bittaper study pmpd --model selvic --out results/selvic
  bittaper study pmpd --only fig3 --only table1
  bittaper study pmpd --quick
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", default="results/pmpd", help="folder of the results (default results/pmpd)")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="selvic (the shipped model), stories260K, m30k-fren-2M, fren-paragraphs-4M; repeatable "
        "(default: all that are at hand)",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="RESULT",
        help="table4 (always measured), fig3, table1, fig7, table9; repeatable (default: all); what is there is kept",
    )
    parser.add_argument("--quick", action="store_true", help="a handful of prompts of the shipped model, for a look")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.pmpd.report import print_summary
    from studies.pmpd.run import EXPERIMENTS, Settings, run_pmpd

    out = Path(args.out)
    models, experiments = tuple(args.model or ()), tuple(args.only or EXPERIMENTS)
    run_pmpd(Settings(out, models, experiments=experiments, quick=args.quick, progress=not args.quiet))
    print_summary(out)
    names = ("scores", "comparisons", "searches", "training", "notes")
    print(f"tables   {', '.join(str(out / f'{name}.csv') for name in names)}; all in {out / 'tables.md'}")
    print(f"sample outputs {out / 'samples.md'}")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
