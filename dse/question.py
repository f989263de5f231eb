"""One-line questions to a finished or running exploration: which design, with what margin, or what binds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dse.exploration import Exploration, load_exploration
from dse.objective import ALIASES, check_metric_name, resolve_name, violation
from dse.study import Constraint, StudyConfig
from hwsim.trace import InputError

__all__ = ["ALIASES", "Answer", "Binding", "ask", "find_binding", "limits_from_options"]


@dataclass(frozen=True)
class Binding:
    """The constraint that stands in the way.

    Attributes:
        constraint: Which one.
        best: The best value reached.
        number: Trial that reaches it.
        alone: Whether it fails even with all other constraints dropped.
    """

    constraint: Constraint
    best: float
    number: int
    alone: bool

    def __str__(self) -> str:
        gap = abs(self.best - self.constraint.limit)
        share = 100 * violation(self.constraint, self.best)
        scope = "of any design" if self.alone else "of the designs that keep the other limits"
        return (
            f"{self.constraint} binds: the best {scope} is {self.best:.6g} (trial {self.number}), "
            f"{gap:.4g} ({share:.3g}%) off"
        )


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        target: What was optimised.
        direction: Which way.
        design: The best design's row; None if no evaluated design keeps the limits.
        margins: For each constraint, how far the design is on the right side of it, in its own unit.
        binding: Without a design, the constraint to relax.
        asked: Designs looked at.
    """

    target: str
    direction: Literal["minimize", "maximize"]
    design: dict[str, Any] | None
    margins: dict[str, float]
    binding: Binding | None
    asked: int

    def __str__(self) -> str:
        if self.design is None:
            return f"no design of {self.asked} keeps all limits: {self.binding}"
        margins = "; ".join(f"{text} by {margin:.4g}" for text, margin in self.margins.items())
        return (
            f"{self.target} = {self.design[self.target]:.6g}: trial {self.design['number']}, {_describe(self.design)}"
            f"{'; keeps ' + margins if margins else ''} (best of {self.asked} designs)"
        )


def _describe(row: Mapping[str, Any]) -> str:
    """A design in words: what was chosen, not what came out."""
    chosen = [f"schedule {row['schedule']}"] if isinstance(row["schedule"], str) else []
    fields = [
        f"{name} = {value:.6g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in row["parameters"].items()
    ]
    return ", ".join([*chosen, *fields]) or "the NPU as given"


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
    missed = np.array([[violation(limit, value) for value in trials[limit.name]] for limit in constraints])
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
        source: An exploration, or the folder it was recorded in.
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
        kept = kept[[violation(limit, value) <= 0 for value in kept[limit.name]]]
    direction: Literal["minimize", "maximize"] = "minimize" if minimise is not None else "maximize"
    if kept.empty:
        return Answer(target, direction, None, {}, find_binding(trials, limits), len(trials))
    keys = [target, *(objective.name for objective in study.objectives if objective.name != target), "number"]
    ascending = [
        direction == "minimize",
        *(objective.direction == "minimize" for objective in study.objectives if objective.name != target),
        True,
    ]
    best = kept.sort_values(keys, ascending=ascending, kind="stable").iloc[0]
    design: dict[str, Any] = {str(name): _plain(value) for name, value in best.items()}
    design["parameters"] = {path: design[path] for path in study.parameters if not _is_missing(design[path])}
    margins = {str(limit): abs(float(best[limit.name]) - limit.limit) for limit in limits}
    return Answer(target, direction, design, margins, None, len(trials))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))
