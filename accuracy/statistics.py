"""Bootstrap intervals over prompts, for any score that is a function of summed per-prompt statistics.

A metric gives every prompt a vector of statistics (for a mean: the value; for corpus BLEU: match and length counts)
and turns sums over prompts into a score. Resampling prompts then only reweights the sums, so that all resamples are
one matrix product, and BLEU's interval is that of the corpus score rather than of averaged sentence scores. Paired
comparisons use the same resampled prompts for both sides (Koehn, "Statistical Significance Tests for Machine
Translation Evaluation", EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.trace import InputError

Floats = NDArray[np.float64]
Aggregate = Callable[[Floats, int], Floats]
"""Turns summed statistics ``[..., D]`` of n prompts into scores ``[...]``."""
Direction = Literal["maximize", "minimize"]

RESAMPLES = 2000
CONFIDENCE = 0.95
LOSSLESS_TOLERANCE = 0.01


@dataclass(frozen=True)
class Interval:
    """A score and its 95% percentile-bootstrap interval over prompts.

    Attributes:
        value: The score of all prompts.
        low: 2.5th percentile of the resampled scores.
        high: 97.5th percentile.
        n: Number of prompts.
    """

    value: float
    low: float
    high: float
    n: int


def mean(sums: Floats, n: int) -> Floats:
    """Aggregate of a mean metric: one statistic, summed and divided by n."""
    result: Floats = sums[..., 0] / n
    return result


def resample_counts(n: int, resamples: int, seed: int) -> Floats:
    """How often each of n prompts is drawn in each resample, ``[resamples, n]``.

    Raises:
        InputError: If there is no prompt or no resample.
    """
    if n < 1:
        raise InputError(f"n = {n}: an interval needs at least 1 prompt")
    if resamples < 1:
        raise InputError(f"resamples = {resamples}: must be >= 1")
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return draws.astype(np.float64)


def bootstrap(
    statistics: Floats, aggregate: Aggregate = mean, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Score and interval of per-prompt statistics ``[n, D]``."""
    n = len(statistics)
    scores = aggregate(resample_counts(n, resamples, seed) @ statistics, n)
    return _interval(float(aggregate(statistics.sum(0), n)), scores, n)


def paired_difference(
    statistics: Floats,
    baseline: Floats,
    aggregate: Aggregate = mean,
    *,
    relative: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Difference ``score - baseline score`` over the same prompts, with its paired interval.

    Args:
        statistics: Per prompt, ``[n, D]``.
        baseline: Per prompt in the same order, ``[n, D]``.
        aggregate: The metric's aggregate.
        relative: Divide by the baseline's score of the same resample.
        seed: Of the resampling.
        resamples: How many.

    Raises:
        InputError: If the sides are of different sizes, or the difference is relative and the baseline scores 0.
    """
    if statistics.shape != baseline.shape:
        raise InputError(f"paired sides have shapes {statistics.shape} and {baseline.shape}: they must be equal")
    n = len(statistics)
    counts = resample_counts(n, resamples, seed)
    both = np.stack([statistics.sum(0), baseline.sum(0)])
    ours, theirs = aggregate(counts @ statistics, n), aggregate(counts @ baseline, n)
    value, reference = (float(score) for score in aggregate(both, n))
    if not relative:
        return _interval(value - reference, ours - theirs, n)
    if reference == 0 or not theirs.all():
        raise InputError(f"baseline score = {reference}: a relative difference needs one that is not 0")
    return _interval((value - reference) / abs(reference), (ours - theirs) / np.abs(theirs), n)


def is_lossless(
    statistics: Floats,
    full_precision: Floats,
    aggregate: Aggregate = mean,
    *,
    direction: Direction = "maximize",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> bool:
    """Whether a schedule is lossless against full precision (design decision 13).

    The paired relative change is counted positive where it is better; its lower bound, the low end of the two-sided
    95% interval, must lie above -1%.
    """
    change = paired_difference(statistics, full_precision, aggregate, relative=True, seed=seed, resamples=resamples)
    worst = change.low if direction == "maximize" else -change.high
    return worst > -LOSSLESS_TOLERANCE


def _interval(value: float, scores: Floats, n: int) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    # With few prompts a percentile interval of a skewed score can miss the score itself by a hair.
    return Interval(value, min(float(low), value), max(float(high), value), n)
