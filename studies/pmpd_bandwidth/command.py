"""``bittaper study pmpd-bandwidth``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """the least bandwidth that keeps a speed at no loss of quality: PMPD against uniform widths

Qualities are the paper's (Table 1); timing is simulated here. A stopped run goes on where it was.
An option that may be repeated replaces its whole default.

examples:
  bittaper study pmpd-bandwidth
  bittaper study pmpd-bandwidth --model vicuna-7b --target 10 --target 30 --out results/vicuna
  bittaper study pmpd-bandwidth --loss 0 --loss 0.01 --loss 0.05 --npu pmpd-4k --macs 4096
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/pmpd-bandwidth", help="folder of the results (default results/pmpd-bandwidth)"
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="M",
        help="of the published table (default vicuna-7b, mobilellama-1.4b, phi-1.5); repeatable",
    )
    parser.add_argument(
        "--target", action="append", type=float, metavar="X", help="tokens/s (default 15 and 50); repeatable"
    )
    parser.add_argument(
        "--loss",
        action="append",
        type=float,
        metavar="L",
        help="share of the high-precision quality that may be lost (default 0 and 0.02); repeatable",
    )
    parser.add_argument("--npu", default="pmpd-16k", help="NPU that is changed (default pmpd-16k)")
    parser.add_argument(
        "--channels",
        action="append",
        type=positive_int,
        metavar="N",
        help="memory channels (default 4, 16); repeatable",
    )
    parser.add_argument(
        "--macs", action="append", type=positive_int, metavar="N", help="array sizes (default 4096, 16384); repeatable"
    )
    parser.add_argument("--workers", type=positive_int, default=1, metavar="N", help="processes (default 1)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.pmpd_bandwidth.report import savings_text
    from studies.pmpd_bandwidth.run import Settings, run_pmpd_bandwidth

    given = {
        "models": args.model,
        "targets_tokens_per_s": args.target,
        "losses": args.loss,
        "channels": args.channels,
        "macs": args.macs,
    }
    settings = Settings(
        out=Path(args.out),
        npu=args.npu,
        workers=args.workers,
        progress=not args.quiet,
        **{name: tuple(values) for name, values in given.items() if values is not None},
    )
    print(savings_text(run_pmpd_bandwidth(settings)["savings"]))
    print(f"\nfigure   {settings.out / 'savings.png'}")
    print(
        f"tables   {settings.out / 'answers.csv'}, {settings.out / 'savings.csv'}; all numbers in pmpd_bandwidth.json"
    )
