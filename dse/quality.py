"""Quality of every schedule a study explores: measured, quoted, interpolated where its file says how, or on demand.

An exploration tries a schedule on NPUs that nobody measured, so it needs one that is the same for every prompt, or a
plan that a trace recorded. Where a number comes from goes with it into every row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dse.interpolation import Estimate, Interpolator, Point
from dse.live import LiveMeasurements
from dse.plans import Plan, RecordedPlan
from dse.quality_files import WorkloadTable, read_named_quality, read_records, select
from dse.quality_rows import Labels, Score, combine_scores, reference_scores, row_labels
from dse.schedule_space import STATIC
from dse.study import StudyConfig
from hwsim.trace import FULL_PRECISION_BITS, InputError, Schedule, Trace, canonical_sha256, read_trace, unknown_name

__all__ = ["FULL_PRECISION", "MeasuredQuality", "load_quality", "read_named_quality", "wanted_plans"]

FULL_PRECISION = Schedule.uniform(FULL_PRECISION_BITS).label()

NO_REFERENCE = (
    f"the quality files hold no full-precision schedule {FULL_PRECISION} with a value > 0 to relate to; measure it, "
    "set quality_reference: high-precision to relate to the widest uniform schedule, or use 'quality'"
)


@dataclass(frozen=True)
class MeasuredQuality:
    """What is known of every schedule explored, and how to learn the rest.

    Attributes:
        schedules: What is explored, by label.
        metrics: For each label ``quality``, ``relative_quality`` and their intervals, as far as they exist; empty where
            the study's command measures them once they are needed.
        labels: For each label where its numbers come from (metric, model, split, source, n, interpolated).
        missing: Schedules of the study's space without quality, with the reason.
        sha256: Hash of all records used.
    """

    schedules: dict[str, Plan]
    metrics: dict[str, dict[str, float]]
    labels: dict[str, Labels]
    missing: dict[str, str]
    sha256: str
    _live: _LiveRows | None = field(default=None, repr=False)

    @property
    def live(self) -> bool:
        """Whether some schedules are measured only when they are needed."""
        return self._live is not None

    def row(self, label: str) -> dict[str, float]:
        """Metrics of one schedule; the study's command measures it where nobody did.

        Raises:
            InputError: If the command fails or leaves something else.
        """
        known = self.metrics[label]
        return known if known or self._live is None else self._live.row(self.schedules[label])

    def require(self, name: str) -> None:
        """Check that every schedule has metric ``name``, as far as it is known.

        Raises:
            InputError: With what is missing.
        """
        for label, row in self.metrics.items():
            if name in row or not row:
                continue
            if "relative_quality" not in row and name.startswith("relative"):
                raise InputError(f"{name}: {NO_REFERENCE}")
            if name.endswith("ci_low"):
                raise InputError(f"{name}: the quality of schedule {label} has no interval (quoted?)")
            raise InputError(f"{name}: the workloads' qualities are of different metrics and cannot be combined")


class _LiveRows:
    """Rows of schedules that the study's command measures."""

    def __init__(
        self,
        study: StudyConfig,
        model_names: Sequence[str],
        tables: Sequence[WorkloadTable | None],
        folder: Path,
    ) -> None:
        assert study.live_quality is not None
        self._study = study
        self._tables = tables
        self._commands = [
            LiveMeasurements(
                study.live_quality,
                load,
                model,
                study.quality_metric or (None if table is None else next(iter(table.records.values())).metric),
                folder,
                index,
                () if table is None else list(table.records.values()),
            )
            for index, (load, model, table) in enumerate(zip(study.workloads, model_names, tables, strict=True))
        ]
        named = {item.name for item in study.named()}
        self._relative = any(name.startswith("relative") for name in named)
        self._rows: dict[str, dict[str, float]] = {}

    def row(self, plan: Plan) -> dict[str, float]:
        label = plan.label()
        if label not in self._rows:
            assert isinstance(plan, Schedule), "a recorded plan is explored only where its quality is known"
            scores = [self._score(index, plan) for index in range(len(self._tables))]
            references = [self._reference(index) for index in range(len(self._tables))]
            weights = [load.weight for load in self._study.workloads]
            row = combine_scores(scores, references, weights, self._study.aggregate)
            counts = [score.n for score in scores if score.n is not None]
            self._rows[label] = row | ({"quality_n": float(min(counts))} if counts else {})
        return self._rows[label]

    def _score(self, index: int, schedule: Schedule) -> Score:
        table = self._tables[index]
        if table is not None and schedule.label() in table.records:
            return Score.of(table.records[schedule.label()])
        return Score.of(self._commands[index].record(schedule), live=True)

    def _reference(self, index: int) -> Score | None:
        """What relative quality relates to; measured too where no file has it."""
        table = self._tables[index]
        if table is not None and table.reference is not None:
            return Score.of(table.records[table.reference])
        if not self._relative or self._study.quality_reference != "full-precision":
            return None
        return self._score(index, Schedule.uniform(FULL_PRECISION_BITS))


def wanted_plans(study: StudyConfig, plans: Mapping[str, RecordedPlan]) -> tuple[dict[str, Plan], dict[str, Plan]]:
    """What a study asks to explore, by label.

    Args:
        study: The study.
        plans: Recorded plans to choose from.

    Returns:
        What it lists, which must be usable, and what its schedule space tells, of which what is not is left out.

    Raises:
        InputError: If a scheduler is asked for that nobody recorded.
    """
    listed: dict[str, Plan] = {schedule.label(): schedule for schedule in study.schedules or ()}
    told: dict[str, Plan] = {}
    if study.schedule_space is not None:
        told |= {schedule.label(): schedule for schedule in study.schedule_space.schedules()}
        for name in study.schedule_space.schedulers:
            found = {label: plan for label, plan in plans.items() if plan.scheduler == name}
            if name != STATIC and not found:
                known = sorted({plan.scheduler for plan in plans.values()})
                error = unknown_name("scheduler in schedule_space.schedulers", name, [STATIC, *known])
                raise InputError(
                    f"{error}; it needs a trace recorded under it for every workload, and its quality record"
                )
            listed |= found
    return listed, told


def load_quality(
    study: StudyConfig,
    model_names: Sequence[str],
    traces: Sequence[Sequence[Trace]] | None = None,
    folder: Path | str | None = None,
) -> MeasuredQuality | None:
    """Find the quality of everything a study explores.

    Args:
        study: Whose files are read.
        model_names: Name of each workload's model.
        traces: Recorded traces of each workload; read unless given.
        folder: Of the exploration, where a live quality command leaves what it measures.

    Returns:
        None if the study names neither quality files nor a command.

    Raises:
        InputError: If a file is unreadable, of another model, of test prompts, ambiguous, or if no
            schedule has a quality for all workloads.
    """
    if not study.quality and study.live_quality is None:
        return None
    if traces is None:
        traces = [[read_trace(path) for path in load.trace or ()] for load in study.workloads]
    tables: list[WorkloadTable | None] = [None] * len(study.workloads)
    plans: dict[str, RecordedPlan] = {}
    if study.quality:
        files, plans = read_records(study, model_names, traces)
        tables = [select(load, name, files, study) for load, name in zip(study.workloads, model_names, strict=True)]
    return _Assembly(study, model_names, tables, plans, traces, folder).quality()


class _Assembly:
    """Puts the rows of a study together."""

    def __init__(
        self,
        study: StudyConfig,
        model_names: Sequence[str],
        tables: Sequence[WorkloadTable | None],
        plans: Mapping[str, RecordedPlan],
        traces: Sequence[Sequence[Trace]],
        folder: Path | str | None,
    ) -> None:
        self._study = study
        self._model_names = model_names
        self._tables = tables
        self._known = [table for table in tables if table is not None]
        self._plans = plans
        self._traces = traces
        self._folder = folder
        self._references = reference_scores(self._known)
        self._interpolated = any(table.interpolation is not None for table in self._known)

    def quality(self) -> MeasuredQuality:
        """Rows of everything that is explored."""
        common = self._common()
        listed, told = wanted_plans(self._study, self._plans)
        wanted = {**listed, **told} or common
        scores, reasons = self._scores(wanted, common)
        live = self._live()
        for label in listed:
            if label not in scores and live is None:
                raise InputError(
                    f"schedules: no quality file measured {label}{reasons[label]}; measure it or leave it out"
                )
        explored = {label: plan for label, plan in wanted.items() if label in scores or live is not None}
        if not explored:
            raise InputError(self._why_nothing(wanted, reasons))
        pending: Labels = {"quality_source": "live", "quality_model": "+".join(dict.fromkeys(self._model_names))}
        return MeasuredQuality(
            schedules=explored,
            metrics={label: self._metrics(scores[label]) if label in scores else {} for label in explored},
            labels={
                label: row_labels(scores[label], self._references) if label in scores else pending for label in explored
            },
            missing={label: f"no quality{reasons[label]}" for label in wanted if label not in explored},
            sha256=canonical_sha256(self._used(common)),
            _live=live if any(label not in scores for label in explored) else None,
        )

    def _common(self) -> dict[str, Plan]:
        """What every workload's table holds."""
        if not self._known:
            return {}
        first, *others = self._known
        plans: dict[str, Plan] = {**first.schedules, **self._plans}
        return {
            label: plans[label]
            for label in first.records
            if label in plans and all(label in table.records for table in others)
        }

    def _scores(
        self, wanted: Mapping[str, Plan], common: Mapping[str, Plan]
    ) -> tuple[dict[str, list[Score]], dict[str, str]]:
        """The workloads' scores of what is wanted, and why there are none of the rest."""
        scores = {
            label: [Score.of(table.records[label]) for table in self._known] for label in wanted if label in common
        }
        reasons = dict.fromkeys((label for label in wanted if label not in common), self._why_not_between())
        if not (self._interpolated and reasons):
            return scores, reasons
        left = [plan for label, plan in wanted.items() if label in reasons and isinstance(plan, Schedule)]
        estimates = [
            {} if table.interpolation is None else self._interpolator(index).estimate(left)
            for index, table in enumerate(self._known)
        ]
        for schedule in left:
            label = schedule.label()
            row: list[Score] = []
            for table, found in zip(self._known, estimates, strict=True):
                estimate = found.get(label)
                if label in table.records:
                    row.append(Score.of(table.records[label]))
                elif isinstance(estimate, Estimate):
                    row.append(Score.between(table, estimate))
                elif estimate is not None:
                    reasons[label] = f", and it cannot be interpolated: {estimate}"
            if len(row) == len(self._known):
                scores[label] = row
                del reasons[label]
        return scores, reasons

    def _why_not_between(self) -> str:
        """Which file keeps numbers from being interpolated, as the end of a reason; empty where none does."""
        silent = [path for table in self._known for path in table.silent]
        told = self._study.interpolation is None and silent
        return f", and {Path(silent[0]).name} does not say how to interpolate" if told else ""

    def _interpolator(self, index: int) -> Interpolator:
        table, load, traces = self._known[index], self._study.workloads[index], self._traces[index]
        points = [
            Point(schedule, record.value, record.ci_low, record.ci_high)
            for label, schedule in table.schedules.items()
            for record in [table.records[label]]
        ]
        steps = [sequence.decode_steps for sequence in traces[0].sequences] if traces else [load.decode_tokens or 0]
        return Interpolator(points, steps)

    def _metrics(self, row: Sequence[Score]) -> dict[str, float]:
        weights = [load.weight for load in self._study.workloads]
        return combine_scores(row, self._references, weights, self._study.aggregate)

    def _live(self) -> _LiveRows | None:
        if self._study.live_quality is None:
            return None
        relative = any(item.name.startswith("relative") for item in self._study.named())
        known = [table is not None and table.reference is not None for table in self._tables]
        if relative and self._study.quality_reference == "high-precision" and not all(known):
            raise InputError(
                "quality_reference = 'high-precision': the quality files hold no uniform schedule to relate to; "
                "measure one, or use full-precision, which live_quality's command measures too"
            )
        if self._folder is None:
            raise InputError("live_quality: needs the exploration's folder to keep what it measures in")
        return _LiveRows(self._study, self._model_names, self._tables, Path(self._folder))

    def _used(self, common: Mapping[str, Plan]) -> list[dict[str, Any]]:
        """Every record that a row may come from."""
        labels = [*common]
        methods: list[dict[str, Any]] = []
        if self._interpolated:
            labels = list(dict.fromkeys(label for table in self._known for label in table.records))
            said = [table.interpolation for table in self._known]
            methods = [{"interpolation": None if one is None else one.method} for one in said]
        return methods + [
            table.records[label].model_dump(mode="json", exclude={"per_prompt_path"})
            for label in labels
            for table in self._known
            if label in table.records
        ]

    def _why_nothing(self, wanted: Mapping[str, Plan], reasons: Mapping[str, str]) -> str:
        if not wanted:
            return "quality: no schedule was measured for every workload; measure a common grid"
        label, reason = next(iter(reasons.items()))
        measured = ", ".join(list(self._common())[:5])
        return (
            f"schedule_space: none of its {len(wanted)} schedules has a quality{reason and f' ({label}{reason})'}; the "
            f"files measured {measured or 'none for every workload'}; measure more, or give live_quality"
        )
