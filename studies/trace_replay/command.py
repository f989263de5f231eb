"""``bittaper study trace-replay``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, positive_int

HELP = """measured step times of a GPU or CPU beside the NPU model's, over the same steps

Without --trace, the shipped model is decoded on this machine's CPU. With several, each is a column of the figure.

examples:
  bittaper study trace-replay
  bittaper study trace-replay --trace results/gpu/trace.jsonl --npu pmpd-16k --out results/replayed
  bittaper study trace-replay --trace mine.jsonl --npu my-npu.yaml --model llama-3-8b
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--out", default="results/trace-replay", help="folder of the results (default results/trace-replay)"
    )
    parser.add_argument(
        "--trace", action="append", default=[], metavar="FILE", help="trace with measured step times; repeatable"
    )
    parser.add_argument("--npu", default="pmpd-4k", help="a named NPU or a YAML file (default pmpd-4k)")
    parser.add_argument("--model", help="simulate this shape in place of the traces' own; labelled so")
    parser.add_argument(
        "--prompts", type=positive_int, default=32, metavar="N", help="of the trace that is recorded here (default 32)"
    )
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.trace_replay.report import print_tables
    from studies.trace_replay.run import Settings, run_trace_replay

    out = Path(args.out)
    traces = [Path(path) for path in args.trace]
    print_tables(run_trace_replay(Settings(out, traces, args.npu, args.model, args.prompts, not args.quiet)))
    print(f"tables  {', '.join(str(path) for path in sorted(out.glob('*.csv')))}")
    print(f"figure  {out / 'trace_replay.png'}")
