"""``bittaper study bandwidth-budget``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """the least off-chip bandwidth for a decoding speed, by weight bits

An option that may be repeated replaces its whole default. A run that was stopped goes on where it was.

examples:
  bittaper study bandwidth-budget
  bittaper study bandwidth-budget --model all --prompt-tokens 512 --out results/six-models
  bittaper study bandwidth-budget --model phi-1.5 --npu pmpd-4k --target 30 --target 60 --schedule "p4:4>3@40"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/bandwidth-budget", help="folder of the results (default results/bandwidth-budget)"
    )
    parser.add_argument(
        "--model", action="append", metavar="M", help="a shape, or all: the named six (default vicuna-7b); repeatable"
    )
    parser.add_argument("--npu", default="pmpd-16k", help="NPU whose bandwidth is varied (default pmpd-16k)")
    parser.add_argument(
        "--prompt-tokens", action="append", type=positive_int, metavar="P", help="(default 128 and 1024); repeatable"
    )
    parser.add_argument("--decode-tokens", type=positive_int, default=255, metavar="S", help="(default 255)")
    parser.add_argument(
        "--target", action="append", type=float, metavar="X", help="tokens/s (default 5, 10, 20, 50, 200); repeatable"
    )
    parser.add_argument(
        "--weight-bits", action="append", type=positive_int, metavar="B", help="(default 2, 3, 4, 8, 16); repeatable"
    )
    parser.add_argument(
        "--schedule",
        action="append",
        metavar="S",
        help="label of a schedule that switches (default: the static ones of the paper); repeatable",
    )
    parser.add_argument("--kv-bits", type=positive_int, default=16, help="bits of a stored key or value (default 16)")
    parser.add_argument("--lm-head-bits", type=positive_int, default=16, help="bits of an lm_head weight (default 16)")
    parser.add_argument(
        "--scaling",
        default="channels",
        choices=["channels", "rate"],
        help="more bandwidth by more channels of the same speed grade (default), or by faster pins",
    )
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from hwsim import SHAPE_NAMES
    from studies.bandwidth_budget.report import print_tables
    from studies.bandwidth_budget.run import Settings, run_bandwidth_budget

    given = {
        "models": SHAPE_NAMES if args.model == ["all"] else args.model,
        "prompt_tokens": args.prompt_tokens,
        "targets_tokens_per_s": args.target,
        "weight_bits": args.weight_bits,
        "schedules": args.schedule,
    }
    settings = Settings(
        out=Path(args.out),
        npu=args.npu,
        decode_tokens=args.decode_tokens,
        kv_bits=args.kv_bits,
        lm_head_bits=args.lm_head_bits,
        scaling=args.scaling,
        progress=not args.quiet,
        **{name: tuple(values) for name, values in given.items() if values is not None},
    )
    print_tables(run_bandwidth_budget(settings))
    print(f"figures  {', '.join(str(path) for path in sorted(settings.out.glob('*.png')))}")
    names = ", ".join(str(settings.out / f"{name}.csv") for name in ("budget", "bit_value", "map"))
    print(f"tables   {names}; all numbers in bandwidth_budget.json, provenance in manifest.json")
