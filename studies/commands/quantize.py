"""``bittaper quantize``: a model folder into one store of quantised weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError, read_json, read_text
from studies.commands.options import add_json, add_quiet, positive_int
from studies.common.output import format_table, print_json, si

if TYPE_CHECKING:
    from accuracy.quantization import Method

HELP = """a model into one nested weight store that holds every width

IN is a local Hugging Face folder or a hub name; OUT appears only when it is complete. One decoder block is in memory
at a time. A run that was stopped leaves its finished blocks in OUT.partial; the same command goes on from there.

methods:
  nested   exact 1-D k-means at --min-bits, then exact two-way splits up to --max-bits; every width from one store
  gptq     second-order rounding on a uniform grid (needs --calibration); one width, --bits
  rtn      rounding to nearest on a uniform grid; one width, --bits

examples:
  bittaper quantize path/to/model path/to/store
  bittaper quantize path/to/model path/to/store --min-bits 2 --max-bits 4 --drop-full-precision
  bittaper quantize path/to/model path/to/store --sensitivity fisher --calibration texts.json
  bittaper quantize path/to/model path/to/store --max-bits 4 --sensitivity hessian --calibration texts.txt
  bittaper quantize path/to/model path/to/store --min-bits 2 --max-bits 2 --average-bits 2.39
  bittaper quantize path/to/model path/to/store --method gptq --bits 3 --group-size 128 --calibration texts.txt
"""

# Which options belong to which method, with the defaults that apply when they are not given.
NESTED: dict[str, Any] = {
    "min_bits": 2,
    "max_bits": 8,
    "sensitivity": "none",
    "joint_bits": None,
    "outlier_share": 0.0,
    "average_bits": None,
    "outliers_by": "magnitude",
}
UNIFORM: dict[str, Any] = {"bits": None, "symmetric": False}
GPTQ: dict[str, Any] = {**UNIFORM, "act_order": False, "damping": 0.01}
OPTIONS = {"nested": NESTED, "gptq": GPTQ, "rtn": UNIFORM}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; those of a method have no default here, so that a misplaced one is noticed."""
    parser.add_argument("source", metavar="IN", help="model folder or hub name")
    parser.add_argument("out", metavar="OUT", help="folder of the store; must not exist")
    parser.add_argument("--method", choices=sorted(OPTIONS), default="nested", help="nested (default), gptq or rtn")
    parser.add_argument("--group-size", type=positive_int, help="columns that share a codebook (default: whole row)")
    parser.add_argument("--calibration", metavar="FILE", help="texts: a JSON list, or text with blank lines between")
    parser.add_argument("--max-tokens", type=positive_int, default=512, help="longest part of a text read (512)")
    parser.add_argument(
        "--drop-full-precision", action="store_true", help="leave the unquantised weights (width 16) out of the store"
    )
    nested = parser.add_argument_group("nested")
    nested.add_argument("--min-bits", type=int, help="seed width, the narrowest that runs (default 2)")
    nested.add_argument("--max-bits", type=int, help="widest nested width (default 8)")
    nested.add_argument(
        "--sensitivity",
        help="none (default); fisher: squared gradients weigh the errors; hessian: codes repair each other's errors",
    )
    nested.add_argument("--joint-bits", type=int, help="choose the clusters up to this width together (default: not)")
    nested.add_argument("--outlier-share", type=float, help="part of the weights kept apart as outliers (default 0)")
    nested.add_argument(
        "--average-bits", type=float, help="as many outliers as bring --min-bits to this average width (2.39)"
    )
    nested.add_argument("--outliers-by", help="magnitude (default) or sensitivity")
    uniform = parser.add_argument_group("gptq and rtn")
    uniform.add_argument("--bits", type=int, help="the width")
    uniform.add_argument("--symmetric", action="store_true", default=None, help="centre the grids on zero")
    uniform.add_argument("--act-order", action="store_true", default=None, help="gptq: columns by falling curvature")
    uniform.add_argument("--damping", type=float, help="gptq: added to the curvature, as part of its mean (0.01)")
    add_quiet(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Quantise and print what was made."""
    from accuracy.quantization import quantize

    method = _method(args)
    calibration = None if args.calibration is None else _texts(args.calibration)
    summary = quantize(
        args.source,
        args.out,
        method,
        calibration=calibration,
        max_tokens=args.max_tokens,
        progress=not args.quiet,
    )
    if args.json:
        print_json(
            {
                "folder": str(summary.folder),
                "store_sha256": summary.store_sha256,
                "linears": summary.linears,
                "weights": summary.weights,
                "stored_bytes": summary.stored_bytes,
                "bits_per_weight": {str(bits): read for bits, read in summary.bits_per_weight.items()},
                "relative_error": {str(bits): error for bits, error in summary.relative_error.items()},
                "seconds": summary.seconds,
            }
        )
        return
    print(f"{summary.folder}: {summary.linears} layers, {summary.weights:,} weights in {si(summary.stored_bytes, 'B')}")
    rows = [
        [str(bits), f"{summary.bits_per_weight[bits]:.3f}", f"{error:.3%}"]
        for bits, error in sorted(summary.relative_error.items())
    ]
    print(format_table(["width", "bits read/weight", "squared error / squared weights"], rows))


def _method(args: argparse.Namespace) -> Method:
    """The method's settings out of its own options.

    Raises:
        InputError: If an option of another method is given, or the width is missing.
    """
    from accuracy.quantization import GptqSettings, NestedSettings, RtnSettings

    own = OPTIONS[args.method]
    for name in {**NESTED, **GPTQ}:
        if name not in own and getattr(args, name) is not None:
            where = ", ".join(method for method, names in OPTIONS.items() if name in names)
            raise InputError(f"--{name.replace('_', '-')}: belongs to --method {where}, not {args.method}")
    given = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in own.items()}
    if args.method != "nested" and given["bits"] is None:
        raise InputError(f"--bits is missing: the width that --method {args.method} rounds to")
    common = {"group_size": args.group_size, "keep_full_precision": not args.drop_full_precision}
    if args.method == "rtn":
        return RtnSettings(**given, **common)
    if args.method == "gptq":
        return GptqSettings(**given, **common)
    average_bits = given.pop("average_bits")
    if average_bits is not None:
        if args.outlier_share is not None:
            raise InputError("--average-bits and --outlier-share: give one of them")
        given["outlier_share"] = _share_for(args.source, average_bits, given["min_bits"], args.group_size)
    return NestedSettings(**given, **common)


def _share_for(source: str, average_bits: float, bits: int, group_size: int | None) -> float:
    from accuracy.quantization.checkpoint import Checkpoint
    from accuracy.quantization.sparse import outlier_share_for

    linears = Checkpoint.open(source).linears.values()
    shapes = [(linear.out_features, linear.in_features) for linear in linears]
    return outlier_share_for(average_bits, shapes, bits, group_size)


def _texts(path: str) -> list[str]:
    """Calibration texts of a file: a JSON list, or plain text whose paragraphs are the texts.

    Raises:
        InputError: If there is none, or an empty one.
    """
    if path.endswith(".json"):
        texts = read_json(Path(path))
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(f"{path}: must be a JSON list of texts, none of them empty")
    else:
        texts = [text.strip() for text in read_text(path).split("\n\n") if text.strip()]
    if not texts:
        raise InputError(f"{path}: holds no text")
    return texts
