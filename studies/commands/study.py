"""``bittaper study``: run a study by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from studies.commands.options import add_quiet, non_negative_int, positive_int
from studies.common.tasks import TaskChoice, add_task

HELP = """a whole study: numbers, figures and a report

codesign    quantise a model, measure schedules, explore NPU and schedule together, re-measure on test prompts
validation  the simulator against published measurements and other simulators, with every fitted parameter

examples:
  bittaper study codesign
  bittaper study codesign --model path/to/model --data prompts.jsonl --out results/mine
  bittaper study codesign --npu my-npu.yaml --budget 1000
  bittaper study validation
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    studies = parser.add_subparsers(dest="study", metavar="NAME", required=True)
    _add_codesign(studies)
    _add_validation(studies)


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    args.start(args)


def _add_codesign(studies: Any) -> None:
    codesign = studies.add_parser(
        "codesign",
        help="the main job: from a model to a Pareto front of NPU and schedule",
        epilog=HELP.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    codesign.add_argument("--out", default="results/codesign", help="folder of the results (default results/codesign)")
    codesign.add_argument("--model", help="model folder or hub name (default: the shipped model)")
    add_task(codesign)
    codesign.add_argument("--npu", help="NPU to start from: a name or a YAML file (default pmpd-4k)")
    codesign.add_argument("--budget", type=positive_int, help="designs to simulate (default 300)")
    codesign.add_argument("--val-prompts", type=positive_int, default=128, help="validation prompts (default 128)")
    codesign.add_argument("--test-prompts", type=positive_int, default=320, help="test prompts (default 320)")
    codesign.add_argument("--batch-size", type=positive_int, default=64, help="prompts decoded together (default 64)")
    codesign.add_argument("--seed", type=non_negative_int, default=0, help="of bootstrap and exploration (default 0)")
    add_quiet(codesign)
    codesign.set_defaults(start=_run_codesign)


def _run_codesign(args: argparse.Namespace) -> None:
    from studies.codesign.run import Settings, run_codesign

    out = Path(args.out)
    report = run_codesign(
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
    print(f"report   {report}")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
    print(
        f"tables   {out / 'trials.csv'}, {out / 'pareto.csv'}; numbers and provenance in codesign.json, manifest.json"
    )


def _add_validation(studies: Any) -> None:
    validation = studies.add_parser("validation", help="the simulator against published numbers, in one table")
    validation.add_argument(
        "--out", default="results/validation", help="folder of the results (default results/validation)"
    )
    add_quiet(validation)
    validation.set_defaults(start=_run_validation)


def _run_validation(args: argparse.Namespace) -> None:
    from studies.validation.report import print_summary
    from studies.validation.run import run_validation

    out = Path(args.out)
    print_summary(run_validation(out, progress=not args.quiet))
    print(f"tables   {out / 'validation.csv'}, {out / 'fitted.csv'}, one of details for each check")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
