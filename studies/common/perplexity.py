"""Perplexity at the command line: of a text, at uniform widths."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.trace import FULL_PRECISION_BITS, InputError, read_text
from studies.common.decoding import load_chosen_model
from studies.common.output import format_table, print_json

if TYPE_CHECKING:
    from accuracy.model import LanguageModel
    from accuracy.perplexity import Perplexity
    from accuracy.statistics import Interval

PERPLEXITY = "perplexity"
NORMALISATION = {
    "perplexity_per_token": "exp(nll / tokens)",
    "perplexity_per_word": "exp(nll / words), words as white space parts them",
    "bits_per_byte": "nll / ln 2 / UTF-8 bytes",
    "nll": "negative log-likelihood (nats) of every token but the first, which nothing precedes",
}


def run_perplexity(args: argparse.Namespace) -> None:
    """Measure the perplexity of a text at every width asked for, and print it."""
    from accuracy.perplexity import perplexity

    name, text = _text(args)
    lm = load_chosen_model(args)
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
        for bits in _widths(args, lm)
    }
    choice = _choice(found, args.seed)
    if args.json:
        print_json(_as_json(args, lm, name, text, found, choice))
    else:
        _print(args, found, choice)


def _text(args: argparse.Namespace) -> tuple[str, str]:
    """What the text is called, and the text: a file, or a split of C4 or WikiText."""
    from accuracy.tasks import perplexity_text

    if args.task is not None:
        if args.text is not None:
            raise InputError(f"--text {args.text}: contradicts --task {args.task}; give one of them")
        return f"{args.task} {args.split}", perplexity_text(args.task, args.data, args.split)
    if args.text is None:
        raise InputError(f"--text is missing: the file that {PERPLEXITY} is measured on, or --task c4 or wikitext")
    text = read_text(args.text)
    if not text.strip():
        raise InputError(f"--text {args.text}: holds no word; give a file with text")
    return str(args.text), text


def _widths(args: argparse.Namespace, lm: LanguageModel) -> list[int]:
    """The widths of the schedules given, each once; every stored one by default."""
    from accuracy.precision import PrecisionSwitch

    if not args.schedulers:
        return sorted(PrecisionSwitch(lm.model).widths, reverse=True)
    widths: dict[int, None] = {}
    for choice in args.schedulers:
        schedule = choice.make(lm).schedule
        if schedule is None or len(schedule.widths()) > 1:
            raise InputError(f"{choice.text}: {PERPLEXITY} has no decode steps; give uniform widths")
        widths[schedule.prefill_weight_bits] = None
    return list(widths)


def _choice(found: Mapping[int, Perplexity], seed: int) -> dict[str, Any] | None:
    """The paper's high and low width, where full precision and other widths were measured."""
    from accuracy.perplexity import choose_widths

    if FULL_PRECISION_BITS not in found or len(found) == 1:
        return None
    try:
        chosen = choose_widths(found, seed=seed)
    except InputError as error:
        return {"high": None, "low": None, "reason": str(error)}
    return {"high": chosen.high, "low": chosen.low, "reason": "lowest lossless width and one bit less"}


def _as_json(
    args: argparse.Namespace,
    lm: LanguageModel,
    name: str,
    text: str,
    found: Mapping[int, Perplexity],
    choice: dict[str, Any] | None,
) -> dict[str, Any]:
    one = next(iter(found.values()))
    return {
        "model": lm.name,
        "model_sha256": lm.model_sha256,
        "store_sha256": lm.store_sha256,
        "text": name,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
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
        "choice": choice,
    }


def _print(args: argparse.Namespace, found: Mapping[int, Perplexity], choice: dict[str, Any] | None) -> None:
    one = next(iter(found.values()))
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
    if choice is not None:
        widths = f"high {choice['high']}, low {choice['low']}: " if choice["high"] is not None else ""
        print(f"{widths}{choice['reason']}")


def _interval(one: Interval) -> dict[str, float]:
    return {"value": one.value, "ci_low": one.low, "ci_high": one.high}


def _cell(one: Interval) -> str:
    return f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"
