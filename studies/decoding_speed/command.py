"""``bittaper study decoding-speed``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from studies.commands.options import add_quiet, positive_int


def add(studies: Any) -> None:
    """Add the study to ``bittaper study``."""
    speed = studies.add_parser(
        "decoding-speed", help="tokens/s of batches, steps saved by shared prefixes, caches, and near-ties"
    )
    speed.add_argument(
        "--out", default="results/decoding-speed", help="folder of the results (default results/decoding-speed)"
    )
    speed.add_argument("--repeats", type=positive_int, default=5, help="turns of every timed mode (default 5)")
    speed.add_argument("--quick", action="store_true", help="the shipped model with a handful of prompts only")
    add_quiet(speed)
    speed.set_defaults(start=start)


def start(args: argparse.Namespace) -> None:
    """Run the study and print its tables."""
    from studies.decoding_speed.report import print_tables
    from studies.decoding_speed.run import Settings, run_decoding_speed

    out = Path(args.out)
    print_tables(run_decoding_speed(Settings(out, args.repeats, args.quick, progress=not args.quiet)))
    print(f"tables  {', '.join(str(path) for path in sorted(out.glob('*.csv')))}")
    print(f"figure  {out / 'decoding_speed.png'}")
