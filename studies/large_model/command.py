"""``bittaper study large-model``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """time and memory of quantising a large model, one run killed

examples:
  bittaper study large-model
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/large-model", help="folder of the results (default results/large-model)"
    )
    parser.add_argument(
        "--blocks", type=positive_int, default=4, help="blocks of Llama-2-7B's size; 4 is 1.07B parameters (default)"
    )
    parser.add_argument("--texts", type=positive_int, default=4, help="calibration texts (default 4)")
    parser.add_argument("--max-tokens", type=positive_int, default=128, help="tokens of each (default 128)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.large_model.model import RandomLlama
    from studies.large_model.report import print_table
    from studies.large_model.run import Settings, run_large_model

    dimensions = RandomLlama(num_hidden_layers=args.blocks)
    out = Path(args.out)
    rows = run_large_model(Settings(out, dimensions, args.texts, args.max_tokens, progress=not args.quiet))
    print_table(rows)
    print(f"table {out / 'processes.csv'}; figure {out / 'memory.png'}")
