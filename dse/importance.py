"""Which parameter matters for which metric, as the share of its variance among the recorded trials.

The share of a parameter alone is the correlation ratio of the metric given the parameter's value, less what as many
groups would explain by chance (epsilon squared). Where every combination was simulated it is Sobol's first-order
index of the space. Trials that a sampler chose, or that bounds selected, crowd near the front: their shares say what
tells these trials apart, and are biased as a statement about the space. Unbiased ones come from the simulator:
:func:`dse.measure_sensitivity` over the study's ranges.

Source: Kelley, "An unbiased correlation ratio measure", PNAS 21 (1935); Saltelli et al., "Variance based sensitivity
analysis of model output", Comput. Phys. Commun. 181 (2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.exploration import Exploration
from dse.study import StudyConfig
from hwsim.trace import InputError

MAX_GROUPS = 12
"""A parameter of more values than this is cut into as many groups of equal size."""

MIN_REPEATS = 5
"""Trials a schedule needs on average to be a group of its own."""

RESAMPLES = 100
"""Bootstrap samples for a standard error."""

Z_95 = 1.96
UNBIASED_SAMPLERS = ("exhaustive", "random")


def is_biased(exploration: Exploration) -> bool:
    """Whether trials were chosen by what was known of others, rather than all or at random."""
    return not exploration.exhausted and exploration.sampler not in UNBIASED_SAMPLERS


def decisions(trials: pd.DataFrame, study: StudyConfig) -> dict[str, NDArray[np.intp]]:
    """Group of each trial under every decision that differs among them: each parameter, and the schedule.

    A parameter that does not act in a trial forms a group of its own. Schedules that are too many to repeat are
    told apart by their mean decode bits.
    """
    columns = {name: trials[name] for name in study.parameters}
    if trials["schedule"].notna().any():
        columns["schedule"] = trials["schedule"]
        if trials["schedule"].nunique() * MIN_REPEATS > len(trials) and "mean_decode_bits" in trials:
            columns["schedule"] = trials["mean_decode_bits"]
    found = {}
    for name, column in columns.items():
        codes = _groups(column)
        if codes.max(initial=0) > 0:
            found[name] = codes
    return found


def _groups(column: pd.Series[Any]) -> NDArray[np.intp]:
    off = column.isna().to_numpy(dtype=bool)
    text = column.map(repr)  # lists are values too
    codes, values = pd.factorize(text)
    numbers = pd.to_numeric(column, errors="coerce")
    if len(values) > MAX_GROUPS + 1 and not (numbers.isna() & ~off).any():
        ranks = numbers.rank(method="average").to_numpy()
        codes = np.minimum((ranks - 0.5) * MAX_GROUPS / (~off).sum(), MAX_GROUPS - 1)
        codes = np.where(off, MAX_GROUPS, np.nan_to_num(codes)).astype(np.intp)
        codes = np.unique(codes, return_inverse=True)[1]
    return np.asarray(codes, dtype=np.intp)


def variance_share(values: NDArray[np.float64], groups: NDArray[np.intp]) -> float:
    """Share of the variance of ``values`` that the group explains, beyond chance.

    Epsilon squared: (between - (k - 1) within / (n - k)) / total. It is 0 on average where groups do not matter, and
    the correlation ratio itself where every group holds equal values only.

    Args:
        values: ``[trials]``.
        groups: ``[trials]``, numbers from 0.

    Returns:
        0 where values do not vary or no group repeats, so that nothing can be said.

    >>> variance_share(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1]))
    1.0
    """
    n = len(values)
    counts = np.bincount(groups)
    counts = counts[counts > 0]
    centred = values - values.mean()
    total = float(centred @ centred)
    if total <= 1e-24 * n * float(values @ values) or n <= len(counts):
        return 0.0
    sums = np.bincount(groups, weights=centred)
    between = float((sums[np.bincount(groups) > 0] ** 2 / counts).sum())
    chance = (len(counts) - 1) * (total - between) / (n - len(counts))
    return min(1.0, max(0.0, (between - chance) / total))


def importance(exploration: Exploration, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Importance of every decision for every metric.

    Args:
        exploration: At least 3 of its designs could be simulated.
        metrics: Which metrics; the study's objectives by default.

    Returns:
        A row per metric and decision, the most important first, with ``metric``, ``parameter``, ``share`` of the
        variance by this decision alone, ``ci_low`` and ``ci_high`` (95%, from the bootstrap's standard error),
        ``groups`` and ``n`` trials. What shares of a metric leave to 1 belongs to combinations of decisions, or to
        the coarseness of groups; correlated choices make them add up to more.

    Raises:
        InputError: If there are too few trials.
    """
    study = exploration.study
    trials = exploration.trials[exploration.trials["error"].isna()]
    if len(trials) < 3:
        raise InputError(f"importance: {len(trials)} designs could be simulated; it needs at least 3")
    groups = decisions(trials, study)
    rng = np.random.default_rng(study.seed)
    # Where the whole space was simulated nothing is left to chance.
    resamples = 0 if exploration.exhausted else RESAMPLES
    picks = [rng.integers(len(trials), size=len(trials)) for _ in range(resamples)]
    rows = []
    for metric in metrics or [objective.name for objective in study.objectives]:
        values = trials[metric].to_numpy(dtype=float)
        for name, codes in groups.items():
            share = variance_share(values, codes)
            error = Z_95 * float(np.std([variance_share(values[pick], codes[pick]) for pick in picks] or [0.0]))
            low, high = max(0.0, share - error), min(1.0, share + error)
            rows.append((metric, name, share, low, high, int(codes.max()) + 1, len(values)))
    table = pd.DataFrame(rows, columns=["metric", "parameter", "share", "ci_low", "ci_high", "groups", "n"])
    order = {metric: rank for rank, metric in enumerate(dict.fromkeys(table["metric"]))}
    rank = table["metric"].map(order)
    return table.iloc[np.lexsort([-table["share"], rank])].reset_index(drop=True)
