"""A study made ready to explore: its space, its quality table and its evaluator, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.bounds import Roofline, is_optimistic
from dse.candidates import Candidates
from dse.objective import QUALITY_METRICS, violation
from dse.quality import MeasuredQuality, load_quality
from dse.schedule_space import merged
from dse.simulator import Simulator, model_names
from dse.space import Design, Space
from dse.study import Constraint, Parameter, StudyConfig
from hwsim.trace import InputError, Schedule

Evaluate = Callable[[Design], Mapping[str, float]]
"""Gives a design's metrics other than quality, by the names of :data:`dse.objective.METRICS`."""

_BANDWIDTH = "memory.bandwidth_bytes_per_s"


@dataclass(frozen=True)
class Problem:
    """What a run needs.

    Attributes:
        study: The study.
        space: Designs that keep the limits which are known without simulating.
        quality: Measured quality by schedule; None where the study has no quality file.
        excluded: Schedules left out, with the reason.
        evaluate: The simulator, or what stands in for it.
        bounds: Optimistic metrics of a design without simulating; None where none are known.
        meaning: What a log must have been written for: the study with its files' content, and nothing
            that may change between runs (name, budget).
    """

    study: StudyConfig
    space: Space
    quality: MeasuredQuality | None
    excluded: dict[str, str]
    evaluate: Evaluate
    bounds: Evaluate | None
    meaning: dict[str, Any]

    def metrics(self, design: Design) -> dict[str, float]:
        """Simulate a design and add its quality.

        Raises:
            InputError: If the NPU cannot run the design.
        """
        return self._with_quality(design, self.evaluate(design))

    def optimistic_metrics(self, design: Design) -> dict[str, float]:
        """Metrics at least as good as :meth:`metrics` gives; only where there are bounds.

        Raises:
            InputError: If the NPU cannot run the design, as far as that is seen without simulating.
        """
        return self._with_quality(design, {} if self.bounds is None else self.bounds(design))

    def metrics_many(self, designs: Sequence[Design]) -> list[dict[str, float] | InputError]:
        """:meth:`metrics` of many designs, at once where the simulator can; an error where one cannot run."""
        if isinstance(self.evaluate, Simulator):
            found = self.evaluate.many(designs)
        else:
            found = [_caught(self.evaluate, design) for design in designs]
        return [
            metrics if isinstance(metrics, InputError) else self._with_quality(design, metrics)
            for design, metrics in zip(designs, found, strict=True)
        ]

    def optimistic_many(self, candidates: Candidates) -> dict[str, NDArray[np.float64]]:
        """:meth:`optimistic_metrics` of many designs, ``[designs]`` each; NaN where a design cannot run."""
        if isinstance(self.bounds, Roofline):
            found = self.bounds.many(candidates)
        elif self.bounds is None:
            found = {}
        else:
            designs = [candidates.design(index) for index in range(len(candidates))]
            rows = [_caught(self.bounds, design) for design in designs]
            names = dict.fromkeys(name for row in rows if not isinstance(row, InputError) for name in row)
            found = {
                name: np.array([np.nan if isinstance(row, InputError) else row[name] for row in rows], dtype=float)
                for name in names
            }
        if self.quality is not None:
            tables = self.quality.metrics
            for name in dict.fromkeys(name for label in candidates.labels for name in tables[label]):
                by_label = {label: tables[label][name] for label in candidates.labels if name in tables[label]}
                found[name] = candidates.schedule_column(by_label)
        return found

    def _with_quality(self, design: Design, metrics: Mapping[str, float]) -> dict[str, float]:
        found = {name: float(value) for name, value in metrics.items()}
        if self.quality is not None and design.schedule is not None:
            found |= self.quality.metrics[design.schedule.label()]
        return found


def _caught(evaluate: Evaluate, design: Design) -> dict[str, float] | InputError:
    try:
        return dict(evaluate(design))
    except InputError as error:
        return error


def prepare(
    study: StudyConfig,
    evaluate: Evaluate | None = None,
    bounds: Evaluate | None = None,
    *,
    allow_command: bool = False,
    folder: Path | str | None = None,
) -> Problem:
    """Load what the study names and check it before anything is simulated.

    Args:
        study: The study.
        evaluate: Stands in for the simulator.
        bounds: Stand in for the simulator's bounds.
        allow_command: Whether the study's live quality command may run.
        folder: Of the exploration; what a live quality command measures is kept in it.

    Raises:
        InputError: If a file is unusable, a metric is not to be had, or a constraint on quality or on a
            parameter holds for no design at all.
    """
    if study.live_quality is not None and not allow_command:
        raise InputError(
            f"live_quality: the study runs the command '{study.live_quality.command[0]} ...'; look at it, then allow "
            "it with --allow-command"
        )
    names = model_names(study)
    simulator = Simulator(study) if evaluate is None else None
    quality = load_quality(study, names)
    _check_quality_metrics(study, quality)
    _check_parameter_limits(study)
    schedules = _candidate_schedules(study, quality)
    kept, excluded = _exclude(study, schedules, quality, simulator)
    space = Space(study.parameters, kept)
    if simulator is not None:
        simulator.check(space)
    evaluator: Evaluate | None = evaluate or simulator
    assert evaluator is not None
    meaning = _meaning(study, names, quality, simulator)
    if simulator is not None and study.mode == "realistic":
        bounds = Roofline(simulator)
    if not all(is_optimistic(objective) for objective in study.objectives):
        bounds = None
    return Problem(study, space, quality, excluded, evaluator, bounds, meaning)


def _meaning(
    study: StudyConfig, names: Sequence[str], quality: MeasuredQuality | None, simulator: Simulator | None
) -> dict[str, Any]:
    """The study with files replaced by their content, so that a moved or commented file stays the same study."""
    meaning = study.model_dump(mode="json", exclude={"name", "budget", "quality", "workloads"})
    meaning["npu"] = study.npu if simulator is None else simulator.npu_sha256
    meaning["quality"] = None if quality is None else quality.sha256
    loads = [load.model_dump(mode="json", exclude={"model", "trace"}) for load in study.workloads]
    hashes = [load.trace for load in study.workloads] if simulator is None else simulator.workload_sha256
    meaning["workloads"] = [
        {**load, "model": name, "sha256": sha256} for load, name, sha256 in zip(loads, names, hashes, strict=True)
    ]
    return meaning


def _candidate_schedules(study: StudyConfig, quality: MeasuredQuality | None) -> dict[str, Schedule]:
    listed = {schedule.label(): schedule for schedule in map(merged, study.schedules or ())}
    if quality is None:
        return listed
    for label in listed:
        if label not in quality.schedules:
            raise InputError(f"schedules: no quality file measured {label}; measure it or leave it out")
    return listed or quality.schedules


def _check_quality_metrics(study: StudyConfig, quality: MeasuredQuality | None) -> None:
    for kind, items in (("objective", study.objectives), ("constraint", study.constraints)):
        for item in items:
            if item.name not in QUALITY_METRICS:
                continue
            if quality is None:
                raise InputError(f"{kind} '{item.name}': the study names no quality file; add one under quality")
            quality.require(item.name)


def _range(parameter: Parameter) -> tuple[float, float]:
    values: Sequence[Any] = parameter.choices or (parameter.low, parameter.high)
    return min(values), max(values)


def _check_parameter_limits(study: StudyConfig) -> None:
    numeric = study.numeric_parameters()
    for index, constraint in enumerate(study.constraints):
        path = _BANDWIDTH if constraint.name == "bandwidth_bytes_per_s" else constraint.name
        if path not in numeric:
            continue
        low, high = _range(study.parameters[path])
        best = low if constraint.op == "<=" else high
        if violation(constraint, best) > 0:
            raise InputError(
                f"constraints.{index}: {constraint}: parameter {path} reaches {best:g} at best, "
                f"{abs(best - constraint.limit):g} off; widen the parameter or relax the bound"
            )


def _exclude(
    study: StudyConfig,
    schedules: Mapping[str, Schedule],
    quality: MeasuredQuality | None,
    simulator: Simulator | None,
) -> tuple[list[Schedule], dict[str, str]]:
    """Leave out schedules that are known beforehand to break a limit, so that no simulation is spent on them."""
    excluded: dict[str, str] = {}
    limits = [constraint for constraint in study.constraints if constraint.name in QUALITY_METRICS]
    for label, schedule in schedules.items():
        if simulator is not None and (reason := simulator.unsupported(schedule)):
            excluded[label] = reason
            continue
        row = {} if quality is None else quality.metrics[label]
        if broken := [str(limit) for limit in limits if violation(limit, row[limit.name]) > 0]:
            excluded[label] = ", ".join(broken)
    kept = [schedule for label, schedule in schedules.items() if label not in excluded]
    if schedules and not kept:
        raise InputError(_why_none(schedules, excluded, limits, quality))
    return kept, excluded


def _why_none(
    schedules: Mapping[str, Schedule],
    excluded: Mapping[str, str],
    limits: Sequence[Constraint],
    quality: MeasuredQuality | None,
) -> str:
    tables = {} if quality is None else quality.metrics
    for limit in limits:
        rows = {label: tables[label][limit.name] for label in schedules}
        best = min(rows, key=lambda label: violation(limit, rows[label]))
        if violation(limit, rows[best]) > 0:
            return (
                f"constraint {limit}: no measured schedule keeps it; the best, {best}, has {rows[best]:.4g}, "
                f"{abs(rows[best] - limit.limit):.4g} off; relax the bound or measure more schedules"
            )
    label, reason = next(iter(excluded.items()))
    return f"schedules: none of {len(schedules)} can be used; {label}: {reason}"
