"""Rouge-1, Rouge-2 and Rouge-L, as the rouge-score package computes them with its stemmer on.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004. The words are rouge-score's; words and
stems are remembered, and the longest common subsequence is counted bit-parallel (Hyyrö, "Bit-parallel LCS-length
computation revisited", AWOCA 2004), which a grid of schedules needs to be evaluated in seconds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import TypeVar

from accuracy.metrics.base import METRICS, Metric, ReferenceKind, metric_name, one_by_one
from accuracy.statistics import mean

T = TypeVar("T")


def rouge_1(prediction: str, reference: str) -> float:
    """F1 times 100 of the words of both texts."""
    return _overlap(Counter(_words(prediction)), Counter(_words(reference)))


def rouge_2(prediction: str, reference: str) -> float:
    """F1 times 100 of the pairs of neighbouring words of both texts."""
    return _overlap(Counter(pairwise(_words(prediction))), Counter(pairwise(_words(reference))))


def rouge_l(prediction: str, reference: str) -> float:
    """F1 times 100 of the longest common subsequence of words."""
    ours, theirs = _words(prediction), _words(reference)
    return _f1(_lcs_length(ours, theirs), len(ours), len(theirs)) if ours and theirs else 0.0


def _overlap(ours: Counter[T], theirs: Counter[T]) -> float:
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def _f1(common: int, ours: int, theirs: int) -> float:
    """F1 times 100 of ``common`` items out of ``ours`` (precision) and ``theirs`` (recall)."""
    return 200 * common / (ours + theirs) if common else 0.0


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


def _fidelity(score: Callable[[str, str], float], ours: str, full: str) -> float:
    """Score against the full-precision output; equal outputs agree, even those without a word."""
    return 100.0 if ours == full else score(ours, full)


def _metric(stem: str, title: str, score: Callable[[str, str], float], kind: ReferenceKind) -> Metric:
    compare = score if kind == "gold" else partial(_fidelity, score)
    against = "" if kind == "gold" else " against the full-precision output"
    return Metric(
        metric_name(stem, kind),
        "maximize",
        kind,
        one_by_one(lambda ours, reference: (compare(ours.text, reference.text(kind)),)),
        mean,
        f"{title} F1 x 100{against} (rouge-score, stemmer on), mean over prompts",
    )


_STEMS: tuple[tuple[str, str, Callable[[str, str], float]], ...] = (
    ("rouge_1", "Rouge-1", rouge_1),
    ("rouge_2", "Rouge-2", rouge_2),
    ("rouge_l", "Rouge-L", rouge_l),
)
_KINDS: tuple[ReferenceKind, ...] = ("gold", "full-precision")
for _stem_name, _title, _score in _STEMS:
    for _kind in _KINDS:
        METRICS.register(metric_name(_stem_name, _kind))(partial(_metric, _stem_name, _title, _score, _kind))
