"""Perplexity of a text at a weight width, by windows that slide over it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from accuracy.precision import PrecisionSwitch
from accuracy.statistics import Floats, Interval, bootstrap
from hwsim.trace import InputError

if TYPE_CHECKING:
    from accuracy.model import LanguageModel


@dataclass(frozen=True)
class Perplexity:
    """Perplexity per token: ``exp`` of the mean negative log-likelihood of every token but the first.

    Attributes:
        interval: Perplexity with its 95% bootstrap interval over windows.
        statistics: Per window ``[n, 2]``: summed negative log-likelihood (nats) and tokens scored; with
            :func:`perplexity_score` as aggregate, two widths are compared pair by pair.
        tokens: Tokens scored.
        bits_per_byte: The same likelihood per UTF-8 byte of the text, comparable between tokenizers.
    """

    interval: Interval
    statistics: Floats
    tokens: int
    bits_per_byte: float


def perplexity_score(sums: Floats, n: int) -> Floats:
    """Aggregate of perplexity: ``exp(nll / tokens)`` of sums ``[..., 2]``."""
    result: Floats = np.exp(sums[..., 0] / sums[..., 1])
    return result


@torch.inference_mode()
def perplexity(
    lm: LanguageModel,
    text: str,
    weight_bits: int,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    switch: PrecisionSwitch | None = None,
) -> Perplexity:
    """Measure the perplexity of ``text`` with all weights at one width.

    The text is encoded once, without special tokens. A window starts every ``stride`` tokens; a token is scored once,
    in the first window that reaches it, with at least ``window - stride`` tokens before it (fewer near the start).

    Args:
        lm: The model.
        text: What to score.
        weight_bits: Width of every weight.
        window: Tokens a window holds; the model's context by default.
        stride: Tokens from one window's start to the next; half a window by default.
        batch_size: Windows run together.
        seed: Of the bootstrap.
        switch: How the width is set, where it is not a model of any-precision layers.

    Raises:
        InputError: If the width is not stored, the text has fewer than 2 tokens, or a size is out of bounds.
    """
    window = lm.shape.max_context if window is None else window
    stride = max(window // 2, 1) if stride is None else stride
    if not 2 <= window <= lm.shape.max_context:
        raise InputError(f"window = {window}: must be 2..{lm.shape.max_context}, the context of {lm.name}")
    if not 1 <= stride < window:
        raise InputError(f"stride = {stride}: must be 1..{window - 1}, less than the window")
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: must be >= 1")
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < 2:
        raise InputError(f"text has {len(ids)} tokens: perplexity needs at least 2")
    switch = switch or PrecisionSwitch(lm.model)
    switch.check(f"uniform {weight_bits}", frozenset({weight_bits}))
    switch.forget()
    switch.set(weight_bits)
    tokens = torch.tensor(ids, device=next(lm.model.parameters()).device)
    starts = list(range(0, max(len(ids) - (window - stride), 1), stride))
    *full, last = starts
    rows: list[tuple[float, int]] = []
    for begin in range(0, len(full), batch_size):
        chosen = full[begin : begin + batch_size]
        losses = _losses(lm, torch.stack([tokens[start : start + window] for start in chosen]))
        rows.extend(_row(loss, start, window, stride) for start, loss in zip(chosen, losses, strict=True))
    rows.append(_row(_losses(lm, tokens[None, last : last + window])[0], last, window, stride))
    statistics = np.array(rows, dtype=np.float64)
    total, scored = statistics.sum(0)
    return Perplexity(
        interval=bootstrap(statistics, perplexity_score, seed=seed),
        statistics=statistics,
        tokens=int(scored),
        bits_per_byte=total / math.log(2) / len(text.encode()),
    )


def _losses(lm: LanguageModel, ids: Tensor) -> Tensor:
    """Negative log-likelihood (nats) of every token of ``[B, T]`` but the first, ``[B, T - 1]``."""
    logits = lm.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1)


def _row(losses: Tensor, start: int, window: int, stride: int) -> tuple[float, int]:
    """Sum the losses of the tokens that no earlier window reached."""
    fresh = losses if start == 0 else losses[window - stride - 1 :]
    return float(fresh.double().sum()), len(fresh)
