"""Why a design is not on the front: it is simulated, and set beside the limits and the designs that beat it.

An exact exploration records only designs that nothing beats, and a sampled one only those that it drew. Whoever misses
a design asks for it by its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dse.answer import is_missing
from dse.exploration import Exploration, load_exploration, results_folder
from dse.live import NotMeasuredError
from dse.objective import signs, violation
from dse.problem import Evaluate, Problem, prepare
from dse.resume import SAME
from dse.space import Axis, Design
from dse.study import Constraint, Objective
from dse.words import in_pairs, in_words, listed, wrapped
from hwsim.trace import InputError, unknown_name

CHANGED = "the simulator or a file of the study changed since: explore into another folder, and ask there"


@dataclass(frozen=True)
class Rival:
    """A front design that is nowhere worse and somewhere better.

    Attributes:
        number: Its trial.
        values: Its objectives by name.
    """

    number: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Explanation:
    """What stands against a design.

    Attributes:
        schedule: Label of its schedule; None where the trace runs as recorded.
        parameters: Its NPU fields.
        metrics: What simulating it gave; empty where it was left out or cannot run.
        objectives: The study's objectives.
        outside: Values that the study does not try, each with the nearest it tries.
        left_out: Why its schedule was left out beforehand, or why the NPU cannot run it.
        broken: Limits that it breaks.
        rival: Of the designs that beat it, the one that does by most in the objective where it does by least.
        rivals: How many of the front do.
        equal: A front design that is as good in every objective.
        trial: Its own trial, if it was recorded.
        on_front: Whether that trial is on the front.
    """

    schedule: str | None
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    objectives: Sequence[Objective]
    outside: Sequence[str] = ()
    left_out: str | None = None
    broken: Sequence[Constraint] = ()
    rival: Rival | None = None
    rivals: int = 0
    equal: int | None = None
    trial: int | None = None
    on_front: bool = False

    @property
    def reasons(self) -> list[str]:
        """What stands against it, one phrase each; what speaks for it where nothing does."""
        found = [f"the study does not try it: {text}" for text in self.outside]
        if self.left_out is not None:
            return [*found, self.left_out]
        for limit in self.broken:
            value = self.metrics[limit.name]
            gap = abs(value - limit.limit)
            found.append(f"it breaks {limit}: {value:.6g}, {gap:.4g} ({violation(limit, value):.2%}) off")
        if self.rival is not None:
            pairs = {one.name: (self.rival.values[one.name], self.metrics[one.name]) for one in self.objectives}
            better = ", ".join(
                f"{name} {in_words(name, theirs)} {'too' if theirs == own else f'instead of {in_words(name, own)}'}"
                for name, (theirs, own) in pairs.items()
            )
            more = f"; so do {self.rivals - 1} more of the front" if self.rivals > 1 else ""
            found.append(f"trial {self.rival.number} beats it ({better}){more}")
        if self.on_front:
            found.append(f"it is on the front, as trial {self.trial}")
        elif not self.broken and self.rival is None:
            found.append(self._unbeaten())
        return found

    def _unbeaten(self) -> str:
        if self.equal is not None:
            return f"it is as good as trial {self.equal}, which is on the front"
        known = "" if self.trial is not None else ": the exploration did not simulate it"
        return f"nothing on the front beats it{known}"

    def __str__(self) -> str:
        chosen = [] if self.schedule is None else [f"schedule {self.schedule}"]
        named = [one.name for one in self.objectives if one.name in self.metrics]
        lines = [
            *wrapped(", ".join([*chosen, *in_pairs(self.parameters)]) or "the NPU as given"),
            *listed("gives", [", ".join(in_pairs({name: self.metrics[name] for name in named}))] if named else []),
            *listed("verdict", self.reasons),
        ]
        return "\n".join(lines)


def explain(
    source: Exploration | Path | str,
    changes: Mapping[str, Any] | None = None,
    *,
    design: int | None = None,
    schedule: str | None = None,
    evaluate: Evaluate | None = None,
    allow_command: bool = False,
) -> Explanation:
    """Simulate a design and say what stands against it.

    Args:
        source: An exploration, or the folder it was recorded in; the study's files must still be there.
        changes: Values of NPU parameters; the others are those of ``design``.
        design: A trial to start from; without it, every parameter that acts must be in ``changes``.
        schedule: Label of the schedule; that of ``design`` by default.
        evaluate: Stands in for the simulator.
        allow_command: Let the study's live quality command run.

    Raises:
        InputError: If a name is unknown, or a value is missing.
    """
    exploration = source if isinstance(source, Exploration) else load_exploration(source)
    # Both engines give the same cycles; the fast one gives them sooner.
    study = exploration.study.model_copy(update={"engine": "fast"})
    folder = None if isinstance(source, Exploration) else results_folder(source)
    problem = prepare(study, evaluate, allow_command=allow_command, folder=folder)
    changes = dict(changes or {})
    for path in changes:
        if path not in problem.space.parameters:
            raise unknown_name("parameter", path, problem.space.parameters)
    given = _start(exploration, design) | changes
    label = schedule or given.pop("schedule", None)
    if label is None and problem.space.schedules:
        raise InputError("why: which schedule? give schedule, or design to start from a trial")
    if label in problem.excluded:
        reason = f"its schedule was left out beforehand: {problem.excluded[label]}"
        return Explanation(label, changes, {}, study.objectives, left_out=reason)
    if label is not None and label not in problem.space.schedules:
        raise unknown_name("schedule", label, problem.space.schedules)
    outside: list[str] = []

    def pick(axis: Axis) -> Any:
        if is_missing(given.get(axis.name)):
            raise InputError(f"why: {axis.name} has no value: give it, or a design to start from")
        return _value(axis, given[axis.name], outside)

    asked = problem.space.walk(pick, None if label is None else problem.space.schedules[label])
    if idle := sorted(changes.keys() - asked.npu.keys()):
        raise InputError(f"why: {idle[0]} does not act in this design: its condition in the study fails")
    return _judge(exploration, problem, asked, outside)


def _start(exploration: Exploration, number: int | None) -> dict[str, Any]:
    """Values of a trial; none without one."""
    if number is None:
        return {}
    rows = exploration.trials[exploration.trials["number"] == number]
    if rows.empty:
        raise InputError(f"why: no trial {number} among the {len(exploration.trials)} of the exploration")
    row = rows.iloc[0].to_dict()
    return {name: row[name] for name in ("schedule", *exploration.study.parameters) if not is_missing(row[name])}


def _value(axis: Axis, given: Any, outside: list[str]) -> Any:
    """The study's own value where ``given`` is one of them; else ``given``, which is noted."""
    number = given.item() if isinstance(given, np.generic) else given
    if axis.values is None:
        if not _is_number(number):
            raise InputError(f"why: {axis.name} = {number}: must be a number")
        number = int(number) if axis.integer and float(number).is_integer() else number
        if not axis.low <= number <= axis.high or isinstance(number, int) < axis.integer:
            outside.append(f"{axis.name} = {_text(number)} is not in {axis.low:g} to {axis.high:g}")
        return number
    for value in axis.values:
        if value == number or (_is_number(value) and _is_number(number) and math.isclose(value, number, rel_tol=SAME)):
            return value
    near = sorted(axis.values, key=lambda value: abs(value - number))[:2] if _is_number(number) and axis.ordered else ()
    nearest = f" (nearest: {' and '.join(map(_text, sorted(near)))})" if near else ""
    outside.append(f"{axis.name} = {_text(number)} is none of its {len(axis.values)} values{nearest}")
    whole = isinstance(number, float) and number.is_integer() and all(isinstance(one, int) for one in axis.values)
    return int(number) if whole else number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) or (_is_number(value) and abs(value) >= 1e6) else str(value)


def _judge(exploration: Exploration, problem: Problem, asked: Design, outside: Sequence[str]) -> Explanation:
    study = problem.study
    label = None if asked.schedule is None else asked.schedule.label()
    trial = _trial(exploration, asked, label)
    _check_same_numbers(exploration, problem, trial)
    try:
        metrics = {**asked.npu, **problem.metrics(asked)}
    except InputError as error:
        reason = f"it {'could not be evaluated' if isinstance(error, NotMeasuredError) else 'cannot run'}: {error}"
        return Explanation(label, asked.npu, {}, study.objectives, outside=outside, left_out=reason)
    names = [one.name for one in study.objectives]
    sign = signs(study.objectives)
    own = np.array([metrics[name] for name in names]) * sign
    front = exploration.pareto
    theirs = front[names].to_numpy(dtype=float) * sign
    span = np.maximum(np.abs(own), np.finfo(float).tiny)
    gains = (own - theirs) / span
    gains[np.abs(gains) <= SAME] = 0.0
    beats = (gains >= 0).all(axis=1) & (gains > 0).any(axis=1)
    equal = np.flatnonzero((gains == 0).all(axis=1))
    rows = np.flatnonzero(beats)
    rival = None
    if len(rows):
        best = front.iloc[rows[np.lexsort([-gains[rows].sum(axis=1), -gains[rows].min(axis=1)])[0]]]
        rival = Rival(int(best["number"]), {name: float(best[name]) for name in names})
    return Explanation(
        label,
        asked.npu,
        metrics,
        study.objectives,
        outside=outside,
        broken=[limit for limit in study.constraints if violation(limit, metrics[limit.name]) > 0],
        rival=rival,
        rivals=len(rows),
        equal=int(front["number"].iloc[equal[0]]) if len(equal) else None,
        trial=trial,
        on_front=trial is not None and trial in set(front["number"]),
    )


def _check_same_numbers(exploration: Exploration, problem: Problem, trial: int | None) -> None:
    """Refuse to compare with a front that the simulator, or a file of the study, has changed since.

    Args:
        exploration: Its front is compared with.
        problem: Simulates now.
        trial: The one to simulate again; the first of the front where the design was not recorded.

    Raises:
        InputError: With the number that differs.
    """
    known = exploration.trials[exploration.trials["error"].isna()].set_index("number")
    number = trial if trial in known.index else next(iter(exploration.pareto["number"]), None)
    if number is None:
        return
    before: dict[str, Any] = {str(name): value for name, value in known.loc[number].items()}
    given = _start(exploration, int(number))
    label = None if is_missing(before["schedule"]) else before["schedule"]
    if label is not None and label not in problem.space.schedules:
        raise InputError(f"why: the schedule of trial {number}, {label}, is none of the study's now; {CHANGED}")
    plan = None if label is None else problem.space.schedules[label]
    try:
        now = problem.evaluate(problem.space.walk(lambda axis: _value(axis, given[axis.name], []), plan))
    except InputError as error:
        raise InputError(f"why: trial {number} is in the record, but cannot run now ({error}); {CHANGED}") from None
    for name, value in now.items():
        if name in before and not math.isclose(before[name], value, rel_tol=SAME):
            raise InputError(
                f"why: trial {number} has {name} = {before[name]:.10g} in the record, and {value:.10g} now; {CHANGED}"
            )


def _trial(exploration: Exploration, asked: Design, label: str | None) -> int | None:
    """The recorded trial of a design."""
    trials = exploration.trials
    same: list[Any] = [] if label is None else [trials["schedule"] == label]
    for path in exploration.study.parameters:
        acts = path in asked.npu
        # By ==, since an integer that is not always there stands in the table as a float.
        same.append([value == asked.npu[path] for value in trials[path]] if acts else trials[path].isna())
    rows = np.logical_and.reduce([np.asarray(one, dtype=bool) for one in same]) if same else np.ones(len(trials), bool)
    found = trials["number"][rows]
    return int(found.iloc[0]) if len(found) else None
