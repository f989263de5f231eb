"""What an exploration found, as tables; built from the record alone, so it can be read back any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dse.log import LOG_NAME, Record, read_log
from dse.objective import signs, violations
from dse.pareto import hypervolume_history, pareto_indices
from dse.study import StudyConfig
from hwsim.trace import atomic_writer

TABLES = ("trials", "pareto", "hypervolume")


@dataclass(frozen=True)
class Counts:
    """How the budget was spent.

    Attributes:
        evaluated: Designs simulated, each once.
        duplicates: Suggestions that repeated a design; they cost neither a simulation nor budget.
        infeasible: Evaluated designs that break a constraint.
        invalid: Designs that the NPU cannot run.
        excluded_schedules: Schedules left out beforehand, since their quality breaks a constraint or the
            NPU lacks a width.
    """

    evaluated: int
    duplicates: int
    infeasible: int
    invalid: int
    excluded_schedules: int


@dataclass(frozen=True)
class Exploration:
    """The result of a study.

    Attributes:
        study: The study.
        trials: One row per design, in the order of evaluation; units are in the column names.
        pareto: The feasible designs that no other one beats, best of the first objective first.
        hypervolume: Volume dominated after each trial.
        reference_point: Worst value of each objective that counts for the volume.
        counts: How the budget was spent.
        sampler: The sampler that was used.
        exhausted: Whether every design of the space was evaluated.
        certificate: What an enumeration has shown (see :class:`dse.exact.EnumeratedSearch`); None where the
            space was sampled.
        notes: What a reader should know: a repaired log, labels of mismatched models.
    """

    study: StudyConfig
    trials: pd.DataFrame
    pareto: pd.DataFrame
    hypervolume: pd.DataFrame
    reference_point: dict[str, float]
    counts: Counts
    sampler: str
    exhausted: bool
    certificate: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def write_tables(self, folder: Path) -> list[Path]:
        """Write ``trials.csv``, ``pareto.csv`` and ``hypervolume.csv`` atomically; returns their paths."""
        paths = []
        for name in TABLES:
            path = folder / f"{name}.csv"
            with atomic_writer(path) as file:
                getattr(self, name).to_csv(file, index=False, lineterminator="\n")
            paths.append(path)
        return paths


def load_exploration(folder: Path | str) -> Exploration:
    """Read back the exploration recorded in ``folder``, finished or not.

    Raises:
        InputError: If there is no sound log.
    """
    return build_exploration(read_log(Path(folder) / LOG_NAME))


def _row(
    study: StudyConfig, design: Mapping[str, Any], outcome: Any, labels: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    schedule = design["schedule"]
    row = {"number": outcome.number, **design, **outcome.metrics, "mode": study.mode, **labels.get(schedule, {})}
    if outcome.error is None:
        broken = violations(study.constraints, row)
        row["violation"] = max([0.0, *broken.values()])
        row["feasible"] = all(value <= 0 for value in broken.values())
    else:
        row |= {"violation": np.nan, "feasible": False}
    return row | {"error": outcome.error}


def build_exploration(record: Record, study: StudyConfig | None = None) -> Exploration:
    """Make the tables out of a record; ``study`` is the one that began it unless it is given."""
    header = record.header
    study = study or StudyConfig.model_validate(header["study"])
    designs = {batch.first + offset: design for batch in record.batches for offset, design in enumerate(batch.designs)}
    rows = [
        _row(study, designs[number], outcome, header["quality_labels"])
        for number, outcome in sorted(record.outcomes.items())
    ]
    models = "+".join(dict.fromkeys(load["model"] for load in header["meaning"]["workloads"]))
    rows = [{**row, "model": models} for row in rows]
    names = [objective.name for objective in study.objectives]
    columns = ["number", *study.parameters, "schedule", *names, "violation", "feasible", "error"]
    found = list(dict.fromkeys(key for row in rows for key in row))
    order = list(dict.fromkeys([*columns[:-3], *(key for key in found if key not in columns), *columns[-3:]]))
    trials = pd.DataFrame(rows, columns=order)

    valid = trials["error"].isna().to_numpy(dtype=bool)
    feasible = trials["feasible"].to_numpy(dtype=bool)
    values = trials[names].to_numpy(dtype=float)
    sign = signs(study.objectives)
    front = pareto_indices(values * sign, feasible)
    on_front = np.zeros(len(trials), dtype=bool)
    on_front[front] = True
    trials["on_front"] = on_front
    reference = _reference_point(study, values[feasible] * sign)
    volumes = hypervolume_history(values * sign, feasible, reference * sign)
    last = record.batches[-1] if record.batches else None
    notes = []
    quality_models = {labels["quality_model"] for labels in header["quality_labels"].values()}
    if quality_models - {models}:
        notes.append(f"timing is of {models}, quality of {', '.join(sorted(quality_models))}")
    if record.repaired_bytes:
        notes.append(f"the log ended in half a line of {record.repaired_bytes} bytes, which was cut off")
    counts = Counts(
        evaluated=int(valid.sum()),
        duplicates=last.duplicates if last else 0,
        infeasible=int((valid & ~feasible).sum()),
        invalid=int((~valid).sum()),
        excluded_schedules=len(header["excluded_schedules"]),
    )
    return Exploration(
        study=study,
        trials=trials,
        pareto=trials.iloc[front].reset_index(drop=True),
        hypervolume=pd.DataFrame({"number": trials["number"], "hypervolume": volumes}),
        reference_point=dict(zip(names, reference.tolist(), strict=True)),
        counts=counts,
        sampler=header["sampler"],
        exhausted=header["space_size"] is not None and len(trials) >= header["space_size"],
        certificate=record.certificate,
        notes=tuple(notes),
    )


def _reference_point(study: StudyConfig, feasible_losses: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The study's reference point, or the worst feasible value of each objective; as values, not losses."""
    if study.reference_point is not None:
        return np.array([study.reference_point[objective.name] for objective in study.objectives])
    if len(feasible_losses) == 0:
        return np.zeros(len(study.objectives))
    return np.asarray(feasible_losses.max(axis=0) * signs(study.objectives))
