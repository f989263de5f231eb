"""``bittaper study paper``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from studies.commands.options import add_quiet, positive_int
from studies.common.tasks import TaskChoice, add_task

KEPT_RUN = Path(__file__).parents[1] / "pmpd" / "results"
"""What ``--pmpd kept`` reads: a run of ``bittaper study pmpd`` on four small models."""

HELP = """every figure and table of the paper: its value, ours, the difference and why

Without options, what needs a large model is measured on small ones that fit a CPU, and says so. --model takes an
unquantised model of any size instead: it is quantised, its schedulers are trained, and the same tables are made. It
is asked one of the paper's tasks with --task, or own prompts with --data; without either it continues beginnings that
it samples itself, by 128 tokens. Table 2 asks MT-Bench's questions whatever --task says.
What is there is not made again; a stopped run goes on where it was.

examples:
  bittaper study paper --list
  bittaper study paper --only fig-5 --only table-5
  bittaper study paper --pmpd kept
  bittaper study paper --only table-2 --model path/to/vicuna-7b --questions question.jsonl --device cuda
  bittaper study paper --only table-1 --model path/to/phi-1.5 --task dialogsum --device cuda
  bittaper study paper --only table-9 --model path/to/model --data prompts.jsonl --max-new-tokens 64 --limit 100
  bittaper study paper --only table-3 --measured results/gpu/bench
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", default="results/paper", help="folder of the results (default results/paper)")
    parser.add_argument("--list", action="store_true", help="name every result, what it runs on and how long it takes")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="one result of --list (default: all); repeatable"
    )
    parser.add_argument(
        "--subject",
        action="append",
        default=[],
        metavar="NAME",
        help="small model to measure on: selvic, stories260K, m30k-fren-2M, fren-paragraphs-4M (default selvic, for "
        "fig-2 also stories260K; table-2 always takes stories260K); repeatable",
    )
    parser.add_argument(
        "--pmpd",
        metavar="FOLDER",
        help="read this finished run of bittaper study pmpd instead of measuring again; kept: the one on four models "
        "that comes with the program",
    )
    parser.add_argument(
        "--measured",
        action="append",
        default=[],
        metavar="FOLDER",
        help="results of bittaper kernels bench, for the GPU tables; repeatable",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a handful of prompts of the shipped or own model, for a look"
    )
    add_quiet(parser)
    group = parser.add_argument_group("own model")
    group.add_argument("--model", metavar="FOLDER", help="unquantised Hugging Face model to measure quality on")
    group.add_argument(
        "--questions", metavar="FILE", help="MT-Bench's question.jsonl, for table-2 and an own model's fig-2"
    )
    group.add_argument("--device", default="cpu", help="where it runs (default cpu)")
    group.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help="prompts that are reported (default 320); of table-2, with any model, questions (default all that fit)",
    )
    add_task(parser, default="to continue beginnings that the model samples itself")


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    from hwsim.trace import InputError
    from studies.paper.catalogue import RESULTS

    if args.list:
        rows = [[one.name, one.title, one.takes, one.runs_on] for one in RESULTS.values()]
        print(_left_aligned(["name", "result", "takes", "runs on"], rows))
        return
    from studies.paper.files import read_result
    from studies.paper.report import headlines
    from studies.paper.result import Request
    from studies.paper.run import kept_names, run_paper

    task = TaskChoice.of(args)
    device = None if args.device == "cpu" else args.device
    for option, value in {"device": device, **asdict(task)}.items():
        if args.model is None and value is not None:
            shown = "" if value is True else f" {value}"
            raise InputError(
                f"--{'task' if option == 'name' else option.replace('_', '-')}{shown}: is for --model; "
                "give one, or leave it out"
            )
    if args.model is not None and (given := [name for name in ("subject", "pmpd") if getattr(args, name)]):
        raise InputError(f"--model {args.model}: takes the place of --{given[0]}; leave one of them out")
    request = Request(
        out=Path(args.out),
        subjects=tuple(args.subject),
        model=args.model,
        task=task,
        questions=_path(args.questions),
        device=args.device,
        limit=args.limit,
        pmpd=KEPT_RUN if args.pmpd == "kept" else _path(args.pmpd),
        measured=tuple(Path(folder) for folder in args.measured),
        quick=args.quick,
        progress=not args.quiet,
    )
    missing = run_paper(request, args.only)
    out = request.out
    for name in args.only or kept_names(out):
        print(f"{RESULTS[name].title}; all numbers in {out / f'{name}.csv'}")
        header = ["", "case", "paper", "ours", "unit", "n", "how"]
        print(_left_aligned(header, headlines(read_result(out, name))), end="\n\n")
    for name, why in missing.items():
        print(f"not made: {name}: {why}")
    print(f"summary  {out / 'summary.md'}; all comparisons in {out / 'comparisons.csv'}")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def _left_aligned(header: list[str], rows: list[list[str]]) -> str:
    """Columns of words."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )
