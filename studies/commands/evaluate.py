"""``bittaper evaluate``: measured quality and traces of a model under schedulers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError, Interpolation, Quality, Schedule
from studies.commands.options import add_json, add_quiet, non_negative_int, parse_schedule, positive_int
from studies.common.decoding import SchedulerChoice, add_decoding, chosen_sampling, load_chosen_model
from studies.common.output import format_table, print_json
from studies.common.perplexity import PERPLEXITY, run_perplexity
from studies.common.tasks import TaskChoice, add_task, make_chosen_task

if TYPE_CHECKING:
    from accuracy.metrics import Metric
    from accuracy.model import LanguageModel
    from accuracy.statistics import Interval
    from accuracy.tasks import Task

HELP = """measured quality of a model's text under schedulers, with traces for the simulator; perplexity

--model is a nested store (bittaper quantize) or, for full precision only, an unquantised model. --out holds
quality.json, one trace a scheduler and per-prompt results; a run that was stopped goes on where it was. Every
scheduler is compared with the first one given, pair by pair, with a bootstrap interval.

--workers N decodes on N processes of this machine, one thread each; --workers tcp://HOST:8786 on those of a running
Dask scheduler, for example one that dask-jobqueue started, which find the model at the same path. Either way the
result is that of one process, and a worker that dies costs only its chunk of prompts.

Perplexity needs no task of prompts: a window slides over --text, or over --task c4 or wikitext, and every token but
the first is scored once. It is given per token, per word (as white space parts them) and as bits per UTF-8 byte; the
last two compare different tokenizers.

examples:
  bittaper evaluate --model path/to/store --schedule 16 --schedule "p4:4>3@20" --out results/eval
  bittaper evaluate --model path/to/store --data prompts.jsonl --split test --limit 300 --metric bleu --out results/eval
  bittaper evaluate --model path/to/store --schedule 4 --scheduler learned:checkpoint=my-scheduler --out results/eval
  bittaper evaluate --model path/to/store --scheduler 'confidence:widths=[4,3],thresholds=[0.9]' --out results/eval
  bittaper evaluate --model path/to/store --scheduler pattern:pattern=first-half,high_bits=4,low_bits=3 \\
                    --scheduler pattern:pattern=last-half,high_bits=4,low_bits=3 --out results/patterns
  bittaper evaluate --model path/to/store --temperature 0.7 --top-p 0.9 --workers 4 --out results/sampled
  bittaper evaluate --model path/to/store --metric perplexity --text book.txt --schedule 4 --schedule 3
  bittaper evaluate --model path/to/store --metric perplexity --task wikitext --split test --window 512 --stride 128
"""

DEFAULT_BATCH_SIZE = 32
LENGTHS_FILE = "lengths.jsonl"
BERTSCORES = ("bertscore", "fidelity_bertscore")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_decoding(
        parser,
        batch_size_help="prompts (default 32) or windows (default 8) run together; 1 measures step times",
        repeated=True,
    )
    add_task(parser, texts=True)
    parser.add_argument("--split", default="val", help="calib, val (default) or test")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N prompts of the split")
    parser.add_argument(
        "--forced-lengths",
        metavar="S",
        help="give every response exactly the length it has under schedule S; with --scheduler pattern, its high width",
    )
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="perplexity, or metrics of responses: registered names or package.module:name; may be repeated",
    )
    parser.add_argument("--encoder", metavar="E", help="folder or hub name of the encoder of bertscore")
    parser.add_argument(
        "--interpolation",
        choices=["linear-in-bits"],
        help="let explorations find schedules between the measured ones this way; quality.json says so",
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="scheduler that the others are compared with (default: the first given)"
    )
    parser.add_argument("--out", help="folder of the run; needed except for perplexity")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the bootstrap (default 0)")
    add_quiet(parser)
    add_json(parser)
    group = parser.add_argument_group("perplexity")
    group.add_argument("--text", metavar="FILE", help="text that it is measured on")
    group.add_argument("--window", type=positive_int, metavar="T", help="tokens a window holds (default: the context)")
    group.add_argument(
        "--stride", type=positive_int, metavar="T", help="tokens from window to window (default: half a window)"
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate and print a table."""
    if args.metric == [PERPLEXITY]:
        run_perplexity(args)
        return
    if args.metric is not None and PERPLEXITY in args.metric:
        raise InputError(f"--metric {PERPLEXITY}: is measured on a text, not on prompts; ask for it alone")
    for option in ("text", "window", "stride"):
        if (value := getattr(args, option)) is not None:
            raise InputError(f"--{option} {value}: is for --metric {PERPLEXITY} only; leave it out")
    if args.out is None:
        raise InputError("--out is missing: the folder that quality.json and the traces go to")
    from accuracy.evaluation import evaluate, read_per_prompt

    choices = args.schedulers or []
    forced = _forced(args, choices)
    sampling = chosen_sampling(args)
    lm = load_chosen_model(args)
    task = make_chosen_task(lm, TaskChoice.of(args))
    metrics = _metrics(args, task)
    choices = choices or _every_width(lm)
    # Made once without lengths, so that what cannot be made is refused before anything runs.
    planned = [choice.make(lm, {} if forced else None) for choice in choices]
    baseline = args.baseline or planned[0].label
    if baseline not in (labels := [scheduler.label for scheduler in planned]):
        raise InputError(f"--baseline {baseline}: is not among the schedulers {', '.join(labels)}")
    lengths = None if forced is None else _lengths(args, lm, task, forced)
    records = evaluate(
        lm,
        task,
        planned if lengths is None else [choice.make(lm, lengths) for choice in choices],
        split=args.split,
        out=Path(args.out),
        limit=args.limit,
        metrics=metrics,
        seed=args.seed,
        batch_size=args.batch_size or DEFAULT_BATCH_SIZE,
        progress=not args.quiet,
        forced_tokens=lengths,
        sampling=sampling,
        workers=args.workers,
        interpolation=None if args.interpolation is None else Interpolation(method=args.interpolation),
    )
    measured = read_per_prompt(args.out)
    differences = [
        measured.difference(record.scheduler_label, baseline, record.metric, seed=args.seed) for record in records
    ]
    if args.json:
        print_json(_as_json(records, differences, baseline))
    else:
        _print(args, task, records, differences, baseline, metrics)


def _every_width(lm: LanguageModel) -> list[SchedulerChoice]:
    """What is measured unless told: every stored width, the highest first."""
    from accuracy.precision import PrecisionSwitch

    return [SchedulerChoice.of_schedule(str(width)) for width in sorted(PrecisionSwitch(lm.model).widths, reverse=True)]


def _forced(args: argparse.Namespace, choices: Sequence[SchedulerChoice]) -> Schedule | None:
    """The schedule whose response lengths all responses are given, if any.

    Raises:
        InputError: If patterns of different high widths leave it open.
    """
    if args.forced_lengths is not None:
        return parse_schedule(args.forced_lengths)
    wanted = {baseline.label(): baseline for choice in choices if (baseline := choice.baseline) is not None}
    if len(wanted) > 1:
        raise InputError(
            f"--scheduler pattern: baselines {', '.join(wanted)} differ in length; say which by --forced-lengths"
        )
    return next(iter(wanted.values()), None)


def _lengths(args: argparse.Namespace, lm: LanguageModel, task: Task, schedule: Schedule) -> dict[str, int]:
    """Response lengths under ``schedule``, which are kept beside the run."""
    from accuracy.evaluation import response_tokens

    return response_tokens(
        lm,
        task,
        schedule,
        split=args.split,
        cache=Path(args.out) / LENGTHS_FILE,
        limit=args.limit,
        batch_size=args.batch_size or DEFAULT_BATCH_SIZE,
        progress=not args.quiet,
        sampling=chosen_sampling(args),
        workers=args.workers,
    )


def _metrics(args: argparse.Namespace, task: Task) -> list[Metric]:
    """The metrics asked for, the task's own by default; ``--encoder`` goes to those that take one."""
    from accuracy.metrics import find_metric

    names = list(dict.fromkeys(args.metric or task.metrics))
    if args.encoder is not None and not set(names) & set(BERTSCORES):
        raise InputError(f"--encoder {args.encoder}: is for --metric {' and '.join(BERTSCORES)}; leave it out")
    return [
        find_metric(name, **({"encoder": args.encoder} if args.encoder is not None and name in BERTSCORES else {}))
        for name in names
    ]


def _as_json(records: Sequence[Quality], differences: Sequence[Interval], baseline: str) -> dict[str, Any]:
    return {
        "records": [record.model_dump(mode="json") for record in records],
        "baseline": baseline,
        "paired_differences": [
            {
                "scheduler_label": record.scheduler_label,
                "metric": record.metric,
                "value": difference.value,
                "ci_low": difference.low,
                "ci_high": difference.high,
            }
            for record, difference in zip(records, differences, strict=True)
        ],
    }


def _print(
    args: argparse.Namespace,
    task: Task,
    records: Sequence[Quality],
    differences: Sequence[Interval],
    baseline: str,
    metrics: Sequence[Metric],
) -> None:
    header = ["scheduler", "mean bits", "metric", "value", "95% interval", f"less {baseline}", "95% interval"]
    rows = [
        [
            record.scheduler_label,
            f"{record.mean_decode_bits:.3f}",
            record.metric,
            f"{record.value:.2f}",
            f"[{record.ci_low:.2f}, {record.ci_high:.2f}]",
            *(
                ["", ""]
                if record.scheduler_label == baseline
                else [f"{change.value:+.2f}", f"[{change.low:+.2f}, {change.high:+.2f}]"]
            ),
        ]
        for record, change in zip(records, differences, strict=True)
    ]
    print(format_table(header, rows))
    for metric in metrics:
        print(f"{metric.name}: {metric.description}")
    one = records[0]
    turns = "" if task.turns == 1 else f" conversations of {task.turns} turns"
    print(
        f"{one.task} {one.split}, n = {one.n}{turns}, {one.decoding}; paired bootstrap, seed {one.seed}; "
        f"quality.json and traces are in {args.out}"
    )
