"""``bittaper study codesign``."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands.options import add_quiet, non_negative_int, parse_widths, positive_int
from studies.common.decoding import add_device, chosen_device
from studies.common.tasks import TaskChoice, add_task

HELP = """the main job: from a model to a Pareto front of NPU and schedule

examples:
  bittaper study codesign
  bittaper study codesign --model path/to/model --data prompts.jsonl --npu my-npu.yaml --out results/mine
  bittaper study codesign --model path/to/model --task self-completion --widths 4,3,2 --out results/stories
  bittaper study codesign --npu my-npu.yaml --study my-limits.yaml --budget 1000 --out results/limits

prompts.jsonl holds an object a line, {"prompt": "...", "reference": "..."}; without any reference, responses are
compared with full precision's. An NPU file starts as a copy of a shipped one, a --study file as a copy of this study's
study.yaml: parameters, objectives and limits. Stopped at any time, the same command goes on where it was.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", default="results/codesign", help="folder of the results (default results/codesign)")
    parser.add_argument("--model", help="model folder, hub name or nested store (default: the shipped model)")
    add_task(parser)
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="what is measured, the first one decides: a registered metric, or package.module:name of an own one "
        "(default: the task's); may be repeated",
    )
    parser.add_argument(
        "--widths", type=parse_widths, metavar="B,B", help="nested widths to measure (default: all that the NPU reads)"
    )
    parser.add_argument("--npu", help="NPU to start from: a name or a YAML file (default: the study's, pmpd-4k)")
    parser.add_argument("--study", metavar="FILE", help="parameters, objectives and limits (default: this study's own)")
    parser.add_argument("--budget", type=positive_int, help="designs to simulate (default: the study's, 300)")
    parser.add_argument("--val-prompts", type=positive_int, default=128, help="validation prompts (default 128)")
    parser.add_argument("--test-prompts", type=positive_int, default=320, help="test prompts (default 320)")
    parser.add_argument("--batch-size", type=positive_int, default=64, help="prompts decoded together (default 64)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of bootstrap and exploration (default 0)")
    add_device(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the study, say what it found and where to look."""
    from hwsim.trace import read_json
    from studies.codesign.inputs import Settings
    from studies.codesign.report import answers
    from studies.codesign.run import run_codesign

    out = Path(args.out)
    run_codesign(
        Settings(
            out=out,
            model=args.model,
            task=TaskChoice.of(args),
            metrics=tuple(args.metric),
            npu=args.npu,
            widths=args.widths,
            study=None if args.study is None else Path(args.study),
            budget=args.budget,
            val_prompts=args.val_prompts,
            test_prompts=args.test_prompts,
            batch_size=args.batch_size,
            device=str(chosen_device(args)),
            dtype=args.dtype,
            seed=args.seed,
            progress=not args.quiet,
        )
    )
    for answer in answers(read_json(out / "codesign.json")):
        print(answer)
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
    print(
        f"tables   {out / 'trials.csv'}, {out / 'pareto.csv'}; numbers and provenance in codesign.json, manifest.json"
    )
