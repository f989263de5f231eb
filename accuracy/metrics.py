"""Quality metrics as per-prompt statistics and an aggregate, so that intervals resample the score itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from accuracy.decoding import Response
from accuracy.statistics import Aggregate, Direction, Floats, mean
from hwsim.trace import unknown_name

BLEU_ORDER = 4


@dataclass(frozen=True)
class Reference:
    """What a response is compared with.

    Attributes:
        gold: The task's reference text.
        full_precision: The response of the unquantised model, where one was decoded.
    """

    gold: str
    full_precision: Response | None


@dataclass(frozen=True)
class Metric:
    """A quality metric.

    Attributes:
        name: Registered name.
        direction: Whether more is better.
        reference: What it compares with.
        statistics: Statistics ``[D]`` of one response against its reference.
        aggregate: Score of summed statistics.
        description: One line for tables, with unit and signature.
    """

    name: str
    direction: Direction
    reference: Literal["gold", "full-precision"]
    statistics: Callable[[Response, Reference], Sequence[float]]
    aggregate: Aggregate
    description: str


def rouge_l(prediction: str, reference: str) -> float:
    """Rouge-L F1 times 100, as the rouge-score package computes it with its stemmer on.

    The words are rouge-score's; the longest common subsequence is counted bit-parallel (Hyyrö, "Bit-parallel
    LCS-length computation revisited", AWOCA 2004), which a grid of schedules needs to be evaluated in seconds.
    """
    ours, theirs = _words(prediction), _words(reference)
    if not ours or not theirs:
        return 0.0
    common = _lcs_length(ours, theirs)
    precision, recall = common / len(ours), common / len(theirs)
    return 200 * precision * recall / (precision + recall) if common else 0.0


@lru_cache(maxsize=1)
def _rouge_tokenizer() -> Callable[[str], list[str]]:
    from rouge_score.tokenizers import DefaultTokenizer

    tokenize: Callable[[str], list[str]] = DefaultTokenizer(use_stemmer=True).tokenize
    return tokenize


@lru_cache(maxsize=100_000)
def _stem(word: str) -> tuple[str, ...]:
    """Rouge-score's form of one word; its stemmer looks at no neighbours."""
    return tuple(_rouge_tokenizer()(word))


@lru_cache(maxsize=20_000)
def _words(text: str) -> tuple[str, ...]:
    return tuple(stem for word in re.findall(r"[a-z0-9]+", text.lower()) for stem in _stem(word))


def _lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << index
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everything
    return len(a) - row.bit_count()


def identical_prefix_tokens(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """Number of leading tokens that are equal.

    >>> identical_prefix_tokens([5, 6, 7], [5, 6, 8, 7])
    2
    """
    return next(
        (index for index, (a, b) in enumerate(zip(tokens, reference, strict=False)) if a != b),
        min(len(tokens), len(reference)),
    )


@lru_cache(maxsize=50_000)
def bleu_statistics(prediction: str, reference: str) -> tuple[float, ...]:
    """Lengths of both sides, matches and totals of 1- to 4-grams, as sacrebleu counts them (tokenizer 13a)."""
    score = _sacrebleu().sentence_score(prediction, [reference])
    return (score.sys_len, score.ref_len, *score.counts, *score.totals)


@lru_cache(maxsize=1)
def _sacrebleu():  # type: ignore[no-untyped-def]
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)  # silences advice about sentence scores; the counts do not depend on it


def corpus_bleu(sums: Floats, n: int) -> Floats:
    """Corpus BLEU (0..100) of summed :func:`bleu_statistics` ``[..., 10]``, smoothed as sacrebleu does by default.

    Source: Papineni et al., ACL 2002; zero counts by the exponential rule of sacrebleu (``smooth_method="exp"``).
    """
    flat = sums.reshape(-1, 2 + 2 * BLEU_ORDER)
    length, reference_length = flat[:, 0], flat[:, 1]
    matches, totals = flat[:, 2 : 2 + BLEU_ORDER], flat[:, 2 + BLEU_ORDER :]
    with np.errstate(divide="ignore", invalid="ignore"):
        # The k-th order without a match counts as half of the k-1-th such order's match: 1/2, 1/4, ...
        misses = np.cumsum((matches == 0) & (totals > 0), axis=1)
        precisions = np.where(matches > 0, matches, 0.5**misses) / totals
        logs = np.log(precisions).mean(axis=1)
        brevity = np.where(length < reference_length, 1 - reference_length / length, 0.0)
        scores = 100 * np.exp(logs + brevity)
    usable = (totals > 0).all(axis=1) & (matches[:, 0] > 0)
    result: Floats = np.where(usable, scores, 0.0).reshape(sums.shape[:-1])
    return result


def bleu_signature() -> str:
    """How BLEU was computed, in sacrebleu's form."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())


def _fidelity(ours: Response, full: Response) -> float:
    """Rouge-L against the full-precision output; two empty outputs agree."""
    return rouge_l(ours.text, full.text) if full.text else 100.0 * (not ours.text)


def _against_full_precision(compare: Callable[[Response, Response], float]) -> Callable[..., tuple[float]]:
    def statistics(response: Response, reference: Reference) -> tuple[float]:
        assert reference.full_precision is not None, "evaluation decodes the full-precision responses first"
        return (compare(response, reference.full_precision),)

    return statistics


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "rouge_l",
            "maximize",
            "gold",
            lambda response, reference: (rouge_l(response.text, reference.gold),),
            mean,
            "Rouge-L F1 x 100 (rouge-score, stemmer on), mean over prompts",
        ),
        Metric(
            "bleu",
            "maximize",
            "gold",
            lambda response, reference: bleu_statistics(response.text, reference.gold),
            corpus_bleu,
            "corpus BLEU (sacrebleu)",
        ),
        Metric(
            "fidelity_rouge_l",
            "maximize",
            "full-precision",
            _against_full_precision(_fidelity),
            mean,
            "Rouge-L F1 x 100 against the full-precision output, mean over prompts",
        ),
        Metric(
            "identical_prefix_tokens",
            "maximize",
            "full-precision",
            _against_full_precision(lambda ours, full: float(identical_prefix_tokens(ours.tokens, full.tokens))),
            mean,
            "leading tokens equal to the full-precision output's, mean over prompts",
        ),
    )
}


def get_metric(name: str) -> Metric:
    """Look a metric up.

    Raises:
        InputError: If the name is unknown; the nearest is suggested.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]
