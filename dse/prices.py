"""Exact shadow prices: explore again with one limit loosened, and see what it buys.

Where bounds prune, designs beyond a limit are never simulated, so the record of one exploration cannot say what
lies there (:func:`dse.worth.relaxations` says "at least"). Each loosened limit is an exact exploration of its own,
which takes over from those before it what takes long to find (see :mod:`dse.related`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from dse.exploration import Exploration, load_exploration, results_folder
from dse.log import LOG_NAME, read_log
from dse.objective import signs, violation
from dse.pareto import hypervolume
from dse.problem import prepare
from dse.related import Related
from dse.resume import check_same_numbers, check_same_study
from dse.runner import explore
from dse.study import Constraint, StudyConfig
from dse.worth import RELAXATIONS
from hwsim.trace import InputError, atomic_writer, collect_provenance

FOLDER = "prices"
FILE_NAME = "prices.csv"


def loosened(study: StudyConfig, index: int, share: float) -> StudyConfig:
    """The study with one limit moved outwards by a share of its bound, to be explored exactly."""
    limit = study.constraints[index]
    away = share * abs(limit.bound) * (-1 if limit.op == ">=" else 1)
    moved = limit.model_copy(update={"bound": limit.bound + away})
    limits = tuple(moved if place == index else one for place, one in enumerate(study.constraints))
    return study.model_copy(update={"constraints": limits, "sampler": "exact", "budget": None})


def shadow_prices(
    source: Path | str,
    *,
    shares: Sequence[float] = RELAXATIONS,
    workers: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Explore again under every loosened limit; killed and called again, it goes on.

    Seconds to minutes each: most of it confirms the first of these fronts on the other engine (see
    :mod:`dse.confirm`), and the others where they differ from it. Where tiles are searched it may take hours.

    Args:
        source: Folder of an exploration whose front is exact, or its study file.
        shares: Shares of the bound by which each limit is loosened.
        workers: Processes that simulate.
        progress: Show on standard error how many explorations there will be, and bars.

    Returns:
        The columns of :func:`dse.worth.relaxations`, also written to ``prices.csv`` in the folder; the explorations
        are kept in its folder ``prices``.

    Raises:
        InputError: If the front is not exact, quality is measured live, there is no limit to loosen, a share is not
            between 0 and 1, or the record is of other files or of a simulator that gave other numbers.
    """
    for share in shares:
        if not 0 < share < 1:
            raise InputError(f"prices: share = {share:g}: must be between 0 and 1, for example 0.05 for 5%")
    folder = results_folder(source)
    found = load_exploration(source)
    if found.study.live_quality is not None:
        raise InputError(
            f"{folder}: its quality is measured by a command as it is needed, and prices would run it for every "
            "loosened limit; let the study name quality files (of `bittaper evaluate`) in place of live_quality"
        )
    if not found.front_is_exact:
        raise InputError(
            f"{folder}: its front is not exact, so a difference to another exploration may be chance; run the study "
            "with sampler: exact first"
        )
    limits = [index for index, limit in enumerate(found.study.constraints) if limit.bound != 0]
    if not limits:
        raise InputError(f"{folder}: the study has no limit that could be loosened by a share")
    related = _related(folder, found.study)
    rows: list[dict[str, object]] = []
    every = [(index, share) for index in limits for share in shares]
    if progress:
        by = ", ".join(f"{100 * share:g}%" for share in shares)
        tqdm.write(f"{len(every)} explorations: {len(limits)} of the limits, each loosened by {by}", file=sys.stderr)
    with tqdm(every, desc="prices", unit="exploration", disable=not progress, dynamic_ncols=True) as bar:
        for index, share in bar:
            limit = found.study.constraints[index]
            study = loosened(found.study, index, share)
            out = folder / FOLDER / f"{index}-{limit.name}-{100 * share:g}"
            then = explore(study, out, workers=workers, progress=progress, related=related)
            rows += _rows(found, then, limit, share, study.constraints[index].limit)
    table = pd.DataFrame(rows)
    with atomic_writer(folder / FILE_NAME) as file:
        table.to_csv(file, index=False, lineterminator="\n")
    return table


def _related(folder: Path, study: StudyConfig) -> Related:
    """What the first exploration knows, if its files and its simulator are still the same.

    Raises:
        InputError: If they are not: prices would compare numbers of two.
    """
    log = folder / LOG_NAME
    record, problem = read_log(log), prepare(study)
    check_same_study(log, record, problem)
    check_same_numbers(log, record, problem, collect_provenance(folder, seed=study.seed))
    related = Related()
    related.learn(record, str(folder))
    return related


def _rows(
    found: Exploration, then: Exploration, limit: Constraint, share: float, bound: float
) -> list[dict[str, object]]:
    objectives = found.study.objectives
    sign = signs(objectives)
    names = [objective.name for objective in objectives]
    reference = np.array([found.reference_point[name] for name in names]) * sign
    now, later = (one.pareto[names].to_numpy(dtype=float) * sign for one in (found, then))
    volume = hypervolume(now, reference)
    beyond = violation(limit, then.trials[limit.name][then.trials["feasible"]].to_numpy(dtype=float)) > 0
    common: dict[str, object] = {
        "constraint": str(limit),
        "relaxed_by": share,
        "limit": bound,
        "volume_gain": hypervolume(later, reference) / volume - 1 if volume > 0 else float("nan"),
        "added": int(beyond.sum()),
        "exact": then.front_is_exact,
    }
    best, relaxed = now.min(axis=0), later.min(axis=0)
    return [
        {
            **common,
            "objective": name,
            "best": best[column] * sign[column],
            "best_relaxed": relaxed[column] * sign[column],
            "gain": best[column] - relaxed[column],
        }
        for column, name in enumerate(names)
    ]
