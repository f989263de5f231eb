"""Perplexity at a weight width: of one long text by sliding windows, or of answers given their prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from accuracy.model import quiet_transformers
from accuracy.precision import PrecisionSwitch
from accuracy.statistics import LOSSLESS_TOLERANCE, Count, Floats, Interval, bootstrap, paired_difference
from hwsim.trace import FULL_PRECISION_BITS, InputError

if TYPE_CHECKING:
    from accuracy.model import LanguageModel


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text, its first token left out (nothing comes before it).

    One sum of negative log-likelihood is normalised three ways. Only those that do not count tokens compare models
    with different tokenizers. Intervals resample windows; words and bytes per token are taken as fixed.

    Attributes:
        per_token: ``exp(nll / tokens)`` with its 95% bootstrap interval over windows.
        statistics: Per window ``[n, 2]``: summed negative log-likelihood (nats) and tokens scored; with
            :func:`perplexity_score` as aggregate, two widths are compared pair by pair.
        tokens: Tokens scored.
        words: Words of the whole text, as white space parts them.
        utf8_bytes: Bytes of the whole text.
        window: Tokens that a window held.
        stride: Tokens from one window's start to the next.
    """

    per_token: Interval
    statistics: Floats
    tokens: int
    words: int
    utf8_bytes: int
    window: int
    stride: int

    @property
    def per_word(self) -> Interval:
        """``exp(nll / words)``."""
        return self._scaled(lambda score: score ** (self.tokens / self.words))

    @property
    def bits_per_byte(self) -> Interval:
        """``nll / ln 2 / utf8_bytes``."""
        return self._scaled(lambda score: math.log2(score) * self.tokens / self.utf8_bytes)

    def _scaled(self, rising: Callable[[float], float]) -> Interval:
        """The interval under a rising function of the perplexity per token."""
        one = self.per_token
        return Interval(rising(one.value), rising(one.low), rising(one.high), one.n)


def perplexity_score(sums: Floats, n: Count) -> Floats:
    """Aggregate of perplexity: ``exp(nll / tokens)`` of sums ``[..., 2]``."""
    result: Floats = np.exp(sums[..., 0] / sums[..., 1])
    return result


@dataclass(frozen=True)
class WidthChoice:
    """The widths that a schedule switches between.

    Attributes:
        high: Lowest lossless width.
        low: One bit less.
        increases: By width, the relative increase of perplexity over full precision with its paired interval.
    """

    high: int
    low: int
    increases: dict[int, Interval]


def choose_widths(
    measured: Mapping[int, Perplexity], *, tolerance: float = LOSSLESS_TOLERANCE, seed: int = 0
) -> WidthChoice:
    """Choose the high and the low width as the paper does: the lowest lossless one by perplexity, and one bit less.

    A width is lossless where the upper end of the paired 95% interval of its relative increase over full precision is
    below the tolerance, and so are all measured widths above it. The paper does not print its tolerance; the default is
    that of design decision 13.

    Args:
        measured: Perplexity of one text by width, full precision (16) among them.
        tolerance: Relative increase that still counts as lossless.
        seed: Of the bootstrap.

    Raises:
        InputError: If full precision is missing, the texts or windows differ, no width is lossless, or the width below
            the lowest lossless one was not measured, so that nothing shows it is the lowest.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance = {tolerance}: must be a number above 0, for example 0.01")
    if FULL_PRECISION_BITS not in measured:
        raise InputError(f"widths {sorted(measured)}: full precision ({FULL_PRECISION_BITS}) must be measured too")
    full = measured[FULL_PRECISION_BITS].statistics
    increases: dict[int, Interval] = {}
    for width in sorted(set(measured) - {FULL_PRECISION_BITS}, reverse=True):
        statistics = measured[width].statistics
        if statistics.shape != full.shape or (statistics[:, 1] != full[:, 1]).any():
            raise InputError(f"width {width}: measured on other windows than full precision; use one text and window")
        increases[width] = paired_difference(statistics, full, perplexity_score, relative=True, seed=seed)
    lossless = list(itertools.takewhile(lambda width: increases[width].high < tolerance, increases))
    if not lossless:
        rises = ", ".join(f"{width}: {one.value:+.2%}" for width, one in increases.items()) or "none measured"
        raise InputError(
            f"no width is lossless within {tolerance:.2%} ({rises}); measure wider ones or raise the tolerance"
        )
    high = lossless[-1]
    if high - 1 not in measured:
        raise InputError(
            f"width {high} is lossless within {tolerance:.2%}, but {high - 1}, the low width, was not measured; "
            "measure it or lower the tolerance"
        )
    return WidthChoice(high, high - 1, increases)


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
    progress: bool = False,
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
        progress: Show a progress bar.

    Raises:
        InputError: If the width is not stored, the text has fewer than 2 tokens or no word, a size is out of bounds,
            or the model's output is not finite.
    """
    window = lm.shape.max_context if window is None else window
    stride = max(window // 2, 1) if stride is None else stride
    if not 2 <= window <= lm.shape.max_context:
        raise InputError(f"window = {window}: must be 2..{lm.shape.max_context}, the context of {lm.name}")
    if not 1 <= stride < window:
        raise InputError(f"stride = {stride}: must be 1..{window - 1}, less than the window")
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: must be >= 1")
    with quiet_transformers():  # a text longer than the context is no mistake here
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    words = len(text.split())
    if len(ids) < 2 or not words:
        raise InputError(f"text has {len(ids)} tokens and {words} words: perplexity needs at least 2 tokens and 1 word")
    _set_width(lm, weight_bits, switch)
    tokens = torch.tensor(ids, device=next(lm.model.parameters()).device)
    starts = list(range(0, max(len(ids) - (window - stride), 1), stride))
    *full, last = starts
    rows: list[tuple[float, int]] = []
    with tqdm(total=len(starts), desc=f"{weight_bits} bits", unit="window", disable=not progress) as bar:
        for begin in range(0, len(full), batch_size):
            chosen = full[begin : begin + batch_size]
            losses = _losses(lm, torch.stack([tokens[start : start + window] for start in chosen]))
            rows.extend(_row(loss, start, window, stride) for start, loss in zip(chosen, losses, strict=True))
            bar.update(len(chosen))
        rows.append(_row(_losses(lm, tokens[None, last : last + window])[0], last, window, stride))
        bar.update()
    statistics = np.array(rows, dtype=np.float64)
    if not np.isfinite(statistics).all():
        wrong = int((~np.isfinite(statistics[:, 0])).sum())
        raise InputError(
            f"weight_bits = {weight_bits}: the logits of {wrong} of {len(rows)} windows are not finite numbers; "
            "use more bits or compute in float32"
        )
    return Perplexity(
        per_token=bootstrap(statistics, perplexity_score, seed=seed),
        statistics=statistics,
        tokens=int(statistics[:, 1].sum()),
        words=words,
        utf8_bytes=len(text.encode()),
        window=window,
        stride=stride,
    )


@torch.inference_mode()
def answer_losses(
    lm: LanguageModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    weight_bits: int,
    *,
    batch_size: int = 32,
    switch: PrecisionSwitch | None = None,
) -> Floats:
    """Score answers given their prompts, each pair on its own, with all weights at one width.

    Args:
        lm: The model.
        pairs: Tokens of prompt and answer, neither empty, both together within the model's context.
        weight_bits: Width of every weight.
        batch_size: Pairs run together.
        switch: How the width is set, where it is not a model of any-precision layers.

    Returns:
        Per pair ``[n, 2]``: summed negative log-likelihood of the answer (nats; not finite where the model's output
        is not) and its tokens; the aggregate is :func:`perplexity_score`.

    Raises:
        InputError: If the width is not stored or a pair is out of bounds.
    """
    for number, (prompt, answer) in enumerate(pairs):
        length = len(prompt) + len(answer)
        if not prompt or not answer or length > lm.shape.max_context:
            raise InputError(
                f"pair {number}: {len(prompt)} prompt and {len(answer)} answer tokens: must be at least 1 each and "
                f"{lm.shape.max_context} together, the context of {lm.name}"
            )
    _set_width(lm, weight_bits, switch)
    device = next(lm.model.parameters()).device
    found = np.empty((len(pairs), 2))
    # Pairs of similar length share a batch; what is padded lies behind, where no scored token looks.
    order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, pairs[index])))
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        rows = [torch.tensor([*pairs[index][0], *pairs[index][1]], device=device) for index in chosen]
        losses = _losses(lm, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
        for index, loss in zip(chosen, losses, strict=True):
            before, count = map(len, pairs[index])
            found[index] = float(loss[before - 1 : before + count - 1].double().sum()), count
    return found


def _set_width(lm: LanguageModel, weight_bits: int, switch: PrecisionSwitch | None) -> None:
    switch = switch or PrecisionSwitch(lm.model)
    switch.check(f"uniform {weight_bits}", frozenset({weight_bits}))
    switch.forget()
    switch.set(weight_bits)


def _losses(lm: LanguageModel, ids: Tensor) -> Tensor:
    """Negative log-likelihood (nats) of every token of ``[B, T]`` but the first, ``[B, T - 1]``."""
    logits = lm.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1)


def _row(losses: Tensor, start: int, window: int, stride: int) -> tuple[float, int]:
    """Sum the losses of the tokens that no earlier window reached."""
    fresh = losses if start == 0 else losses[window - stride - 1 :]
    return float(fresh.double().sum()), len(fresh)
