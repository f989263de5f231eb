"""``bittaper evaluate``: measured quality and traces of a model under schedules."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import InputError, Schedule, read_text
from studies.commands.options import add_json, add_quiet, non_negative_int, parse_schedule, positive_int
from studies.common.output import format_table, print_json
from studies.common.tasks import TaskChoice, add_task, make_chosen_task

if TYPE_CHECKING:
    from torch.nn import Module

HELP = """measured quality of a model's text under schedules, with traces for the simulator

--model is a nested store (bittaper quantize) or, for full precision only, an unquantised model. --out holds
quality.json, one trace a schedule and per-prompt results; a run that was stopped goes on where it was.

examples:
  bittaper evaluate --model path/to/store --schedule 16 --schedule p4:4>3@20 --out results/eval
  bittaper evaluate --model path/to/store --data prompts.jsonl --split test --limit 300 --out results/eval
  bittaper evaluate --model path/to/store --metrics perplexity --text book.txt --schedule 4 --schedule 3
"""

PERPLEXITY = "perplexity"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--model", required=True, help="nested store, model folder, or hub name")
    add_task(parser)
    parser.add_argument("--split", default="val", help="calib, val (default) or test")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N prompts of the split")
    parser.add_argument(
        "--schedule",
        action="append",
        metavar="S",
        help="a width (4), a label (p4:4>3@40) or a schedule.json; may be repeated (default: every stored width)",
    )
    parser.add_argument("--metrics", help="comma-separated names (default: the task's), or perplexity")
    parser.add_argument("--text", metavar="FILE", help="text that perplexity is measured on")
    parser.add_argument("--out", help="folder of the run; needed except for perplexity")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="prompts decoded together (default 32)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    add_quiet(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print a table."""
    metrics = None if args.metrics is None else [name.strip() for name in args.metrics.split(",")]
    if metrics == [PERPLEXITY]:
        _perplexity(args)
        return
    if args.text is not None:
        raise InputError(f"--text {args.text}: is read for --metrics {PERPLEXITY} only")
    if args.out is None:
        raise InputError("--out is missing: the folder that quality.json and the traces go to")
    from accuracy.evaluation import evaluate
    from accuracy.model import load_model

    lm = load_model(args.model, device=args.device)
    records = evaluate(
        lm,
        make_chosen_task(lm, TaskChoice.of(args)),
        _schedules(args, lm.model),
        split=args.split,
        out=Path(args.out),
        limit=args.limit,
        metrics=metrics,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=not args.quiet,
    )
    if args.json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    rows = [
        [
            record.schedule.label(),
            f"{record.mean_decode_bits:.3f}",
            record.metric,
            f"{record.value:.2f}",
            f"{record.ci_low:.2f}",
            f"{record.ci_high:.2f}",
        ]
        for record in records
    ]
    print(format_table(["schedule", "mean bits", "metric", "value", "95% low", "95% high"], rows))
    print(f"n = {records[0].n} prompts, seed {args.seed}; quality.json and traces are in {args.out}")


def _schedules(args: argparse.Namespace, model: Module) -> list[Schedule]:
    from accuracy.precision import PrecisionSwitch

    if args.schedule:
        return [parse_schedule(text) for text in args.schedule]
    return [Schedule.uniform(width) for width in sorted(PrecisionSwitch(model).widths, reverse=True)]


def _perplexity(args: argparse.Namespace) -> None:
    from accuracy.model import load_model
    from accuracy.perplexity import perplexity

    if args.text is None:
        raise InputError(f"--text is missing: the file that {PERPLEXITY} is measured on")
    text = read_text(args.text)
    lm = load_model(args.model, device=args.device)
    found = {}
    for schedule in _schedules(args, lm.model):
        if len(schedule.widths()) > 1:
            raise InputError(f"--schedule {schedule.label()}: {PERPLEXITY} has no decode steps; give uniform widths")
        found[schedule.prefill_weight_bits] = perplexity(lm, text, schedule.prefill_weight_bits, seed=args.seed)
    if args.json:
        print_json(
            {
                str(bits): {
                    "perplexity": one.interval.value,
                    "ci_low": one.interval.low,
                    "ci_high": one.interval.high,
                    "windows": one.interval.n,
                    "tokens": one.tokens,
                    "bits_per_byte": one.bits_per_byte,
                }
                for bits, one in found.items()
            }
        )
        return
    rows = [
        [
            str(bits),
            f"{one.interval.value:.4f}",
            f"{one.interval.low:.4f}",
            f"{one.interval.high:.4f}",
            f"{one.bits_per_byte:.4f}",
        ]
        for bits, one in found.items()
    ]
    print(format_table(["width", "perplexity", "95% low", "95% high", "bits/byte"], rows))
    one = next(iter(found.values()))
    windows = f"{one.interval.n} windows of {lm.shape.max_context} tokens, stride half of that"
    print(f"perplexity is per token: {one.tokens} tokens scored in {windows}")
