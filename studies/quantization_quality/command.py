"""``bittaper study quantization-quality``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet

HELP = """perplexity, fidelity and bytes of every quantiser at 2..8 bits

examples:
  bittaper study quantization-quality
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out",
        default="results/quantization-quality",
        help="folder of the results (default results/quantization-quality); a run that was stopped goes on in it",
    )
    parser.add_argument("--quick", action="store_true", help="a few stores and texts of the shipped model only")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.quantization_quality.report import print_summary
    from studies.quantization_quality.run import Settings, run_quantization_quality

    out = Path(args.out)
    print_summary(run_quantization_quality(Settings(out, quick=args.quick, progress=not args.quiet)))
    print(f"tables   {', '.join(str(out / f'{name}.csv') for name in ('quality', 'bytes', 'nested_store'))}")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
