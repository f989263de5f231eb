"""``bittaper evaluate``: measured quality and traces of a model under schedules."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import InputError, Schedule, file_sha256, read_text
from studies.commands.options import add_json, add_quiet, non_negative_int, parse_schedule, positive_int
from studies.common.output import format_table, print_json
from studies.common.tasks import TaskChoice, add_task, make_chosen_task

if TYPE_CHECKING:
    from torch.nn import Module

    from accuracy.statistics import Interval

HELP = """measured quality of a model's text under schedules, with traces for the simulator; perplexity

--model is a nested store (bittaper quantize) or, for full precision only, an unquantised model. --out holds
quality.json, one trace a schedule and per-prompt results; a run that was stopped goes on where it was.

Perplexity needs no task: a window slides over --text, and every token but the first is scored once. It is given per
token, per word (as white space parts them) and as bits per UTF-8 byte; the last two compare different tokenizers.

examples:
  bittaper evaluate --model path/to/store --schedule 16 --schedule p4:4>3@20 --out results/eval
  bittaper evaluate --model path/to/store --data prompts.jsonl --split test --limit 300 --metric bleu --out results/eval
  bittaper evaluate --model path/to/store --metric perplexity --text book.txt --schedule 4 --schedule 3
  bittaper evaluate --model path/to/store --metric perplexity --text book.txt --window 512 --stride 128 --json
"""

PERPLEXITY = "perplexity"
NORMALISATION = {
    "perplexity_per_token": "exp(nll / tokens)",
    "perplexity_per_word": "exp(nll / words), words as white space parts them",
    "bits_per_byte": "nll / ln 2 / UTF-8 bytes",
    "nll": "negative log-likelihood (nats) of every token but the first, which nothing precedes",
}


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
    parser.add_argument(
        "--metric", action="append", metavar="NAME", help="perplexity, or one of the task's; may be repeated"
    )
    parser.add_argument("--out", help="folder of the run; needed except for perplexity")
    parser.add_argument(
        "--batch-size", type=positive_int, metavar="N", help="prompts (default 32) or windows (default 8) run together"
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
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
        _perplexity(args)
        return
    if args.metric is not None and PERPLEXITY in args.metric:
        raise InputError(f"--metric {PERPLEXITY}: is measured on --text, not on prompts; ask for it alone")
    for option in ("text", "window", "stride"):
        if (value := getattr(args, option)) is not None:
            raise InputError(f"--{option} {value}: is for --metric {PERPLEXITY} only; leave it out")
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
        metrics=args.metric,
        seed=args.seed,
        batch_size=args.batch_size or 32,
        progress=not args.quiet,
    )
    if args.json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    rows = [
        [
            record.scheduler_label,
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
    if not text.strip():
        raise InputError(f"--text {args.text}: holds no word; give a file with text")
    lm = load_model(args.model, device=args.device)
    schedules = _schedules(args, lm.model)
    for schedule in schedules:
        if len(schedule.widths()) > 1:
            raise InputError(f"--schedule {schedule.label()}: {PERPLEXITY} has no decode steps; give uniform widths")
    found = {
        bits: perplexity(
            lm,
            text,
            bits,
            window=args.window,
            stride=args.stride,
            batch_size=args.batch_size or 8,
            seed=args.seed,
            progress=not args.quiet,
        )
        for bits in dict.fromkeys(schedule.prefill_weight_bits for schedule in schedules)
    }
    one = next(iter(found.values()))
    if args.json:
        print_json(
            {
                "model": lm.name,
                "model_sha256": lm.model_sha256,
                "store_sha256": lm.store_sha256,
                "text": args.text,
                "text_sha256": file_sha256(args.text),
                "window_tokens": one.window,
                "stride_tokens": one.stride,
                "windows": one.per_token.n,
                "tokens": one.tokens,
                "words": one.words,
                "utf8_bytes": one.utf8_bytes,
                "normalisation": NORMALISATION,
                "interval": f"95% bootstrap over windows, seed {args.seed}",
                "widths": [
                    {
                        "weight_bits": bits,
                        "perplexity_per_token": _interval(width.per_token),
                        "perplexity_per_word": _interval(width.per_word),
                        "bits_per_byte": _interval(width.bits_per_byte),
                    }
                    for bits, width in found.items()
                ],
            }
        )
        return
    rows = [
        [str(bits), *map(_cell, (width.per_token, width.per_word, width.bits_per_byte))]
        for bits, width in found.items()
    ]
    print(format_table(["width", "perplexity per token", "per word", "bits per byte"], rows))
    print(
        f"{one.tokens} tokens (all but the first), {one.words} words (as white space parts them), {one.utf8_bytes} "
        f"UTF-8 bytes; n = {one.per_token.n} windows of {one.window} tokens, stride {one.stride}; 95% intervals over "
        f"windows, seed {args.seed}"
    )


def _interval(one: Interval) -> dict[str, float]:
    return {"value": one.value, "ci_low": one.low, "ci_high": one.high}


def _cell(one: Interval) -> str:
    return f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"
