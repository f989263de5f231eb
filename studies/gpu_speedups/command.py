"""``bittaper study gpu-speedups``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet

HELP = """Tables 3 and 6 of the paper from its kernel latencies, and the same tables for a measured device

examples:
  bittaper study gpu-speedups
  bittaper study gpu-speedups --measured results/gpu --out results/my-gpu
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/gpu-speedups", help="folder of the results (default results/gpu-speedups)"
    )
    parser.add_argument(
        "--measured",
        action="append",
        default=[],
        metavar="FOLDER",
        help="results of bittaper kernels bench on a device; repeatable",
    )
    add_quiet(parser)  # it shows no bar; a script may give the option to every study


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.gpu_speedups.report import print_tables
    from studies.gpu_speedups.run import Settings, run_gpu_speedups

    out = Path(args.out)
    print_tables(run_gpu_speedups(Settings(out, tuple(Path(folder) for folder in args.measured))))
    print(f"tables  {', '.join(str(path) for path in sorted(out.glob('*.csv')))}")
    print(f"figure  {out / 'gpu_speedups.png'}")
