"""``bittaper study cpu-decoding``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """decoding on a CPU: cached or unpacked weights, speed and memory

examples:
  bittaper study cpu-decoding
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/cpu-decoding", help="folder of the results (default results/cpu-decoding)"
    )
    parser.add_argument(
        "--repeats",
        type=positive_int,
        default=5,
        help="turns of every mode with the larger model; the small one has five times as many (default 5)",
    )
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.common.output import format_table
    from studies.cpu_decoding.run import Settings, run_cpu_decoding, slower_widths

    out = Path(args.out)
    summary = run_cpu_decoding(Settings(out, repeats=args.repeats, progress=not args.quiet))
    rows = [
        [
            f"{row.model}: {row.mode}",
            str(row.weight_bits),
            f"{row.tokens_per_cpu_s_median:.3g}",
            f"{row.ratio_median:.3f}",
            f"{row.ratio_p20:.3f}..{row.ratio_p80:.3f}",
        ]
        for row in summary.itertuples()
    ]
    print(format_table(["mode", "bits", "tokens per CPU s", "to float32", "20..80%"], rows))
    slower = slower_widths(summary)
    verdict = "MISSED at " + ", ".join(f"{row.model} {row.weight_bits}" for row in slower.itertuples())
    print(f"cached weights not slower than the float model: {'met at every width' if slower.empty else verdict}")
    print(
        f"tables  {out / 'summary.csv'}, {out / 'speed.csv'}, {out / 'memory.csv'}; figure {out / 'cpu_decoding.png'}"
    )
