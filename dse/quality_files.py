"""Reads the quality files of a study and finds the records that belong to each of its workloads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dse.plans import RecordedPlan, recorded_plans
from dse.schedule_space import merged
from dse.study import PUBLISHED_PREFIX, StudyConfig, Workload
from hwsim.trace import (
    FULL_PRECISION_BITS,
    InputError,
    Interpolation,
    Quality,
    Schedule,
    Trace,
    read_quality,
    read_quality_table,
    unknown_name,
)

_PUBLISHED = resources.files("dse") / "published"

PUBLISHED_NAMES = tuple(
    sorted(entry.name.removesuffix(".json") for entry in _PUBLISHED.iterdir() if entry.name.endswith(".json"))
)
"""Tables of published numbers that are shipped, for ``quality: published:NAME``."""

SHARED_FIELDS = ("model_name", "split", "direction", "reference", "task_version", "decoding")
"""What all records of one table must agree in."""

QUANTISED_FIELDS = ("quantizer", "store_sha256")
"""What all of them but full precision, which reads no store, must agree in besides."""


@dataclass(frozen=True)
class WorkloadTable:
    """The records of one workload: one task, metric, split and store.

    Attributes:
        records: By label of the schedule (equal neighbours merged) or of the recorded scheduler.
        schedules: The schedules among them.
        reference: Label that relative quality relates to; None where the files hold none.
        interpolation: How its files let numbers be found between their own; None where not all of them do.
        silent: The files that do not say how.
    """

    records: Mapping[str, Quality]
    schedules: Mapping[str, Schedule]
    reference: str | None
    interpolation: Interpolation | None
    silent: tuple[str, ...]


@dataclass(frozen=True)
class QualityFile:
    """A quality file of a study.

    Attributes:
        path: As the study names it.
        records: Those that can be explored.
        interpolation: How it lets numbers be found between its own.
    """

    path: str
    records: Sequence[Quality]
    interpolation: Interpolation | None


def quality_path(name: str) -> Path:
    """The file behind an entry of ``quality``.

    Raises:
        InputError: If no published table has the name.
    """
    if not name.startswith(PUBLISHED_PREFIX):
        return Path(name)
    table = name.removeprefix(PUBLISHED_PREFIX)
    if table not in PUBLISHED_NAMES:
        raise unknown_name("published table", table, PUBLISHED_NAMES)
    return Path(str(_PUBLISHED / f"{table}.json"))


def read_named_quality(name: str) -> tuple[Quality, ...]:
    """Read the records of an entry of a study's ``quality``: a file, or ``published:NAME``.

    Raises:
        InputError: If there is no such file or table, or it breaks the contract.
    """
    return read_quality(quality_path(name))


def read_records(
    study: StudyConfig, model_names: Sequence[str], traces: Sequence[Sequence[Trace]]
) -> tuple[list[QualityFile], dict[str, RecordedPlan]]:
    """Read all quality files of a study.

    Args:
        study: Whose files are read.
        model_names: Name of each workload's model.
        traces: Recorded traces of each workload.

    Returns:
        The files, and by label the plans of schedulers that plan by prompt.

    Raises:
        InputError: If a file is unreadable, of another model, of test prompts, or holds nothing to explore.
    """
    files: list[QualityFile] = []
    plans: dict[str, RecordedPlan] = {}
    for path in study.quality:
        table = read_quality_table(quality_path(path))
        _check_model(path, table.records, study, model_names)
        names = [(one.scheduler, one.scheduler_label) for one in table.records if one.schedule is None]
        found = recorded_plans(names, traces)
        plans |= found
        files.append(QualityFile(path, _explorable(path, table.records, found), table.interpolation))
    return files, plans


def _explorable(path: str, table: Sequence[Quality], plans: Mapping[str, RecordedPlan]) -> list[Quality]:
    """The records with a schedule for all prompts or a recorded plan; warns of the others.

    Raises:
        InputError: If there are only others.
    """
    kept = [record for record in table if record.schedule is not None or record.scheduler_label in plans]
    without = sorted({record.scheduler_label for record in table} - {record.scheduler_label for record in kept})
    if without and not kept:
        raise InputError(
            f"{path}: schedule = null in all {len(table)} records ({', '.join(without)}): what has no schedule can be "
            "explored only as a trace recorded it; give each workload that trace, or measure static schedules"
        )
    if any(record.source == "measured" for record in table if record.scheduler_label in without):
        # Of published tables it is known, and said in their description.
        warnings.warn(
            f"{path}: {len(table) - len(kept)} of {len(table)} records are left out: {', '.join(without)} plans by "
            "prompt, and no workload has the trace recorded under it",
            stacklevel=2,
        )
    return kept


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
        check_split(path, record)


def check_split(path: str, record: Quality) -> None:
    """Refuse a quality that exploring must not see.

    Raises:
        InputError: If it was measured on test prompts; published numbers are of them and labelled so.
    """
    if record.split == "test" and record.source == "measured":
        raise InputError(
            f"{path}: split = 'test' for schedule {record.scheduler_label}: exploring must not see test "
            f"prompts; measure on calib or val"
        )


def label_of(record: Quality) -> str:
    """Label under which a record's plan is explored."""
    return record.scheduler_label if record.schedule is None else merged(record.schedule).label()


def select(load: Workload, model: str, files: Sequence[QualityFile], study: StudyConfig) -> WorkloadTable:
    """The one table of (task, metric, split, store) that belongs to a workload.

    Args:
        load: The workload.
        model: Name of its model.
        files: Of the study.
        study: Which metric and which reference it wants.

    Raises:
        InputError: If there is none, or several and the study does not choose, if records contradict each other, or if
            the study interpolates what a file does not let it.
    """
    records = [record for file in files for record in file.records]
    mine = [record for record in records if record.model_name == model]
    if not mine and load.allow_model_mismatch:
        mine = list(records)
    if not mine:
        raise InputError(f"quality: no file measures '{model}'; a workload of the study runs it")
    wanted: list[tuple[str, str | None, Callable[[Quality], str], str]] = [
        ("task", load.task, lambda record: record.task, "task on the workload"),
        ("metric", study.quality_metric, lambda record: record.metric, "quality_metric"),
    ]
    for field, value, get, option in wanted:
        known = sorted({get(record) for record in mine})
        if value is not None and value not in known:
            raise unknown_name(f"{field} in the quality files of '{model}'", value, known)
        if value is None and len(known) > 1:
            raise InputError(f"quality: several {field}s of '{model}': {', '.join(known)}; choose one by {option}")
        mine = [record for record in mine if value is None or get(record) == value]
    check_agreement(mine, model)
    table: dict[str, Quality] = {}
    for record in mine:
        label = label_of(record)
        if label in table and table[label] != record:
            raise InputError(f"quality: schedule {label} of '{model}' was measured twice; keep one of the records")
        table[label] = record
    schedules = {label: merged(record.schedule) for label, record in table.items() if record.schedule is not None}
    used = {id(record) for record in mine}
    sources = [file for file in files if any(id(record) in used for record in file.records)]
    silent = tuple(file.path for file in sources if file.interpolation is None)
    method = None if study.interpolation is None else study.interpolation.method
    if method not in {None, "none"} and silent:
        raise InputError(
            f"{silent[0]}: does not say how to interpolate, and the study requires {method}; leave interpolation out, "
            f"or have the file written by bittaper evaluate --interpolation {method}"
        )
    interpolation = None if silent or method == "none" else sources[0].interpolation
    return WorkloadTable(table, schedules, _reference(study, schedules), interpolation, silent)


def is_full_precision(record: Quality) -> bool:
    """Whether a record is of the unquantised weights, which read no store."""
    return record.schedule is not None and record.schedule.widths() == {FULL_PRECISION_BITS}


def check_agreement(records: Sequence[Quality], model: str) -> None:
    """Refuse numbers that cannot stand in one table.

    Raises:
        InputError: If they differ in prompts, in how they were decoded, or in the store they read.
    """
    quantised = [record for record in records if not is_full_precision(record)]
    for fields, group in ((SHARED_FIELDS, records), (QUANTISED_FIELDS, quantised)):
        for field in fields:
            found = {str(getattr(record, field)) for record in group}
            if len(found) > 1:
                raise InputError(f"quality: {field} differs for '{model}': {', '.join(sorted(found))}; use one of them")


def _reference(study: StudyConfig, schedules: Mapping[str, Schedule]) -> str | None:
    """Label of what relative quality relates to."""
    if study.quality_reference == "full-precision":
        label = Schedule.uniform(FULL_PRECISION_BITS).label()
        return label if label in schedules else None
    uniform = {label: max(schedule.widths()) for label, schedule in schedules.items() if len(schedule.widths()) == 1}
    return max(uniform, key=lambda label: uniform[label]) if uniform else None
