"""How sure each point of a front is: intervals of its quality, the simulator's own error, and who challenges it.

Two uncertainties, kept apart. Quality is measured on n prompts and has a sampling interval. The simulator is off
from real machines by a share that is much the same for similar designs: it matters against an absolute limit, and
says little about which of two designs is faster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.objective import signs
from dse.study import StudyConfig
from dse.validation import judged_by

INTERVALS = {
    "quality": ("quality_ci_low", "quality_ci_high"),
    "relative_quality": ("relative_quality_ci_low", "relative_quality_ci_high"),
}
"""Columns that hold the interval of a metric."""


def add_uncertainty(front: pd.DataFrame, study: StudyConfig) -> pd.DataFrame:
    """Add to the front's rows what limits their precision.

    ``NAME_error_low`` and ``NAME_error_high`` of a simulated objective are where the true value may lie if the
    simulator is off by as much as it was seen to be, either way (:class:`dse.validation.ErrorRange`). ``challengers``
    is the number of front points that are at least as good in every objective without a sampling interval, and whose
    quality intervals overlap: such a row is on the front by a difference within its intervals. ``challenged_by`` is
    the trial of the one that is best in the study's objectives, in their order.

    Returns:
        A table with the same rows; intervals overlap more often than a paired test finds no difference.
    """
    added: dict[str, Any] = {}
    for objective in study.objectives:
        errors = judged_by(study.mode, objective.name)
        if errors is not None:
            added[f"{objective.name}_error_low"] = errors.true_low(front[objective.name])
            added[f"{objective.name}_error_high"] = errors.true_high(front[objective.name])
    challenged = challengers(front, study)
    numbers = front["number"].to_numpy()
    added["challengers"] = [len(rows) for rows in challenged]
    # The front is sorted by the objectives in their order.
    first = [int(numbers[rows[0]]) if len(rows) else None for rows in challenged]
    added["challenged_by"] = pd.array(first, dtype="Int64")
    return front.assign(**added)


def challengers(front: pd.DataFrame, study: StudyConfig) -> list[NDArray[np.intp]]:
    """For each row, the other rows that may be as good everywhere: see :func:`add_uncertainty`.

    A row whose quality has no interval (quoted numbers) challenges nobody and is not challenged.
    """
    uncertain = [one for one in study.objectives if one.name in INTERVALS]
    certain = [one for one in study.objectives if one.name not in INTERVALS]
    if not uncertain or front.empty:
        return [np.empty(0, dtype=np.intp) for _ in range(len(front))]
    losses = front[[one.name for one in certain]].to_numpy(dtype=float) * signs(certain)
    missing = np.full(len(front), np.nan)
    ends = [
        [front[name].to_numpy(dtype=float) if name in front else missing for name in INTERVALS[one.name]]
        for one in uncertain
    ]
    found = []
    for row in range(len(front)):
        mask = np.all(losses <= losses[row], axis=1)
        for low, high in ends:
            mask &= (low <= high[row]) & (high >= low[row])
        mask[row] = False
        found.append(np.flatnonzero(mask))
    return found
