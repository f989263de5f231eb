"""``bittaper study codesign``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, non_negative_int, positive_int
from studies.common.tasks import TaskChoice, add_task

HELP = """the main job: from a model to a Pareto front of NPU and schedule

examples:
  bittaper study codesign
  bittaper study codesign --model path/to/model --data prompts.jsonl --out results/mine
  bittaper study codesign --npu my-npu.yaml --budget 1000
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", default="results/codesign", help="folder of the results (default results/codesign)")
    parser.add_argument("--model", help="model folder or hub name (default: the shipped model)")
    add_task(parser)
    parser.add_argument("--npu", help="NPU to start from: a name or a YAML file (default pmpd-4k)")
    parser.add_argument("--budget", type=positive_int, help="designs to simulate (default 300)")
    parser.add_argument("--val-prompts", type=positive_int, default=128, help="validation prompts (default 128)")
    parser.add_argument("--test-prompts", type=positive_int, default=320, help="test prompts (default 320)")
    parser.add_argument("--batch-size", type=positive_int, default=64, help="prompts decoded together (default 64)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of bootstrap and exploration (default 0)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from studies.codesign.run import Settings, run_codesign

    out = Path(args.out)
    run_codesign(
        Settings(
            out=out,
            model=args.model,
            task=TaskChoice.of(args),
            npu=args.npu,
            budget=args.budget,
            val_prompts=args.val_prompts,
            test_prompts=args.test_prompts,
            batch_size=args.batch_size,
            seed=args.seed,
            progress=not args.quiet,
        )
    )
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
    print(
        f"tables   {out / 'trials.csv'}, {out / 'pareto.csv'}; numbers and provenance in codesign.json, manifest.json"
    )
