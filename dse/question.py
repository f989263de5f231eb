"""One-line questions to a finished or running exploration: which design, with what margin, or what binds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dse.answer import Answer, Binding, Margin, interval_of, is_missing
from dse.exploration import Exploration, load_exploration
from dse.objective import ALIASES, METRICS, QUALITY_METRICS, check_metric_name, resolve_name, violation
from dse.study import Constraint, StudyConfig
from dse.validation import ErrorBasis, error_bases
from hwsim.trace import InputError

__all__ = ["ALIASES", "Answer", "Binding", "Margin", "ask", "find_binding", "is_exact", "limits_from_options"]

CHOSEN_METRICS = ("bandwidth_bytes_per_s", "mean_decode_bits")
"""Metrics that are chosen with the design rather than simulated."""


def find_binding(trials: pd.DataFrame, constraints: Sequence[Constraint]) -> Binding | None:
    """Find which constraint stops every row, and by how much.

    One that fails alone comes first (the worst of them). Otherwise, for each constraint the rows that keep
    all others are looked at, and the one missed by the least share is named: it is the cheapest to relax.

    Args:
        trials: Rows that could be evaluated.
        constraints: The limits.

    Returns:
        None if some row keeps them all, or there is no row or no constraint.
    """
    if trials.empty or not constraints:
        return None
    missed = np.array([violation(limit, trials[limit.name].to_numpy(dtype=float)) for limit in constraints])
    if (missed <= 0).all(axis=0).any():
        return None

    def binding(index: int, rows: np.ndarray[Any, Any], alone: bool) -> Binding:
        row = int(rows[np.argmin(missed[index, rows])])
        value = float(trials[constraints[index].name].iloc[row])
        return Binding(constraints[index], value, int(trials["number"].iloc[row]), alone)

    every = np.arange(len(trials))
    best_alone = missed.min(axis=1)
    if (best_alone > 0).any():
        return binding(int(np.argmax(best_alone)), every, True)
    gaps = {}
    for index in range(len(constraints)):
        rows = np.flatnonzero((np.delete(missed, index, axis=0) <= 0).all(axis=0))
        if len(rows):
            gaps[index] = (float(missed[index, rows].min()), rows)
    if gaps:
        index = min(gaps, key=lambda key: gaps[key][0])
        return binding(index, gaps[index][1], False)
    # Every limit can be kept, but no design keeps all but one: the design that is least wrong decides.
    row = int(np.argmin(missed.max(axis=0)))
    return binding(int(np.argmax(missed[:, row])), np.array([row]), False)


def limits_from_options(options: Mapping[str, float], parameters: Sequence[str]) -> list[Constraint]:
    """Turn ``{"min_tokens_per_s": 20}`` (or ``min-tokens-per-s``) into constraints.

    Raises:
        InputError: If a name does not start with min or max, or names nothing known.
    """
    found = []
    for option, bound in options.items():
        bound_kind, _, name = option.replace("-", "_").lstrip("_").partition("_")
        if bound_kind not in {"min", "max"} or not name:
            raise InputError(f"limit '{option}': must be min_NAME or max_NAME, for example min_tokens_per_s")
        operator: Literal[">=", "<="] = ">=" if bound_kind == "min" else "<="
        found.append(Constraint(name=resolve_name(name, parameters), op=operator, bound=bound))
    return found


def _limits(study: StudyConfig, asked: Sequence[Constraint]) -> list[Constraint]:
    """The question's limits, and the study's where the question has none of the same kind."""
    named = {(limit.name, limit.op) for limit in asked}
    return [*asked, *(limit for limit in study.constraints if (limit.name, limit.op) not in named)]


def ask(
    source: Exploration | Path | str,
    constraints: Sequence[Constraint] | Mapping[str, float] = (),
    *,
    minimise: str | None = None,
    maximise: str | None = None,
) -> Answer:
    """Find the evaluated design that is best in one quantity within limits.

    Args:
        source: An exploration, the folder it was (or is being) recorded in, or its study file.
        constraints: Limits, as constraints or as ``{"min_tokens_per_s": 20, "min_quality": 0.98}``; the
            study's own stay in force unless a limit here bounds the same quantity from the same side.
        minimise: What to minimise: a metric, a short name of :data:`ALIASES`, or a numeric parameter.
        maximise: What to maximise, instead.

    Returns:
        The design and its margins, or the constraint that binds. Among equally good designs the one that
        is best in the study's objectives, in their order, is given.

    Raises:
        InputError: If a quantity is unknown or was not evaluated, or not exactly one target is given.
    """
    exploration = source if isinstance(source, Exploration) else load_exploration(source)
    study = exploration.study
    if (minimise is None) == (maximise is None):
        raise InputError("ask: give exactly one of minimise and maximise")
    parameters = study.numeric_parameters()
    target = resolve_name(minimise or maximise or "", parameters)
    asked = limits_from_options(constraints, parameters) if isinstance(constraints, Mapping) else list(constraints)
    for limit in asked:
        check_metric_name("quantity", limit.name, parameters)
    limits = _limits(study, asked)
    trials = exploration.trials[exploration.trials["error"].isna()]
    if trials.empty:
        raise InputError("ask: the exploration holds no evaluated design yet; run the study first")
    for name in (target, *(limit.name for limit in limits)):
        if name not in trials or trials[name].isna().any():
            raise InputError(f"ask: the study did not evaluate '{name}' (no quality file, or no full-precision record)")
    kept = trials
    for limit in limits:
        kept = kept[violation(limit, kept[limit.name].to_numpy(dtype=float)) <= 0]
    direction: Literal["minimize", "maximize"] = "minimize" if minimise is not None else "maximize"
    simulated = dict.fromkeys(name for name in (target, *(limit.name for limit in limits)) if _is_simulated(name))
    shown = {name: error_bases(study.mode, name) for name in simulated}
    sure = is_exact(exploration, target, direction, limits), exploration.front_is_exact, exploration.space_size
    if kept.empty:
        binding = find_binding(trials, limits)
        return Answer(target, direction, None, (), binding, len(trials), *sure, shown)
    keys = [target, *(objective.name for objective in study.objectives if objective.name != target), "number"]
    ascending = [
        direction == "minimize",
        *(objective.direction == "minimize" for objective in study.objectives if objective.name != target),
        True,
    ]
    best = kept.sort_values(keys, ascending=ascending, kind="stable").iloc[0]
    design: dict[str, Any] = {str(name): _plain(value) for name, value in best.items()}
    design["parameters"] = {path: design[path] for path in study.parameters if not is_missing(design[path])}
    margins = tuple(_margin(limit, design, shown) for limit in limits)
    return Answer(target, direction, design, margins, None, len(trials), *sure, shown)


def is_exact(
    exploration: Exploration, target: str, direction: Literal["minimize", "maximize"], limits: Sequence[Constraint]
) -> bool:
    """Whether the best evaluated design within limits is the best of the whole space.

    It is where every design was simulated. Where designs were pruned, each one is beaten in all objectives by a
    kept one or breaks a limit of the study; so the question may only ask for an objective, in its direction, and
    limit nothing else than the study does, other than objectives from their worse side. Limits that the study has
    may not be loosened: schedules and designs were left out by them.
    """
    study = exploration.study
    own = {(limit.name, limit.op): limit for limit in study.constraints}
    loosened = any(
        (before := own.get((limit.name, limit.op))) is not None
        and violation(before, limit.limit) > 0
        and not _same(limit, before)
        for limit in limits
    )
    if exploration.exhausted and not (loosened and exploration.excluded_schedules):
        return True
    if loosened or not exploration.front_is_exact:
        return False
    wanted = {objective.name: objective.direction for objective in study.objectives}
    operator = {"maximize": ">=", "minimize": "<="}
    free = all(
        _same(limit, own.get((limit.name, limit.op)))
        or (limit.name in wanted and limit.op == operator[wanted[limit.name]])
        for limit in limits
    )
    return free and wanted.get(target) == direction


def _same(limit: Constraint, own: Constraint | None) -> bool:
    """Whether two limits mean the same, as 0.95 and 95% do."""
    return own is not None and math.isclose(limit.limit, own.limit, rel_tol=1e-12)


def _is_simulated(name: str) -> bool:
    """Whether a number comes out of the simulator; bandwidth, bits and parameters are chosen."""
    return name in METRICS and name not in CHOSEN_METRICS and name not in QUALITY_METRICS


def _margin(limit: Constraint, design: Mapping[str, Any], shown: Mapping[str, tuple[ErrorBasis, ...]]) -> Margin:
    return Margin(
        constraint=limit,
        value=float(design[limit.name]),
        errors=shown.get(limit.name, ()),
        interval=interval_of(design, limit.name),
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
