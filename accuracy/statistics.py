"""Bootstrap intervals over prompts, for any score that is a function of summed per-prompt statistics.

A metric gives every prompt a vector of statistics (for a mean: the value; for corpus BLEU: match and length counts)
and turns sums over prompts into a score. Resampling prompts then only reweights the sums, so that all resamples are
one matrix product, and BLEU's interval is that of the corpus score rather than of averaged sentence scores. Paired
comparisons use the same resampled prompts for both sides (Koehn, "Statistical Significance Tests for Machine
Translation Evaluation", EMNLP 2004).

What is resampled is what was drawn independently. Rows that belong together, such as the two turns of one question,
share a group and are drawn together (Cameron, Gelbach and Miller, "Bootstrap-Based Improvements for Inference with
Clustered Errors", 2008); without groups every row is its own.

Intervals are percentile intervals: they need no variance formula, so that means and corpus scores get the same kind,
and they stay within the range of the score. With few prompts they are too narrow: in 3,000 trials, 95% intervals of a
mean held the truth in 92.7% (normal scores) and 89.1% (exponential ones) for 20 prompts, in 94.3% and 93.6% for 100.
Tests are by approximate randomisation, which swaps the two sides of a prompt and so serves any score too; a sign test
would throw away how much each prompt changed, and cannot be had of a corpus score.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwsim.trace import InputError

K = TypeVar("K", bound=Hashable)

Floats = NDArray[np.float64]
Count = int | Floats
Aggregate = Callable[[Floats, Count], Floats]
"""Turns summed statistics ``[..., D]`` of n rows into scores ``[...]``; n is a number, or ``[...]`` as the scores."""
Groups = Sequence[Hashable]
"""Per row, the unit it belongs to: rows of one unit are resampled together."""
Direction = Literal["maximize", "minimize"]

RESAMPLES = 2000
CONFIDENCE = 0.95
LOSSLESS_TOLERANCE = 0.01
EQUAL_BITS_TOLERANCE = 0.005
"""Two averages this close print alike with two decimals, as the paper's tables do."""


@dataclass(frozen=True)
class Interval:
    """A score and its 95% percentile-bootstrap interval over prompts.

    Attributes:
        value: The score of all prompts.
        low: 2.5th percentile of the resampled scores.
        high: 97.5th percentile.
        n: Number of independent units: prompts, or groups of rows.
    """

    value: float
    low: float
    high: float
    n: int


def mean(sums: Floats, n: Count) -> Floats:
    """Aggregate of a mean metric: one statistic, summed and divided by n."""
    result: Floats = sums[..., 0] / n
    return result


def resample_counts(n: int, resamples: int, seed: int) -> Floats:
    """How often each of n units is drawn in each resample, ``[resamples, n]``.

    Raises:
        InputError: If there is no unit or no resample.
    """
    if n < 1:
        raise InputError(f"n = {n}: an interval needs at least 1 prompt")
    if resamples < 1:
        raise InputError(f"resamples = {resamples}: must be >= 1")
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return draws.astype(np.float64)


def bootstrap(
    statistics: Floats,
    aggregate: Aggregate = mean,
    *,
    groups: Groups | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Score and interval of per-prompt statistics ``[n, D]``.

    Args:
        statistics: One row per response.
        aggregate: The metric's aggregate.
        groups: Per row, the unit it is resampled with; every row its own by default.
        seed: Of the resampling.
        resamples: How many.

    Raises:
        InputError: If there is no row, or not one group per row.
    """
    units, sizes = _units(statistics, groups)
    counts = resample_counts(len(units), resamples, seed)
    scores = aggregate(counts @ units, counts @ sizes)
    return _interval(float(aggregate(statistics.sum(0), len(statistics))), scores, len(units))


def paired_difference(
    statistics: Floats,
    baseline: Floats,
    aggregate: Aggregate = mean,
    *,
    relative: bool = False,
    groups: Groups | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Difference ``score - baseline score`` over the same prompts, with its paired interval.

    Args:
        statistics: Per prompt, ``[n, D]``.
        baseline: Per prompt in the same order, ``[n, D]``.
        aggregate: The metric's aggregate.
        relative: Divide by the baseline's score of the same resample.
        groups: Per row, the unit it is resampled with; every row its own by default.
        seed: Of the resampling.
        resamples: How many.

    Raises:
        InputError: If the sides are of different sizes, or the difference is relative and the baseline scores 0.
    """
    (ours, sizes), (theirs, _) = _pair(statistics, baseline, groups)
    counts = resample_counts(len(ours), resamples, seed)
    n = counts @ sizes
    scores, references = aggregate(counts @ ours, n), aggregate(counts @ theirs, n)
    both = np.stack([statistics.sum(0), baseline.sum(0)])
    value, reference = (float(score) for score in aggregate(both, len(statistics)))
    if not relative:
        return _interval(value - reference, scores - references, len(ours))
    if reference == 0 or not references.all():
        zero = np.count_nonzero(references == 0)
        raise InputError(
            f"baseline score = {reference:g}, 0 in {zero:,} of {resamples:,} resamples of {len(ours)} prompts: a "
            "relative difference needs one that is not 0; measure more prompts, or by another metric"
        )
    change = (scores - references) / np.abs(references)
    return _interval((value - reference) / abs(reference), change, len(ours))


def paired_p_value(
    statistics: Floats,
    baseline: Floats,
    aggregate: Aggregate = mean,
    *,
    groups: Groups | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> float:
    """Two-sided p-value of "the two sides are exchangeable", by approximate randomisation.

    Under that hypothesis, which side a unit's rows came from is a coin flip; the p-value is the share of flips whose
    difference of scores is at least the observed one. All ``2^n`` flips are tried where that is no more than
    ``resamples``; else random ones, the observed one counted with them, so that the value is never 0.

    Source: Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989; Riezler and Maxwell, "On Some Pitfalls in
    Automatic Evaluation and Significance Testing for MT", 2005.

    Args:
        statistics: Per prompt, ``[n, D]``.
        baseline: Per prompt in the same order, ``[n, D]``.
        aggregate: The metric's aggregate.
        groups: Per row, the unit it is swapped with; every row its own by default.
        seed: Of the coin flips.
        resamples: How many.

    Raises:
        InputError: If the sides are of different sizes, or there is no prompt or no resample.
    """
    (ours, _), (theirs, _) = _pair(statistics, baseline, groups)
    n = len(ours)
    if n < 1 or resamples < 1:
        raise InputError(f"n = {n}, resamples = {resamples}: both must be >= 1")
    exhaustive = 2**n <= resamples
    if exhaustive:
        flips = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)
    else:
        flips = np.random.default_rng(seed).integers(0, 2, size=(resamples, n)).astype(np.float64)
    moved = flips @ (theirs - ours)
    rows = len(statistics)
    differences = aggregate(ours.sum(0) + moved, rows) - aggregate(theirs.sum(0) - moved, rows)
    observed = float(aggregate(ours.sum(0), rows) - aggregate(theirs.sum(0), rows))
    # Equal sums reached in another order of addition differ by rounding; they count as at least as large.
    slack = 1e-9 * max(abs(observed), float(np.abs(differences).max()))
    extreme = int((np.abs(differences) >= abs(observed) - slack).sum())
    return extreme / len(flips) if exhaustive else (extreme + 1) / (len(flips) + 1)


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Adjust the p-values of one table, so that all of its claims together err with the stated probability at most.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    Raises:
        InputError: If a value is no probability.
    """
    for name, value in p_values.items():
        if not 0 <= value <= 1:
            raise InputError(f"p-value of {name} = {value}: must be 0..1")
    adjusted: dict[K, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def equal_bits(
    mean_decode_bits: float, baseline_mean_decode_bits: float, tolerance: float = EQUAL_BITS_TOLERANCE
) -> float:
    """Make sure that a comparison is at equal bits.

    Returns:
        The difference of the averages, at most ``tolerance`` either way.

    Raises:
        InputError: If they are further apart: what one side wins may then be bits rather than quality.
    """
    difference = mean_decode_bits - baseline_mean_decode_bits
    if not abs(difference) <= tolerance:
        raise InputError(
            f"mean decode bits {mean_decode_bits:.4f} and {baseline_mean_decode_bits:.4f}: differ by "
            f"{abs(difference):.4f}, an equal-bits comparison allows {tolerance:g}; choose schedules of equal averages"
        )
    return difference


def is_lossless(
    statistics: Floats,
    full_precision: Floats,
    aggregate: Aggregate = mean,
    *,
    direction: Direction = "maximize",
    groups: Groups | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> bool:
    """Whether a schedule is lossless against full precision (design decision 13).

    The paired relative change is counted positive where it is better; its lower bound, the low end of the two-sided
    95% interval, must lie above -1%.
    """
    change = paired_difference(
        statistics, full_precision, aggregate, relative=True, groups=groups, seed=seed, resamples=resamples
    )
    worst = change.low if direction == "maximize" else -change.high
    return worst > -LOSSLESS_TOLERANCE


def _units(statistics: Floats, groups: Groups | None) -> tuple[Floats, Floats]:
    """Sums of each unit's rows, ``[units, D]``, and how many rows it has, ``[units]``."""
    if groups is None:
        return statistics, np.ones(len(statistics))
    if len(groups) != len(statistics):
        raise InputError(f"groups: {len(groups)} for {len(statistics)} rows; every row needs one")
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    owner = np.array([places[group] for group in groups], dtype=np.intp)
    sums = np.zeros((len(places), *statistics.shape[1:]))
    np.add.at(sums, owner, statistics)
    return sums, np.bincount(owner, minlength=len(places)).astype(np.float64)


def _pair(
    statistics: Floats, baseline: Floats, groups: Groups | None
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    if statistics.shape != baseline.shape:
        raise InputError(f"paired sides have shapes {statistics.shape} and {baseline.shape}: they must be equal")
    return _units(statistics, groups), _units(baseline, groups)


def _interval(value: float, scores: Floats, n: int) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    # With few prompts a percentile interval of a skewed score can miss the score itself by a hair.
    return Interval(value, min(float(low), value), max(float(high), value), n)
