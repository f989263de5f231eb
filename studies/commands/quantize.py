"""``bittaper quantize``: a model folder into one nested weight store."""

from __future__ import annotations

import argparse
from pathlib import Path

from hwsim.trace import InputError, read_json
from studies.commands.options import add_json, add_quiet, positive_int
from studies.common.output import format_table, print_json, si

HELP = """a model into one nested weight store that holds every width

IN is a local Hugging Face folder or a hub name; OUT appears only when it is complete.

examples:
  bittaper quantize path/to/model path/to/store
  bittaper quantize path/to/model path/to/store --min-bits 2 --max-bits 4 --drop-full-precision
  bittaper quantize path/to/model path/to/store --sensitivity fisher --calibration texts.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", metavar="IN", help="model folder or hub name")
    parser.add_argument("out", metavar="OUT", help="folder of the store; must not exist")
    parser.add_argument("--min-bits", type=int, default=2, help="seed width, the narrowest that runs (default 2)")
    parser.add_argument("--max-bits", type=int, default=8, help="widest nested width (default 8)")
    parser.add_argument("--group-size", type=positive_int, help="columns that share a codebook (default: whole row)")
    parser.add_argument("--sensitivity", default="none", help="none (default) or fisher: squared gradients")
    parser.add_argument("--calibration", metavar="FILE", help="JSON list of texts for fisher")
    parser.add_argument(
        "--drop-full-precision", action="store_true", help="leave the unquantised weights (width 16) out of the store"
    )
    add_quiet(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Quantise and print what was made."""
    from accuracy.quantization import NestedSettings, quantize

    settings = NestedSettings(
        min_bits=args.min_bits,
        max_bits=args.max_bits,
        group_size=args.group_size,
        keep_full_precision=not args.drop_full_precision,
        sensitivity=args.sensitivity,
    )
    calibration = None if args.calibration is None else _texts(args.calibration)
    summary = quantize(args.source, args.out, settings, calibration=calibration, progress=not args.quiet)
    if args.json:
        print_json(
            {
                "folder": str(summary.folder),
                "store_sha256": summary.store_sha256,
                "linears": summary.linears,
                "weights": summary.weights,
                "stored_bytes": summary.stored_bytes,
                "relative_error": {str(bits): error for bits, error in summary.relative_error.items()},
                "seconds": summary.seconds,
            }
        )
        return
    print(f"{summary.folder}: {summary.linears} layers, {summary.weights:,} weights in {si(summary.stored_bytes, 'B')}")
    rows = [[str(bits), f"{error:.3%}"] for bits, error in sorted(summary.relative_error.items())]
    print(format_table(["width", "squared error / squared weights"], rows))


def _texts(path: str) -> list[str]:
    texts = read_json(Path(path))
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{path}: must be a JSON list of texts, none of them empty")
    return texts
