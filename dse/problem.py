"""A study made ready to explore: its space, its quality table and its evaluator, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.bounds import Roofline, is_optimistic
from dse.candidates import Candidates
from dse.limits import check_parameter_limits, check_quality_metrics, exclude
from dse.plans import Plan, recorded_names, recorded_plans
from dse.quality import MeasuredQuality, load_quality, wanted_plans
from dse.simulator import Simulator, model_names
from dse.space import Design, Space
from dse.study import StudyConfig
from hwsim.trace import InputError, Trace, read_trace

if TYPE_CHECKING:
    from dse.design_grid import DesignGrid

Evaluate = Callable[[Design], Mapping[str, float]]
"""Gives a design's metrics other than quality, by the names of :data:`dse.objective.METRICS`."""


@dataclass(frozen=True)
class Problem:
    """What a run needs.

    Attributes:
        study: The study.
        space: Designs that keep the limits which are known without simulating.
        quality: Quality by schedule; None where the study asks for none.
        excluded: Schedules left out, with the reason.
        evaluate: The simulator, or what stands in for it.
        bounds: Optimistic metrics of a design without simulating; None where none are known.
        meaning: What a log must have been written for: the study with its files' content, and nothing
            that may change between runs (name, budget).
        inactive: The NPU file's values of conditional parameters that an objective or a limit names, which count
            where the condition fails.
    """

    study: StudyConfig
    space: Space
    quality: MeasuredQuality | None
    excluded: dict[str, str]
    evaluate: Evaluate
    bounds: Evaluate | None
    meaning: dict[str, Any]
    inactive: dict[str, float] = field(default_factory=dict)

    @property
    def gridded(self) -> bool:
        """Whether many designs are evaluated at once, so that a space can be enumerated even without bounds."""
        live = self.quality is not None and self.quality.live
        return isinstance(self.evaluate, Simulator) and self.evaluate.gridded and not live

    def metrics(self, design: Design) -> dict[str, float]:
        """Simulate a design and add its quality, which a study's command may have to measure first.

        Raises:
            InputError: If the NPU cannot run the design, or the command fails.
        """
        return self.with_quality(design, self.evaluate(design))

    def optimistic_metrics(self, design: Design) -> dict[str, float]:
        """Metrics at least as good as :meth:`metrics` gives; only where there are bounds.

        Raises:
            InputError: If the NPU cannot run the design, as far as that is seen without simulating.
        """
        return self.with_quality(design, {} if self.bounds is None else self.bounds(design))

    def metrics_many(self, designs: Sequence[Design]) -> list[dict[str, float] | InputError]:
        """:meth:`metrics` of many designs, at once where the simulator can; an error where one cannot run."""
        if isinstance(self.evaluate, Simulator):
            found = self.evaluate.many(designs)
        else:
            found = [_caught(self.evaluate, design) for design in designs]
        return [
            metrics if isinstance(metrics, InputError) else _caught(partial(self.with_quality, metrics=metrics), design)
            for design, metrics in zip(designs, found, strict=True)
        ]

    def optimistic_many(self, candidates: Candidates, grid: DesignGrid | None = None) -> dict[str, NDArray[np.float64]]:
        """:meth:`optimistic_metrics` of many designs, ``[designs]`` each; NaN where a design cannot run.

        Args:
            candidates: The designs.
            grid: The same designs, if they are arranged already.
        """
        if isinstance(self.bounds, Roofline):
            found = self.bounds.many(candidates) if grid is None else self.bounds.of_grid(grid)
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
        for path, value in self.inactive.items():
            column = candidates.column(path)
            found[path] = np.where(np.isnan(column), value, column)
        return found

    def with_quality(self, design: Design, metrics: Mapping[str, float]) -> dict[str, float]:
        """What the evaluator says of a design, with its quality and what counts where a parameter does not act."""
        found = {name: float(value) for name, value in metrics.items()}
        if self.quality is not None and design.schedule is not None:
            found |= self.quality.row(design.schedule.label())
        return found | {path: value for path, value in self.inactive.items() if path not in design.npu}


def _caught(evaluate: Evaluate, design: Design) -> dict[str, float] | InputError:
    """What an evaluator says of a design, or why it cannot."""
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
    traces = _traces(study, simulator)
    quality = load_quality(study, names, traces, folder)
    check_quality_metrics(study, quality)
    fixed = _fixed_values(study)
    check_parameter_limits(study, fixed)
    kept, excluded = exclude(study, _candidates(study, quality, traces), quality, simulator)
    space = Space(study.parameters, kept)
    if simulator is not None:
        simulator.check(space)
    evaluator: Evaluate | None = evaluate or simulator
    assert evaluator is not None
    meaning = _meaning(study, names, quality, simulator)
    if simulator is not None and study.mode == "realistic":
        bounds = Roofline(simulator)
    # Nothing bounds a quality that is still to be measured.
    if (quality is not None and quality.live) or not all(is_optimistic(objective) for objective in study.objectives):
        bounds = None
    inactive = {
        path: value for path, value in fixed.items() if path in study.parameters and study.parameters[path].when
    }
    return Problem(study, space, quality, excluded, evaluator, bounds, meaning, inactive)


def _traces(study: StudyConfig, simulator: Simulator | None) -> list[list[Trace]]:
    """Recorded traces of each workload."""
    if simulator is not None:
        return [load.recorded for load in simulator.workloads]
    # An evaluator that stands in need not have the files, unless something is to be learnt from them.
    needed = study.schedule_space is not None or study.quality
    return [[read_trace(path) for path in (load.trace or ()) if needed] for load in study.workloads]


def _fixed_values(study: StudyConfig) -> dict[str, float]:
    """The NPU file's values of what objectives and limits name."""
    from hwsim import load_npu  # noqa: PLC0415 - importing dse does not load the simulator

    named = {item.name for item in study.named()}
    conditional = [path for path in named if path in study.parameters and study.parameters[path].when]
    # Where a parameter is all of the memory, each of its choices has a bandwidth of its own.
    bandwidth = "bandwidth_bytes_per_s" in named and "memory" not in study.parameters
    if not conditional and not bandwidth:
        return {}
    npu = load_npu(study.npu)
    found = {"memory.bandwidth_bytes_per_s": npu.memory.bandwidth_bytes_per_s} if bandwidth else {}
    for path in conditional:
        value: Any = npu
        for part in path.split("."):
            value = (
                next((item for key, item in value.items() if str(key) == part), None)
                if isinstance(value, Mapping)
                else getattr(value, part, None)
            )
        if not isinstance(value, int | float):
            raise InputError(
                f"parameters.{path}: is inactive under some conditions, and the NPU '{study.npu}' has no number for it "
                "then; drop its condition, or the objective or constraint on it"
            )
        found[path] = float(value)
    return found


def _candidates(
    study: StudyConfig, quality: MeasuredQuality | None, traces: Sequence[Sequence[Trace]]
) -> dict[str, Plan]:
    """What may run, by label; nothing where traces are replayed as they are."""
    if quality is not None:
        return quality.schedules
    names = [name for given in traces for name in recorded_names(given)]
    listed, told = wanted_plans(study, recorded_plans(names, traces))
    return {**listed, **told}


def _meaning(
    study: StudyConfig, names: Sequence[str], quality: MeasuredQuality | None, simulator: Simulator | None
) -> dict[str, Any]:
    """The study with files replaced by their content, so that a moved or commented file stays the same study."""
    meaning = study.model_dump(mode="json", exclude={"name", "budget", "confirmations", "quality", "workloads"})
    meaning["npu"] = study.npu if simulator is None else simulator.npu_sha256
    meaning["quality"] = None if quality is None else quality.sha256
    if study.live_quality is not None:
        del meaning["live_quality"]["timeout_s"]  # says how long to wait, and not what is measured
    loads = [load.model_dump(mode="json", exclude={"model", "trace"}) for load in study.workloads]
    hashes = [load.trace for load in study.workloads] if simulator is None else simulator.workload_sha256
    meaning["workloads"] = [
        {**load, "model": name, "sha256": sha256} for load, name, sha256 in zip(loads, names, hashes, strict=True)
    ]
    return meaning
