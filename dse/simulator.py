"""The shipped evaluator: simulates a design on every workload of the study with hwsim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dse.objective import WorkloadCost, combine
from dse.plans import Plan, RecordedPlan, trace_of
from dse.schedule_space import merged
from dse.study import StudyConfig, Workload
from hwsim.trace import (
    InputError,
    ModelShape,
    Schedule,
    Trace,
    canonical_sha256,
    file_sha256,
    read_trace,
    synthetic_trace,
)

if TYPE_CHECKING:
    from dse.space import Design, Space
    from hwsim import NpuConfig

_WIDTHS = "matrix.weight_widths"

MAX_LOADED_NPUS = 4096
"""Checked NPU configurations kept for designs that differ in the schedule only."""

TRIES = 64
"""Random values of the other parameters beside which a value is tried before it is refused."""


def model_names(study: StudyConfig) -> list[str]:
    """Name of each workload's model, which a quality file must match."""
    return [_model_name(load) for load in study.workloads]


def _model_name(load: Workload) -> str:
    if load.model is None:
        return read_trace((load.trace or ())[0]).header.model.name
    if Path(load.model).suffix == ".json":
        from hwsim import load_shape  # noqa: PLC0415 - names need no simulator

        return load_shape(load.model).name
    return load.model


class LoadedWorkload:
    """A workload's shape and the trace of each schedule.

    Attributes:
        load: The workload of the study.
        shape: Its model.
        recorded: Its traces, in the study's order.

    Raises:
        InputError: If the model or a trace is unusable, or they do not belong together.
    """

    def __init__(self, load: Workload) -> None:
        from hwsim import load_shape  # noqa: PLC0415 - importing dse does not load the simulator

        self.load = load
        recorded = [read_trace(path) for path in load.trace or ()]
        self.shape: ModelShape = recorded[0].header.model.shape if load.model is None else load_shape(load.model)
        for path, trace in zip(load.trace or (), recorded, strict=True):
            model = trace.header.model
            if model.shape.sha256() != self.shape.sha256() and not load.allow_model_mismatch:
                raise InputError(
                    f"{path}: header.model.name = '{model.name}': the workload runs '{self.shape.name}'; give a trace "
                    f"of that model, or set allow_model_mismatch: true on the workload"
                )
            if trace.decode_steps() == 0:
                raise InputError(f"{path}: no sequence has a decode step: tokens per second are undefined")
        self.recorded = recorded
        self._by_label = {
            merged(trace.header.schedule).label(): trace
            for trace in reversed(recorded)
            if trace.header.schedule is not None
        }
        self._traces: dict[str | None, Trace] = {}

    def fingerprint(self) -> list[str]:
        """Hashes of what the timing depends on."""
        return [self.shape.sha256(), *(file_sha256(path) for path in self.load.trace or ())]

    def trace(self, schedule: Plan | None) -> Trace:
        """What the model runs under a schedule; the recorded trace where there is none to choose."""
        label = None if schedule is None else schedule.label()
        if label not in self._traces:
            self._traces[label] = self._make_trace(schedule)
        return self._traces[label]

    def _make_trace(self, schedule: Plan | None) -> Trace:
        if schedule is None:
            return self.recorded[0]
        if isinstance(schedule, RecordedPlan):
            found = trace_of(schedule.scheduler, schedule.label(), self.recorded)
            assert found is not None, "a plan is a candidate only where every workload recorded it"
            return found
        if self.recorded:
            return self._by_label.get(schedule.label()) or rescheduled(self.recorded[0], schedule)
        return synthetic_trace(
            self.shape,
            schedule,
            prompt_tokens=self.load.prompt_tokens or 0,
            decode_tokens=self.load.decode_tokens or 0,
            kv_bits=self.load.kv_bits,
            lm_head_bits=self.load.lm_head_bits,
        )


def rescheduled(trace: Trace, schedule: Schedule) -> Trace:
    """The same sequences under another schedule: recorded lengths, the schedule's widths, no measured times.

    A model may answer at another length under another precision; what is kept here is the load it served.
    """
    sequences = tuple(
        sequence.model_copy(
            update={
                "prefill_weight_bits": schedule.prefill_weight_bits,
                "decode_weight_bits": tuple(schedule.runs(sequence.decode_steps)),
                "prefill_ns": None,
                "step_ns": None,
            }
        )
        for sequence in trace.sequences
    )
    header = trace.header.model_copy(update={"schedule": schedule, "scheduler": "static", "device": "none"})
    return Trace(header=header, sequences=sequences)


class Simulator:
    """Evaluates designs with hwsim; two designs that differ only in what was already loaded share it.

    Args:
        study: Whose workloads, NPU, mode and engine are used.

    Raises:
        InputError: If the NPU, a model or a trace is unusable.
    """

    def __init__(self, study: StudyConfig) -> None:
        from hwsim import SimulationOptions, load_npu  # noqa: PLC0415 - importing dse does not load the simulator

        self._study = study
        self._npu = load_npu(study.npu, {})
        self._npus: dict[str, NpuConfig] = {}
        self.workloads = [LoadedWorkload(load) for load in study.workloads]
        mismatch = any(load.allow_model_mismatch for load in study.workloads)
        self._options = SimulationOptions(mode=study.mode, engine=study.engine, allow_model_mismatch=mismatch)

    @property
    def aggregate(self) -> Literal["weighted", "worst"]:
        """How workloads combine."""
        return self._study.aggregate

    @property
    def mode(self) -> Literal["realistic", "pmpd-analytic"]:
        """Modelling mode."""
        return self._study.mode

    @property
    def gridded(self) -> bool:
        """Whether many designs can be evaluated at once: by the fast engine, or in the analytic mode, by neither."""
        return self._options.engine == "fast" or self._options.mode == "pmpd-analytic"

    @property
    def npu_source(self) -> str:
        """Name or path of the NPU that parameters change."""
        return self._study.npu

    def npu(self, design: Design) -> NpuConfig:
        """The NPU of a design; many designs of a study share one.

        Raises:
            InputError: If its values break a rule of hwsim.
        """
        from hwsim import load_npu  # noqa: PLC0415 - importing dse does not load the simulator

        key = canonical_sha256(dict(design.npu))
        if key not in self._npus:
            if len(self._npus) >= MAX_LOADED_NPUS:
                self._npus.clear()
            self._npus[key] = load_npu(self._study.npu, design.npu)
        return self._npus[key]

    @property
    def npu_sha256(self) -> str:
        """Hash of the NPU's fields before any parameter changes them."""
        return canonical_sha256(self._npu.model_dump(mode="json"))

    @property
    def workload_sha256(self) -> list[str]:
        """Hash of each workload's shape and traces."""
        return [canonical_sha256(load.fingerprint()) for load in self.workloads]

    def unsupported(self, schedule: Plan) -> str | None:
        """Why no NPU of the study reads this schedule's widths; None if one does."""
        missing = sorted(schedule.widths() - self._readable_widths())
        return f"{_WIDTHS} of {self._npu.name} lacks {missing[0]} bits" if missing else None

    def _readable_widths(self) -> set[object]:
        """Every width that some NPU of the study reads."""
        widths: set[object] = set(self._npu.matrix.weight_widths)
        group, chosen = self._study.parameters.get("matrix"), self._study.parameters.get(_WIDTHS)
        groups = [] if group is None else [one for one in group.choices or () if isinstance(one, dict)]
        lists = [one["weight_widths"] for one in groups if "weight_widths" in one]
        if chosen is not None:
            lists += chosen.choices or ()
            if not chosen.when:
                widths, lists = set(), [*(chosen.choices or ())]
        return widths.union(*(one for one in lists if isinstance(one, list)))

    def check(self, space: Space) -> None:
        """Load the NPU with each parameter at its ends, or at each choice, so that a mistake shows before the run.

        Raises:
            InputError: As hwsim puts it, with the parameter.
        """
        for path, parameter in space.parameters.items():
            parents = {name: allowed[0] for name, allowed in (parameter.when or {}).items() if name in space.parameters}
            axis = space.axis(path)
            for value in axis.all_values() if not axis.ordered else (axis.at(0.0), axis.at(1.0)):
                self._check_value(space, {**parents, path: value}, path)

    def _check_value(self, space: Space, overrides: dict[str, Any], path: str) -> None:
        """Refuse a value that works neither on the NPU as it is nor beside some values of the other parameters."""
        from hwsim import load_npu  # noqa: PLC0415

        try:
            load_npu(self._study.npu, overrides)
        except InputError as error:
            rng = np.random.default_rng(self._study.seed)
            for _ in range(TRIES if len(space.parameters) > len(overrides) else 0):
                design = space.random(rng)
                with suppress(InputError):
                    load_npu(self._study.npu, {**design.npu, **overrides})
                    return
            raise InputError(f"parameters.{path} = {overrides[path]}: {error}") from None

    def many(self, designs: Sequence[Design]) -> list[dict[str, float] | InputError]:
        """Metrics of many designs, quality aside: those of calling it one by one, or why one cannot run.

        With the fast engine, or in the analytic mode, designs whose steps do not depend on each other are evaluated
        at once.
        """
        found: list[dict[str, float] | InputError | None] = [None] * len(designs)
        if len(designs) > 1 and self.gridded:
            from dse.candidates import Candidates  # noqa: PLC0415 - importing dse does not load the simulator
            from dse.design_grid import DesignGrid  # noqa: PLC0415

            grid = DesignGrid(self, Candidates.of(None, designs))
            rows = np.flatnonzero(grid.gridded)
            metrics = grid.metrics(rows) if len(rows) else {}
            columns = {name: values.tolist() for name, values in metrics.items()}
            for place, row in enumerate(rows.tolist()):
                one = {name: values[place] for name, values in columns.items()}
                found[row] = one if math.isfinite(one["e2e_s"]) else None
        return [self._caught(design) if one is None else one for design, one in zip(designs, found, strict=True)]

    def _caught(self, design: Design) -> dict[str, float] | InputError:
        try:
            return self(design)
        except InputError as error:
            return error

    def __call__(self, design: Design) -> dict[str, float]:
        """Metrics of a design, quality aside.

        Raises:
            InputError: If this NPU cannot run it.
        """
        from hwsim import simulate  # noqa: PLC0415

        npu = self.npu(design)
        costs = []
        area_mm2 = 0.0
        for load in self.workloads:
            trace = load.trace(design.schedule)
            result = simulate(npu, load.shape, trace, self._options)
            sequences = len(trace.sequences)
            steps = trace.decode_steps()
            assert result.tpot_s is not None, "traces without a decode step were refused"
            costs.append(
                WorkloadCost(
                    weight=load.load.weight,
                    decode_steps=steps / sequences,
                    decode_s=steps / sequences * result.tpot_s,
                    ttft_s=result.ttft_s,
                    e2e_s=result.e2e_s,
                    energy_j=result.energy_j / sequences,
                    dram_bytes=result.dram_bytes / sequences,
                    mean_decode_bits=trace.mean_decode_bits(),
                )
            )
            area_mm2 = result.area_mm2
        return {
            **combine(costs, self._study.aggregate),
            "area_mm2": area_mm2,
            "bandwidth_bytes_per_s": npu.memory.bandwidth_bytes_per_s,
        }
