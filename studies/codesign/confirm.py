"""Which designs are chosen, and what they do on test prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwsim.trace import FULL_PRECISION_BITS, InputError, Quality, Schedule, Trace, read_trace
from studies.codesign.inputs import BANDWIDTH
from studies.common.output import without_nan

if TYPE_CHECKING:
    from accuracy.statistics import Interval
    from dse import Exploration, StudyConfig
    from hwsim import SimulationResult

QUALITY_FLOORS = (0.99, 0.97, 0.95, 0.90)
"""Relative quality that a chosen design must keep on the validation prompts."""
FULL_PRECISION = Schedule.uniform(FULL_PRECISION_BITS).label()


def choose(found: Exploration) -> list[dict[str, Any]]:
    """The fastest feasible design for each quality floor that adds one.

    Designs are compared at no more bandwidth than the geometric middle of the explored range, so that its end does
    not decide.
    """
    bandwidth = found.study.parameters[BANDWIDTH]
    given = bandwidth.choices or (bandwidth.low, bandwidth.high)
    values = [float(value) for value in given if isinstance(value, int | float)]
    limit = (min(values) * max(values)) ** 0.5
    trials = found.trials[found.trials["feasible"] & (found.trials[BANDWIDTH] <= limit)]
    designs: dict[int, dict[str, Any]] = {}
    for floor in QUALITY_FLOORS:
        kept = trials[trials["relative_quality"] >= floor]
        if not kept.empty:
            best = without_nan(kept.loc[kept["decode_tokens_per_s"].idxmax()].to_dict())
            designs.setdefault(int(best["number"]), {"floor": floor, **best})
    if not designs:
        raise InputError(
            f"no design of at most {limit:.3g} bytes per second keeps every limit; raise --budget, or give an "
            "exploration with other limits by --study (this folder keeps what was measured)"
        )
    return list(designs.values())


def uniform_rival(study: StudyConfig, workload: Trace, val: Sequence[Quality], design: dict[str, Any]) -> str | None:
    """Label of the fastest uniform width that keeps the design's floor on validation prompts, on the same NPU.

    None where the NPU reads no such width.
    """
    from dse.simulator import rescheduled
    from hwsim import SimulationOptions, load_npu, simulate

    measured = {record.schedule: record.value for record in val if record.schedule and record.metric == val[0].metric}
    uniform = {schedule: value for schedule, value in measured.items() if len(schedule.widths()) == 1}
    full = uniform[Schedule.uniform(FULL_PRECISION_BITS)]
    npu = load_npu(study.npu, {path: design[path] for path in study.parameters})
    options = SimulationOptions(mode=study.mode, engine=study.engine)

    def speed(schedule: Schedule) -> float:
        trace = rescheduled(workload, schedule)
        return simulate(npu, trace.header.model.shape, trace, options).decode_tokens_per_s or 0.0

    readable = set(npu.matrix.weight_widths)
    kept = [one for one, value in uniform.items() if value >= design["floor"] * full and set(one.widths()) <= readable]
    return max(kept, key=speed).label() if kept else None


class Confirmer:
    """Simulates chosen NPUs on the test prompts' own traces and measures what the schedules cost in quality."""

    def __init__(self, study: StudyConfig, test: Sequence[Quality], folder: Path, seed: int) -> None:
        """Prepare.

        Args:
            study: The exploration, whose NPU, mode and engine are used.
            test: Quality on test prompts.
            folder: The evaluation that it comes from.
            seed: Of the bootstrap.
        """
        self._study = study
        self._folder = folder
        self._seed = seed
        self._metric = test[0].metric

    def design(self, design: dict[str, Any]) -> dict[str, Any]:
        """A chosen design and its rival of uniform width, on the same NPU and the same test prompts."""
        npu = {path: design[path] for path in self._study.parameters}
        return {
            "trial": design["number"],
            "floor": design["floor"],
            "npu": npu,
            "schedule": design["schedule"],
            "explored": {name: design[name] for name in ("decode_tokens_per_s", "relative_quality", "area_mm2")},
            "test": self.measured(npu, design["schedule"]),
            "cycles": {engine: self._simulate(npu, design["schedule"], engine).cycles for engine in ("events", "fast")},
            "uniform_rival": design["rival"]
            and {"schedule": design["rival"], "test": self.measured(npu, design["rival"])},
        }

    def measured(self, npu: dict[str, Any], label: str) -> dict[str, Any]:
        """Speed of one schedule on an NPU over the test responses, and its quality relative to full precision."""
        result = self._simulate(npu, label, self._study.engine)
        change = self._relative_change(label)
        return {
            "decode_tokens_per_s": result.decode_tokens_per_s,
            "ttft_s": result.ttft_s,
            # As the exploration counts: a response of S decode steps has S + 1 tokens.
            "energy_j_per_token": result.energy_j / (result.decode_steps + result.sequences),
            "area_mm2": result.area_mm2,
            "mean_decode_bits": result.mean_decode_bits,
            "relative_quality": 1 + change.value,
            "relative_quality_low": 1 + change.low,
            "relative_quality_high": 1 + change.high,
            "n": change.n,
        }

    def _simulate(self, npu: dict[str, Any], label: str, engine: Literal["events", "fast"]) -> SimulationResult:
        from accuracy.evaluation import trace_file_name
        from hwsim import SimulationOptions, load_npu, simulate

        trace = read_trace(self._folder / trace_file_name(label))
        options = SimulationOptions(mode=self._study.mode, engine=engine)
        return simulate(load_npu(self._study.npu, npu), trace.header.model.shape, trace, options)

    def _relative_change(self, label: str) -> Interval:
        from accuracy.evaluation import read_statistics
        from accuracy.metrics import get_metric
        from accuracy.statistics import paired_difference

        statistics = read_statistics(self._folder)
        metric = get_metric(self._metric)
        ours, full = (statistics[name][metric.name] for name in (label, FULL_PRECISION))
        return paired_difference(ours, full, metric.aggregate, relative=True, seed=self._seed)
