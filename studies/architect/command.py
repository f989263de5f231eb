"""``bittaper study architect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.architect.questions import QUESTIONS
from studies.commands.options import add_quiet, positive_int

_NAMES = "\n".join(f"  {name:<14}{question.summary}" for name, question in QUESTIONS.items())

HELP = f"""questions of a hardware architect, each answered in a sentence with its numbers

questions:
{_NAMES}

An option that may be repeated replaces its whole default. Neither torch nor a GPU is needed.

examples:
  bittaper study architect
  bittaper study architect --only templates --only memory-bound --model llama-3-8b --npu server-hbm3e
  bittaper study architect --only buffer-sizes --npu my-npu.yaml --prompt-tokens 1024
  bittaper study architect --only memory-bound --context 128 --context 1024 --batch 1 --batch 8 --batch 64
  bittaper study architect --only bit-value --model phi-1.5 --target 20 --target 100 --out results/phi
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", default="results/architect", help="folder of the results (default results/architect)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a question of the list below; repeatable"
    )
    parser.add_argument("--model", default="vicuna-7b", help="a shape: a name, or a config.json (default vicuna-7b)")
    parser.add_argument("--npu", default="pmpd-16k", help="NPU to start from: a name or a file (default pmpd-16k)")
    parser.add_argument(
        "--prompt-tokens", type=positive_int, default=512, metavar="P", help="tokens of the prompt (default 512)"
    )
    parser.add_argument(
        "--decode-tokens", type=positive_int, default=255, metavar="S", help="decode steps (default 255)"
    )
    parser.add_argument(
        "--weight-bits",
        action="append",
        type=positive_int,
        metavar="B",
        help="a width (default: those of 2, 3, 4 and 16 that run); repeatable",
    )
    parser.add_argument(
        "--target", action="append", type=float, metavar="X", help="tokens/s (default 10 and 50); repeatable"
    )
    parser.add_argument(
        "--context",
        action="append",
        type=positive_int,
        metavar="C",
        help="tokens of context that memory-bound, energy and kv-bits compare (default: a ladder each); repeatable",
    )
    parser.add_argument(
        "--batch",
        action="append",
        type=positive_int,
        metavar="N",
        help="sequences decoded together that memory-bound and kv-bits compare (default: a ladder each); repeatable",
    )
    parser.add_argument("--kv-bits", type=positive_int, default=16, help="bits of a stored key or value (default 16)")
    parser.add_argument("--lm-head-bits", type=positive_int, default=16, help="bits of an lm_head weight (default 16)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Answer the questions and say where to look."""
    from studies.architect.run import run_architect
    from studies.architect.settings import Settings, with_widths_that_run

    given = {
        "weight_bits": args.weight_bits,
        "targets_tokens_per_s": args.target,
        "contexts": args.context,
        "batches": args.batch,
    }
    settings = Settings(
        out=Path(args.out),
        model=args.model,
        npu=args.npu,
        prompt_tokens=args.prompt_tokens,
        decode_tokens=args.decode_tokens,
        kv_bits=args.kv_bits,
        lm_head_bits=args.lm_head_bits,
        progress=not args.quiet,
        **{name: tuple(values) for name, values in given.items() if values is not None},
    )
    if args.weight_bits is None:
        settings = with_widths_that_run(settings)
    answers = run_architect(settings, args.only)
    for name, answer in answers.items():
        print(f"{name}: {QUESTIONS[name].question()}\n  {answer}\n")
    print(f"figures  {settings.out}/*.png and .svg, one for each question")
    print(f"tables   {settings.out}/*.csv; sentences and assumptions in *.json, provenance in manifest.json")
