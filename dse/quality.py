"""Measured quality of each schedule, read from quality files; nothing is interpolated (design decision 7).

An exploration tries a schedule on NPUs that nobody measured, so it needs one that is the same for every prompt.
Records of schedulers that plan by prompt (learned, patterns) have none and are left out, with a warning that counts
them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from dse.schedule_space import merged
from dse.study import StudyConfig, Workload
from hwsim.trace import (
    FULL_PRECISION_BITS,
    InputError,
    Quality,
    Schedule,
    canonical_sha256,
    read_quality,
    unknown_name,
)

FULL_PRECISION = Schedule.uniform(FULL_PRECISION_BITS).label()


@dataclass(frozen=True)
class MeasuredQuality:
    """What the quality files say of every schedule that all workloads measured.

    Attributes:
        schedules: Schedules by label, in the files' order.
        metrics: For each label ``quality``, ``relative_quality`` and their intervals, as far as they exist.
        labels: For each label where its numbers come from (metric, model, split, source, n).
        sha256: Hash of all records used.
    """

    schedules: dict[str, Schedule]
    metrics: dict[str, dict[str, float]]
    labels: dict[str, dict[str, str | int]]
    sha256: str

    def require(self, name: str) -> None:
        """Check that every schedule has metric ``name``.

        Raises:
            InputError: With what is missing.
        """
        for label, row in self.metrics.items():
            if name in row:
                continue
            if name.endswith("ci_low"):
                raise InputError(f"{name}: the quality of schedule {label} has no interval (quoted?)")
            if name.startswith("relative"):
                raise InputError(
                    f"{name}: the quality files hold no full-precision schedule {FULL_PRECISION} with a value "
                    f"> 0 to relate to; measure it, or use 'quality'"
                )
            raise InputError(f"{name}: the workloads' qualities are of different metrics and cannot be combined")


def load_quality(study: StudyConfig, model_names: Sequence[str]) -> MeasuredQuality | None:
    """Read the study's quality files and match them with its workloads.

    Args:
        study: Whose files are read.
        model_names: Name of each workload's model.

    Returns:
        None if the study names no quality file.

    Raises:
        InputError: If a file is unreadable, of another model, of test prompts, ambiguous, or if no
            schedule is measured for all workloads.
    """
    if not study.quality:
        return None
    records: list[Quality] = []
    for path in study.quality:
        table = _scheduled(path, read_quality(path))
        _check_model(path, table, study, model_names)
        records += table
    tables = [
        _select(load, name, records, study.quality_metric)
        for load, name in zip(study.workloads, model_names, strict=True)
    ]
    common = [label for label in tables[0] if all(label in table for table in tables)]
    if not common:
        raise InputError("quality: no schedule was measured for every workload; measure a common grid")
    rows = {label: [table[label] for table in tables] for label in common}
    full = [table.get(FULL_PRECISION) for table in tables]
    weights = [load.weight for load in study.workloads]
    used = [record.model_dump(mode="json", exclude={"per_prompt_path"}) for row in rows.values() for record in row]
    return MeasuredQuality(
        schedules={label: merged(_schedule(row[0])) for label, row in rows.items()},
        metrics={label: _metrics(row, full, weights, study.aggregate) for label, row in rows.items()},
        labels={label: _labels(row) for label, row in rows.items()},
        sha256=canonical_sha256(used),
    )


def _scheduled(path: str, table: Sequence[Quality]) -> list[Quality]:
    """The records with a schedule for all prompts; warns of the others.

    Raises:
        InputError: If there are only others.
    """
    kept = [record for record in table if record.schedule is not None]
    without = sorted({record.scheduler_label for record in table if record.schedule is None})
    if without and not kept:
        raise InputError(
            f"{path}: schedule = null in all {len(table)} records ({', '.join(without)}): an exploration needs "
            "schedules that are the same for every prompt; measure static ones"
        )
    if without:
        warnings.warn(
            f"{path}: {len(table) - len(kept)} of {len(table)} records are left out: {', '.join(without)} plans by "
            "prompt and has no schedule to explore",
            stacklevel=2,
        )
    return kept


def _schedule(record: Quality) -> Schedule:
    assert record.schedule is not None, "records without a schedule were left out when they were read"
    return record.schedule


def _check_model(path: str, table: Sequence[Quality], study: StudyConfig, model_names: Sequence[str]) -> None:
    measured = sorted({record.model_name for record in table})
    if not measured:
        raise InputError(f"{path}: records is empty: measure at least one schedule")
    wanted = set(model_names)
    if wanted.isdisjoint(measured) and not any(load.allow_model_mismatch for load in study.workloads):
        raise InputError(
            f"{path}: model_name = '{', '.join(measured)}': the study runs '{', '.join(sorted(wanted))}'; give a "
            f"quality file of that model, or set allow_model_mismatch: true on the workload (rows are labelled)"
        )
    for record in table:
        if record.split == "test" and record.source == "measured":
            raise InputError(
                f"{path}: split = 'test' for schedule {record.scheduler_label}: exploring must not see test "
                f"prompts; measure on calib or val"
            )


def _select(load: Workload, model: str, records: Sequence[Quality], metric: str | None) -> dict[str, Quality]:
    """The one table of (task, metric, split, store) that belongs to a workload, by schedule label."""
    mine = [record for record in records if record.model_name == model]
    if not mine and load.allow_model_mismatch:
        mine = list(records)
    if not mine:
        raise InputError(f"quality: no file measures '{model}'; a workload of the study runs it")
    for field, value in (("task", load.task), ("metric", metric)):
        known = sorted({str(getattr(record, field)) for record in mine})
        if value is not None and value not in known:
            raise unknown_name(f"{field} in the quality files of '{model}'", value, known)
        if value is None and len(known) > 1:
            option = "task on the workload" if field == "task" else "quality_metric"
            raise InputError(f"quality: several {field}s of '{model}': {', '.join(known)}; choose one by {option}")
        mine = [record for record in mine if value is None or getattr(record, field) == value]
    # Full precision reads no store, so only the rest must share one.
    quantised = [record for record in mine if _schedule(record).widths() != {FULL_PRECISION_BITS}]
    shared = ("model_name", "split", "direction", "reference", "task_version", "decoding")
    for field, group in (*((field, mine) for field in shared), ("quantizer", quantised), ("store_sha256", quantised)):
        found = {str(getattr(record, field)) for record in group}
        if len(found) > 1:
            raise InputError(f"quality: {field} differs for '{model}': {', '.join(sorted(found))}; use one of them")
    table: dict[str, Quality] = {}
    for record in mine:
        label = merged(_schedule(record)).label()
        if label in table and table[label] != record:
            raise InputError(f"quality: schedule {label} of '{model}' was measured twice; keep one of the records")
        table[label] = record
    return table


def _relative(record: Quality, value: float, full: Quality) -> float:
    """Ratio to full precision, turned so that lower is worse whatever the metric's direction."""
    return value / full.value if record.direction == "maximize" else full.value / value


def _metrics(
    row: Sequence[Quality], full: Sequence[Quality | None], weights: Sequence[float], aggregate: str
) -> dict[str, float]:
    """Combine the workloads' qualities of one schedule.

    Interval ends are combined like the values, which is wider than the true interval of a mean of
    independent measurements. The reference's own uncertainty is left out of the relative ones.
    """
    found: dict[str, float] = {}
    total = math.fsum(weights)
    ascending = row[0].direction == "maximize"

    def combine(name: str, values: Sequence[float | None], lower_is_worse: bool) -> None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return
        if aggregate == "worst":
            found[name] = min(known) if lower_is_worse else max(known)
        else:
            found[name] = math.fsum(w * value for w, value in zip(weights, known, strict=True)) / total

    if len({(record.metric, record.direction) for record in row}) == 1:
        combine("quality", [record.value for record in row], ascending)
        combine("quality_ci_low", [record.ci_low for record in row], ascending)
        combine("quality_ci_high", [record.ci_high for record in row], ascending)
    pairs = [(record, reference) for record, reference in zip(row, full, strict=True) if reference is not None]
    if len(pairs) == len(row) and all(record.value > 0 and ref.value > 0 for record, ref in pairs):
        combine("relative_quality", [_relative(record, record.value, ref) for record, ref in pairs], True)
        for name, end in (("relative_quality_ci_low", 0), ("relative_quality_ci_high", 1)):
            ends = [_relative_interval(record, ref) for record, ref in pairs]
            combine(name, [None if pair is None else pair[end] for pair in ends], True)
    return found


def _relative_interval(record: Quality, full: Quality) -> tuple[float, float] | None:
    if record.ci_low is None or record.ci_high is None or min(record.ci_low, record.ci_high) <= 0:
        return None
    ends = sorted(_relative(record, value, full) for value in (record.ci_low, record.ci_high))
    return ends[0], ends[1]


def _labels(row: Sequence[Quality]) -> dict[str, str | int]:
    def join(field: str) -> str:
        return "+".join(dict.fromkeys(str(getattr(record, field)) for record in row))

    return {
        "quality_metric": join("metric"),
        "quality_model": join("model_name"),
        "quality_task": join("task"),
        "quality_split": join("split"),
        "quality_source": join("source"),
        "quality_n": min(record.n for record in row),
    }
