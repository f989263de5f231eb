"""What choosing a schedule for each prompt is worth against choosing one without looking at it.

A scheduler that spends fewer bits for less quality, or more of both, has shown nothing: always choosing a lower or
higher class does that too. Two comparisons are therefore made at equal bits, over the same prompts:

- against the best *static mix*: the classes are points in the plane of mean bits and score, and by choosing two of them
  at random, whatever the prompt, every point between them is reached. The best mix of the learned scheduler's own mean
  bits is the highest such point; its choice may look at these very prompts, so that it is a hard opponent.
- against *random-prior* (the label distribution of the training), mixed with all-high or all-low to the same bits.

Mean bits are over all decode steps of all responses, so that longer responses weigh more; a mix's mean bits are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accuracy.scheduler_training.label_store import LabelledPrompts, LabelRule
from accuracy.statistics import Count, Floats, Interval, bootstrap
from hwsim.trace import InputError

Bools = NDArray[np.bool_]
PRIOR, UNIFORM, ORACLE = "random-prior", "random-uniform", "oracle"


@dataclass(frozen=True)
class ClassOutcomes:
    """What every class gave on every prompt, however it was measured.

    Attributes:
        scores: ``[n, N]``, more is better; classes from the fewest bits to the most.
        decode_bits: Sum of the weight bits of the response's decode steps, ``[n, N]``.
        decode_steps: Decode steps of the response, ``[n, N]``.
        labels: Class wanted, ``[n]``.
    """

    scores: Floats
    decode_bits: Floats
    decode_steps: Floats
    labels: Sequence[int]

    @classmethod
    def of(cls, labelled: LabelledPrompts, rule: LabelRule = "high-precision") -> ClassOutcomes:
        """Of labelled prompts."""
        records = labelled.records
        return cls(
            np.array([record.scores for record in records], dtype=np.float64),
            np.array([record.decode_bits for record in records], dtype=np.float64),
            np.array([record.decode_steps for record in records], dtype=np.float64),
            labelled.labels(rule),
        )

    def deciding(self) -> Bools:
        """Which prompts have a decode step, ``[n]``.

        Token 0 comes from the prefill, which all classes share: where it ends the response, no class has any step,
        and the choice decides nothing.

        Raises:
            InputError: If there is none.
        """
        found: Bools = self.decode_steps.min(1) > 0
        if not found.any():
            raise InputError("held-out prompts: no response has a decode step; mean bits need at least 1")
        return found


@dataclass(frozen=True)
class PolicyResult:
    """How one way to choose fared; for random choices, what it would be on average over all draws.

    Attributes:
        policy: Its name.
        accuracy: Share of prompts whose class is the label.
        score: Mean score.
        mean_bits: Mean decode bits over all steps.
        over_static_mix: Score minus that of the best static mix of equal mean bits.
        over_prior: Score minus random-prior's, at whatever bits each has.
        bits_over_prior: Mean bits minus random-prior's.
        over_prior_at_equal_bits: Score minus that of random-prior mixed with all-high, or all-low, to equal bits.
    """

    policy: str
    accuracy: Interval
    score: Interval
    mean_bits: Interval
    over_static_mix: Interval
    over_prior: Interval
    bits_over_prior: Interval
    over_prior_at_equal_bits: Interval


def compare_on_labels(
    held_out: LabelledPrompts | ClassOutcomes,
    chosen: Mapping[str, Sequence[int]],
    prior: Sequence[float],
    *,
    rule: LabelRule = "high-precision",
    seed: int = 0,
) -> list[PolicyResult]:
    """Compare choices on prompts that nothing was trained on; every number has its paired 95% bootstrap interval.

    Prompts whose response has no decode step are left out, and n says how many remain.

    Args:
        held_out: The prompts.
        chosen: By name, the class chosen for each prompt, for example by the learned scheduler of each seed.
        prior: Probabilities of random-prior, one per class.
        rule: Which label counts as right, where ``held_out`` are labelled prompts.
        seed: Of the bootstrap.

    Returns:
        ``chosen`` in its order, then random-prior, random-uniform, always each class, and the oracle, which knows the
        label.

    Raises:
        InputError: If a choice or the prior does not fit the prompts and classes.
    """
    outcomes = ClassOutcomes.of(held_out, rule) if isinstance(held_out, LabelledPrompts) else held_out
    n, classes = outcomes.scores.shape
    if len(prior) != classes or not np.isclose(sum(prior), 1) or min(prior) < 0:
        raise InputError(f"prior = {list(prior)}: must be {classes} probabilities that sum to 1")
    policies = {name: _one_hot(picks, n, classes, name) for name, picks in chosen.items()}
    policies[PRIOR] = np.tile(np.array(prior, dtype=np.float64), (n, 1))
    policies[UNIFORM] = np.full((n, classes), 1 / classes)
    policies |= {always(index): _one_hot([index] * n, n, classes, always(index)) for index in range(classes)}
    policies[ORACLE] = _one_hot(outcomes.labels, n, classes, ORACLE)
    by_class = np.stack([outcomes.scores, outcomes.decode_bits, outcomes.decode_steps], -1).reshape(n, 3 * classes)
    own = {name: _expected(outcomes, policy) for name, policy in policies.items()}
    kept = outcomes.deciding()
    return [_result(name, np.hstack([one, own[PRIOR], by_class])[kept], seed) for name, one in own.items()]


def always(index: int) -> str:
    """Name of the policy that always chooses one class."""
    return f"always class {index}"


def _one_hot(picks: Sequence[int], n: int, classes: int, name: str) -> Floats:
    if len(picks) != n or not all(0 <= pick < classes for pick in picks):
        raise InputError(f"choices of {name}: must be {n} classes of 0..{classes - 1}")
    rows: Floats = np.eye(classes)[np.array(picks, dtype=np.intp)]
    return rows


def _expected(outcomes: ClassOutcomes, policy: Floats) -> Floats:
    """Whether right, score, bits and steps of each prompt, expected under a policy ``[n, N]``: ``[n, 4]``."""
    right = policy[np.arange(len(policy)), np.array(outcomes.labels, dtype=np.intp)]
    parts = (outcomes.scores, outcomes.decode_bits, outcomes.decode_steps)
    return np.stack([right, *((policy * part).sum(1) for part in parts)], -1)


# Columns of a policy's statistics: its own four, random-prior's four, then score, bits and steps of every class.
_RIGHT, _SCORE, _BITS, _STEPS = range(4)
_PRIOR, _CLASSES = 4, 8


def _result(name: str, statistics: Floats, seed: int) -> PolicyResult:
    def interval(value: Callable[[Floats], Floats]) -> Interval:
        def aggregate(sums: Floats, _: Count) -> Floats:
            return value(np.moveaxis(sums, -1, 0))

        return bootstrap(np.hstack([statistics, np.ones((len(statistics), 1))]), aggregate, seed=seed)

    return PolicyResult(
        policy=name,
        accuracy=interval(lambda sums: sums[_RIGHT] / sums[-1]),
        score=interval(lambda sums: sums[_SCORE] / sums[-1]),
        mean_bits=interval(lambda sums: sums[_BITS] / sums[_STEPS]),
        over_static_mix=interval(lambda sums: (sums[_SCORE] - _best_mix(sums)) / sums[-1]),
        over_prior=interval(lambda sums: (sums[_SCORE] - sums[_PRIOR + _SCORE]) / sums[-1]),
        bits_over_prior=interval(
            lambda sums: sums[_BITS] / sums[_STEPS] - sums[_PRIOR + _BITS] / sums[_PRIOR + _STEPS]
        ),
        over_prior_at_equal_bits=interval(lambda sums: (sums[_SCORE] - _mixed_prior(sums)) / sums[-1]),
    )


def _best_mix(sums: Floats) -> Floats:
    """Highest summed score of a mix of two classes whose mean bits are the policy's."""
    scores = sums[_CLASSES:-1:3]
    excess = _excess(sums, sums[_CLASSES + 1 : -1 : 3], sums[_CLASSES + 2 : -1 : 3])
    # Where all classes lie on one side of the policy's bits, the nearest one stands in.
    nearest = np.abs(excess).argmin(0)
    best = np.take_along_axis(scores, nearest[None], 0)[0]
    bracketed = (excess.min(0) <= 0) & (excess.max(0) >= 0)
    found = np.full_like(best, -np.inf)
    for low in range(len(scores)):
        for high in range(len(scores)):
            fits = (excess[low] <= 0) & (excess[high] >= 0)
            found = np.where(fits, np.maximum(found, _mix(scores, excess, low, high)), found)
    result: Floats = np.where(bracketed, found, best)
    return result


def _mixed_prior(sums: Floats) -> Floats:
    """Summed score of random-prior mixed with the last class, or with class 0, to the policy's mean bits."""
    scores = np.stack([sums[_CLASSES], sums[_PRIOR + _SCORE], sums[-4]])
    bits = np.stack([sums[_CLASSES + 1], sums[_PRIOR + _BITS], sums[-3]])
    steps = np.stack([sums[_CLASSES + 2], sums[_PRIOR + _STEPS], sums[-2]])
    excess = _excess(sums, bits, steps)
    result: Floats = np.where(excess[1] <= 0, _mix(scores, excess, 1, 2), _mix(scores, excess, 0, 1))
    return result


def _excess(sums: Floats, bits: Floats, steps: Floats) -> Floats:
    """Bits that each choice spends beyond what its steps would at the policy's mean bits."""
    result: Floats = bits - steps * (sums[_BITS] / sums[_STEPS])
    return result


def _mix(scores: Floats, excess: Floats, low: int, high: int) -> Floats:
    """Summed score of the mix of two choices whose excess is 0; of the better one where both have none.

    A share w of ``low`` spends w e_low + (1 - w) e_high beyond the mean bits wanted, which is 0 for
    w = e_high / (e_high - e_low). Shares outside 0..1 (the bits lie beyond both) are cut to the nearer choice.
    """
    span = excess[high] - excess[low]
    share = np.clip(np.where(span > 0, excess[high] / np.where(span > 0, span, 1), 0.5), 0, 1)
    mixed = share * scores[low] + (1 - share) * scores[high]
    result: Floats = np.where(span == 0, np.maximum(scores[low], scores[high]), mixed)
    return result
