"""What an exploration found, as tables; built from the record alone, so it can be read back any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dse.log import CUT_SUFFIX, LOG_NAME, Record, read_log
from dse.objective import signs, violation
from dse.pareto import VOLUME_SAMPLES, hypervolume_history, is_volume_estimated, pareto_indices
from dse.study import StudyConfig, parse_study, read_study
from dse.uncertainty import add_uncertainty
from hwsim.trace import InputError, atomic_writer

TABLES = ("trials", "pareto", "hypervolume")
LAST_COLUMNS = ("violation", "feasible", "error")


@dataclass(frozen=True)
class Counts:
    """How the budget was spent.

    Attributes:
        evaluated: Designs simulated, each once.
        duplicates: Suggestions that repeated a design; they cost neither a simulation nor budget.
        infeasible: Evaluated designs that break a constraint.
        invalid: Designs that the NPU cannot run, or that could not be evaluated.
        excluded_schedules: Schedules left out beforehand, since their quality breaks a constraint or the
            NPU lacks a width.
        taken_over: Designs whose result came from a study shared with others; the trials' ``source`` says which.
        levels: Cheaper evaluations that chose designs, by level; never counted as evaluated.
    """

    evaluated: int
    duplicates: int
    infeasible: int
    invalid: int
    excluded_schedules: int
    taken_over: int = 0
    levels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Exploration:
    """The result of a study.

    Attributes:
        study: The study.
        trials: One row per design, in the order of evaluation; units are in the column names.
        pareto: The feasible designs that no other one beats, best of the first objective first, with the
            columns of :mod:`dse.uncertainty`.
        reference_point: Worst value of each objective that counts for the volume.
        counts: How the budget was spent.
        sampler: The sampler that was used.
        exhausted: Whether it is known of every design of the space what it gives, or that it cannot run.
        space_size: Number of designs in the space; None where a parameter is continuous.
        excluded_schedules: Schedules left out beforehand, with the reason.
        provenance: Of the run that began the record.
        certificate: What an enumeration has shown (see :class:`dse.exact.EnumeratedSearch`); None where the
            space was sampled.
        notes: What a reader should know: a repaired log, labels of mismatched models.
    """

    study: StudyConfig
    trials: pd.DataFrame
    pareto: pd.DataFrame
    reference_point: dict[str, float]
    counts: Counts
    sampler: str
    exhausted: bool
    space_size: int | None = None
    excluded_schedules: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def hypervolume(self) -> pd.DataFrame:
        """Volume dominated after each trial: ``number``, ``hypervolume``. A question need not wait for it."""
        names = [objective.name for objective in self.study.objectives]
        sign = signs(self.study.objectives)
        losses = self.trials[names].to_numpy(dtype=float) * sign
        reference = np.array([self.reference_point[name] for name in names]) * sign
        volumes = hypervolume_history(losses, self.trials["feasible"].to_numpy(dtype=bool), reference)
        return pd.DataFrame({"number": self.trials["number"], "hypervolume": volumes})

    @property
    def front_is_exact(self) -> bool:
        """Whether no design of the space can be missing from the front: all were simulated, or provably beaten."""
        return self.exhausted or bool(self.certificate and self.certificate["complete"])

    def write_tables(self, folder: Path) -> list[Path]:
        """Write ``trials.csv``, ``pareto.csv`` and ``hypervolume.csv`` atomically; returns their paths."""
        paths = []
        for name in TABLES:
            path = folder / f"{name}.csv"
            with atomic_writer(path) as file:
                getattr(self, name).to_csv(file, index=False, lineterminator="\n")
            paths.append(path)
        return paths


def results_folder(source: Path | str) -> Path:
    """Folder of an exploration given by itself, or by its study file: then ``results/NAME``, the default of a run.

    Raises:
        InputError: If the study file cannot be read.
    """
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} and not path.is_dir():
        return Path("results") / read_study(path).name
    return path


def load_exploration(source: Path | str) -> Exploration:
    """Read back the exploration recorded in a folder, finished, stopped or still running.

    Args:
        source: The folder, or the study file of a run that wrote into its default folder.

    Raises:
        InputError: If there is no sound log, or it was written by another version of the study file.
    """
    folder = results_folder(source)
    record = read_log(folder / LOG_NAME)
    if folder != Path(source):
        _check_same_file(read_study(source), _study_of(record), source, folder)
    return build_exploration(record)


def _study_of(record: Record) -> StudyConfig:
    """The study that began a record; one line if a later version knows its fields no more."""
    return parse_study(record.header["study"], "the study in the record")


def _check_same_file(now: StudyConfig, before: StudyConfig, source: Path | str, folder: Path) -> None:
    free = {"name", "budget", "confirmations"}  # what may change between runs of one study
    changed = sorted(
        name for name in StudyConfig.model_fields if name not in free and getattr(now, name) != getattr(before, name)
    )
    if changed:
        raise InputError(
            f"{source}: differs in {', '.join(changed)} from the study that {folder} was written by; run it again, or "
            f"name the folder to ask about the earlier one"
        )


def build_exploration(record: Record, study: StudyConfig | None = None) -> Exploration:
    """Make the tables out of a record; ``study`` is the one that began it unless it is given."""
    header = record.header
    study = study or _study_of(record)
    models = "+".join(dict.fromkeys(load["model"] for load in header["meaning"]["workloads"]))
    trials = _trials(record, study, models)
    names = [objective.name for objective in study.objectives]
    valid = trials["error"].isna().to_numpy(dtype=bool)
    feasible = trials["feasible"].to_numpy(dtype=bool)
    values = trials[names].to_numpy(dtype=float)
    sign = signs(study.objectives)
    front = pareto_indices(values * sign, feasible)
    on_front = np.zeros(len(trials), dtype=bool)
    on_front[front] = True
    trials["on_front"] = on_front
    reference = _reference_point(study, values[feasible] * sign)
    last = record.batches[-1] if record.batches else None
    notes = []
    quality_models = {labels["quality_model"] for labels in header["quality_labels"].values()}
    if quality_models - {models}:
        notes.append(f"timing is of {models}, quality of {', '.join(sorted(quality_models))}")
    if record.repaired_bytes:
        notes.append(
            f"the log ended in {record.repaired_bytes} damaged bytes, which a run cuts off and keeps in "
            f"{LOG_NAME}{CUT_SUFFIX}"
        )
    if is_volume_estimated(values * sign, feasible):
        notes.append(f"the front is large: its hypervolume is estimated by {VOLUME_SAMPLES} random points")
    taken = np.array([outcome.source is not None for _, outcome in sorted(record.outcomes.items())], dtype=bool)
    known = record.known()
    if unknown := len(trials) - known:
        notes.append(
            f"{unknown} designs could not be evaluated, though the NPU may run them; their errors say why, and "
            "bittaper explore run --retry tries them again"
        )
    if len(versions := record.versions()) > 1:
        notes.append(_say_versions(versions))
    counts = Counts(
        evaluated=int((valid & ~taken).sum()),
        duplicates=last.duplicates if last else 0,
        infeasible=int((valid & ~feasible).sum()),
        invalid=int((~valid).sum()),
        excluded_schedules=len(header["excluded_schedules"]),
        taken_over=int(taken.sum()),
        levels=(last.levels if last else None) or {},
    )
    return Exploration(
        study=study,
        trials=trials,
        pareto=add_uncertainty(trials.iloc[front].reset_index(drop=True), study),
        reference_point=dict(zip(names, reference.tolist(), strict=True)),
        counts=counts,
        sampler=header["sampler"],
        exhausted=header["space_size"] is not None and known >= header["space_size"],
        space_size=header["space_size"],
        excluded_schedules=header["excluded_schedules"],
        provenance=header.get("provenance", {}),
        certificate=record.certificate,
        notes=tuple(notes),
    )


def _say_versions(versions: Sequence[tuple[str, int, int]]) -> str:
    """How many trials are of which version, in their order.

    >>> _say_versions([("bittaper 1.0 (commit a)", 40, 0), ("bittaper 1.0 (commit b)", 1, 3)])
    'trials by version: 40 of bittaper 1.0 (commit a), then 1 of bittaper 1.0 (commit b) (3 simulated again: the same)'
    """
    return "trials by version: " + ", then ".join(
        f"{count:,} of {version}" + f" ({again} simulated again: the same)" * (again > 0)
        for version, count, again in versions
    )


def _trials(record: Record, study: StudyConfig, models: str) -> pd.DataFrame:
    """One row per evaluated design, column by column: a study may hold 10^5 of them."""
    designs = {batch.first + offset: design for batch in record.batches for offset, design in enumerate(batch.designs)}
    outcomes = [outcome for _, outcome in sorted(record.outcomes.items())]
    rows = [{"number": one.number, **designs[one.number], **one.metrics} for one in outcomes]
    table = pd.DataFrame(rows, columns=None if rows else ["number", "schedule"])
    table["mode"] = study.mode
    labels: Mapping[str, Mapping[str, Any]] = record.header["quality_labels"]
    for name in dict.fromkeys(name for row in labels.values() for name in row):
        known = table["schedule"].map({label: row[name] for label, row in labels.items() if name in row})
        # What was measured live says itself on how many prompts.
        table[name] = known if name not in table else known.where(known.notna(), table[name])
    table["model"] = models
    errors = pd.Series([one.error for one in outcomes], dtype=object)
    valid = errors.isna().to_numpy(dtype=bool)
    broken = np.zeros((len(study.constraints), len(table)))
    for row, limit in enumerate(study.constraints):
        values = table[limit.name].to_numpy(dtype=float) if limit.name in table else np.full(len(table), np.nan)
        broken[row] = violation(limit, values)
    worst = broken.max(axis=0, initial=0.0)
    table["violation"] = np.where(valid, worst, np.nan)
    table["feasible"] = valid & (worst <= 0)
    table["error"] = errors
    if any(one.source is not None for one in outcomes):
        table["source"] = pd.Series([one.source for one in outcomes], dtype=object)
    names = [objective.name for objective in study.objectives]
    order = dict.fromkeys(["number", *study.parameters, "schedule", *names])
    order |= dict.fromkeys(str(name) for name in table if name not in LAST_COLUMNS)
    return table.reindex(columns=[*order, *LAST_COLUMNS])


def _reference_point(study: StudyConfig, feasible_losses: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The study's reference point, or the worst feasible value of each objective; as values, not losses."""
    if study.reference_point is not None:
        return np.array([study.reference_point[objective.name] for objective in study.objectives])
    if len(feasible_losses) == 0:
        return np.zeros(len(study.objectives))
    return np.asarray(feasible_losses.max(axis=0) * signs(study.objectives))
