"""Corpus BLEU, with and without smoothing: what the paper prints as SacreBLEU and as BLEU.

Both count the same n-grams of the same tokens (mteval's, ``13a``); they differ only where an n-gram order has no match
in the whole corpus. There ``bleu`` is 0, as in Papineni et al. (ACL 2002) and in the ``bleu`` metric of Hugging
Face's ``evaluate``, which PMPD's public scoring script loads; ``sacrebleu`` smooths (``smooth_method="exp"``). On a
corpus in which every order matches they are equal: the paper's two columns agree within 0.1 in every row but that of
Llama3-8B at 2 bits (0 and 0.16, Table 5), where some order has no match.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from accuracy.metrics.base import METRICS, Metric, one_by_one
from accuracy.statistics import Count, Floats

BLEU_ORDER = 4
SmoothMethod = Literal["none", "exp"]


@lru_cache(maxsize=50_000)
def bleu_statistics(prediction: str, reference: str) -> tuple[float, ...]:
    """Lengths of both sides, matches and totals of 1- to 4-grams, as sacrebleu counts them (tokenizer 13a)."""
    score = _sacrebleu().sentence_score(prediction, [reference])
    return (score.sys_len, score.ref_len, *score.counts, *score.totals)


@lru_cache(maxsize=1)
def _sacrebleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)  # silences advice about sentence scores; the counts do not depend on it


def corpus_bleu(sums: Floats, n: Count, *, smooth_method: SmoothMethod = "none") -> Floats:
    """Corpus BLEU (0..100) of summed :func:`bleu_statistics` ``[..., 10]``.

    Args:
        sums: Summed statistics.
        n: Number of prompts; the score does not depend on it.
        smooth_method: ``none``: an order without a match makes the score 0. ``exp``: it counts as half a match, the
            next such order as a quarter, as sacrebleu does by default.
    """
    flat = sums.reshape(-1, 2 + 2 * BLEU_ORDER)
    length, reference_length = flat[:, 0], flat[:, 1]
    matches, totals = flat[:, 2 : 2 + BLEU_ORDER], flat[:, 2 + BLEU_ORDER :]
    with np.errstate(divide="ignore", invalid="ignore"):
        misses = np.cumsum((matches == 0) & (totals > 0), axis=1)
        smoothed = np.where(matches > 0, matches, 0.5**misses) if smooth_method == "exp" else matches
        logs = np.log(smoothed / totals).mean(axis=1)
        brevity = np.where(length < reference_length, 1 - reference_length / length, 0.0)
        scores = 100 * np.exp(logs + brevity)
    usable = (totals > 0).all(axis=1) & (matches[:, 0] > 0)
    result: Floats = np.where(usable, scores, 0.0).reshape(sums.shape[:-1])
    return result


def bleu_signature(smooth_method: SmoothMethod = "none") -> str:
    """How BLEU was computed, in sacrebleu's form."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(smooth_method=smooth_method)
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())


def _metric(name: str, smooth_method: SmoothMethod) -> Metric:
    return Metric(
        name,
        "maximize",
        "gold",
        one_by_one(lambda response, reference: bleu_statistics(response.text, reference.gold)),
        partial(corpus_bleu, smooth_method=smooth_method),
        f"corpus BLEU, 0..100 ({bleu_signature(smooth_method)})",
    )


METRICS.register("bleu")(partial(_metric, "bleu", "none"))
METRICS.register("sacrebleu")(partial(_metric, "sacrebleu", "exp"))
