"""The best score that prompts not yet answered could still lead to: what lets a search drop a schedule early, exactly.

Only metrics known to score an answer highest when it equals its reference have a bound; of others nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accuracy.decoding import Response
from accuracy.metrics import Metric, Reference
from accuracy.metrics.bleu import BLEU_ORDER
from accuracy.statistics import Floats
from hwsim.trace import FULL_PRECISION_BITS

BEST_AT_REFERENCE = (
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "fidelity_rouge_1",
    "fidelity_rouge_2",
    "fidelity_rouge_l",
    "identical_prefix_tokens",
)
"""Means of a per-prompt score that no answer raises above that of the reference itself."""

BLEU_SMOOTHS = {"bleu": False, "sacrebleu": True}
"""Corpus BLEU by metric name: whether an order without a match still counts something."""


class BestPossible:
    """Upper bounds on the final score of one metric over one set of prompts."""

    def __init__(self, metric: Metric, references: Sequence[Reference]) -> None:
        """Score the references of all prompts against themselves."""
        self._metric, self._n = metric, len(references)
        self._ideal: Floats | None = None
        if metric.name in (*BEST_AT_REFERENCE, *BLEU_SMOOTHS):
            perfect = [
                reference.output if metric.reference == "full-precision" else _spoken(reference.gold)
                for reference in references
            ]
            self._ideal = metric.statistics_many(perfect, references)

    @property
    def known(self) -> bool:
        """Whether the metric has a bound."""
        return self._ideal is not None

    def score(self, reached: Floats, done: Sequence[int]) -> float:
        """The best final score after some prompts.

        Args:
            reached: Statistics of the prompts answered so far, ``[m, D]``.
            done: Their places among all prompts, in the same order.
        """
        assert self._ideal is not None, "only metrics with a bound are asked for it"
        rest = np.delete(self._ideal, np.asarray(done, dtype=int), axis=0).sum(0)
        sums = reached.sum(0)
        if self._metric.name in BLEU_SMOOTHS:
            return best_corpus_bleu(sums, rest, smoothed=BLEU_SMOOTHS[self._metric.name])
        return float(self._metric.aggregate(sums + rest, self._n))


def _spoken(text: str) -> Response:
    """A response of this text, for metrics that look at nothing else."""
    return Response("", 1, (), text, FULL_PRECISION_BITS, (), "eos")


def best_corpus_bleu(reached: Floats, rest: Floats, *, smoothed: bool) -> float:
    """An upper bound on corpus BLEU once the remaining prompts are answered, whatever the answers.

    It is the score where they equal their references and the brevity penalty is 1. For one n-gram order let c of t
    n-grams match so far, and let the remaining references hold r of them. The remaining answers, y n-grams of which x
    match, have x <= min(y, r), since a match is clipped to its count in the reference. The precision (c + x) / (t + y)
    rises with x; at x = y it rises with y because c <= t, and beyond y = r it falls. So (c + r) / (t + r) bounds it.

    Smoothing counts the j-th order without a match as 2^-j matches. With c + r >= 1 that is never more than the bound:
    it needs c = 0, and then 1/2 / (t + y) <= r / (t + r), where t + y >= 1, since an order without any n-gram makes
    the score 0. With c + r = 0 the order never gets a match; 2^-j / max(t, 1) bounds it, j counting such orders only.

    Args:
        reached: Sums of :func:`accuracy.metrics.bleu_statistics` of the answers so far, ``[10]``.
        rest: The same of the remaining references, each as the answer to itself, ``[10]``.
        smoothed: Whether orders without a match are smoothed.
    """
    matches, totals = reached[2 : 2 + BLEU_ORDER], reached[2 + BLEU_ORDER :]
    best_matches = matches + rest[2 : 2 + BLEU_ORDER]
    best_totals = totals + rest[2 + BLEU_ORDER :]
    hopeless = best_matches == 0
    if hopeless[0] or (hopeless.any() and not smoothed):
        return 0.0
    precisions = np.where(hopeless, 0.5 ** np.cumsum(hopeless), best_matches) / np.maximum(best_totals, 1)
    return float(100 * np.exp(np.log(precisions).mean()))
