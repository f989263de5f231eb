"""Gives a record to other tools: an Optuna journal, CSV, Parquet.

In an Optuna study made from a record, parameters have the values of the study file (not a sampler's indices), so that
optuna-dashboard shows GB/s and widths: NPU fields by their path, and a schedule by its parts
(``schedule.prefill_weight_bits``, ``schedule.switch_1_step``, ...). Each trial has its objectives' values in
their own directions, its constraints as Optuna wants them (<= 0 keeps them), and as attributes every metric,
the schedule's label and the design as the log holds it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from dse.exploration import load_exploration
from dse.log import LOG_NAME, Outcome, Record, read_log
from dse.objective import violations
from dse.space import Space
from dse.study import Parameter, StudyConfig
from hwsim.trace import InputError, Schedule, atomic_writer, canonical_sha256

if TYPE_CHECKING:
    import pandas as pd

DESIGN_ATTRIBUTE, METRICS_ATTRIBUTE, ERROR_ATTRIBUTE = "design", "metrics", "error"
"""Of a trial: the canonical design, its metrics by name, and why it cannot run."""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna tells of every study and trial, and that names of metrics are "experimental" since version 3."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _choice(value: Any) -> Any:
    """A value as Optuna takes it: lists as text."""
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.type == "categorical":
        return CategoricalDistribution([_choice(choice) for choice in parameter.choices or ()])
    low, high, step = parameter.low or 0.0, parameter.high or 0.0, parameter.step
    if parameter.type == "int":
        return IntDistribution(int(low), int(high), log=parameter.logarithmic, step=int(step or 1))
    return FloatDistribution(low, high, log=parameter.logarithmic, step=step)


class OptunaForm:
    """Turns designs and outcomes into Optuna's trials.

    Args:
        study: The study.
        labels: Schedules that designs may have.
        flat: Make every metric an attribute of its own, which a dashboard shows as a column; else all of them one
            attribute, which a database stores in half the time.
    """

    def __init__(self, study: StudyConfig, labels: Iterable[str], *, flat: bool) -> None:
        self._study = study
        self._flat = flat
        self._distributions = {path: _distribution(parameter) for path, parameter in study.parameters.items()}
        self._parts = {label: _schedule_parts(label) for label in labels}
        names = dict.fromkeys(name for parts in self._parts.values() for name in parts)
        for name in names:
            values = [parts[name] for parts in self._parts.values() if name in parts]
            self._distributions[name] = IntDistribution(min(values), max(values))

    def trial(self, design: Mapping[str, Any], outcome: Outcome) -> FrozenTrial:
        """The trial of a canonical design; failed where it cannot run."""
        label = design["schedule"]
        params = {path: _choice(value) for path, value in design.items() if path != "schedule"}
        params |= self._parts[label] if label is not None else {}
        attributes = {"schedule": label, DESIGN_ATTRIBUTE: dict(design)}
        distributions = {name: self._distributions[name] for name in params}
        if outcome.error is not None:
            attributes[ERROR_ATTRIBUTE] = outcome.error
            return optuna.trial.create_trial(
                state=TrialState.FAIL, params=params, distributions=distributions, user_attrs=attributes
            )
        row = {**design, **outcome.metrics}
        return optuna.trial.create_trial(
            values=[row[objective.name] for objective in self._study.objectives],
            params=params,
            distributions=distributions,
            constraints=violations(self._study.constraints, row),
            user_attrs=attributes | dict(outcome.metrics if self._flat else {METRICS_ATTRIBUTE: dict(outcome.metrics)}),
        )


def _schedule_parts(label: str) -> dict[str, int]:
    """What is numeric in a schedule; nothing for a plan that was recorded prompt by prompt."""
    try:
        schedule = Schedule.from_label(label)
    except InputError:
        return {}
    parts = Space({}, [schedule]).schedule_values(schedule)
    return {name: value for name, value in parts.items() if isinstance(value, int)}


def trials_of(record: Record, form: OptunaForm) -> Iterator[FrozenTrial]:
    """The finished trials of a record, in their order."""
    for batch in record.batches:
        for number, design in enumerate(batch.designs, start=batch.first):
            if number in record.outcomes:
                yield form.trial(design, record.outcomes[number])


def labels_of(record: Record) -> list[str]:
    """Schedules that a record's designs have."""
    labels = (design["schedule"] for batch in record.batches for design in batch.designs)
    return list(dict.fromkeys(label for label in labels if label is not None))


class _Lines(BaseJournalBackend):
    """A journal in memory, so that a file is written once and whole instead of synced for every trial."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Lines from a number on."""
        return self.lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines."""
        self.lines.extend(logs)


def write_journal(record: Record, path: Path) -> None:
    """Write a record as an Optuna journal with one study, named as the study file names it.

    Raises:
        InputError: If the file exists: it may hold other studies, or notes made in a dashboard.
    """
    if path.exists():
        raise InputError(f"{path}: exists, and a journal may hold what others wrote into it; choose another file")
    config = StudyConfig.model_validate(record.header["study"])
    journal = _Lines()
    with quiet_optuna():
        study = optuna.create_study(
            study_name=config.name,
            storage=JournalStorage(journal),
            directions=[objective.direction for objective in config.objectives],
        )
        study.set_metric_names([objective.name for objective in config.objectives])
        study.set_user_attr("bittaper_sampler", record.header["sampler"])
        study.set_user_attr("bittaper_meaning_sha256", canonical_sha256(record.header["meaning"]))
        study.add_trials(trials_of(record, OptunaForm(config, labels_of(record), flat=True)))
    with atomic_writer(path) as file:
        file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in journal.lines)


def _write_parquet(trials: pd.DataFrame, path: Path) -> None:
    try:
        import pyarrow  # noqa: F401, PLC0415 - of the extra `parquet`
    except ModuleNotFoundError:
        raise InputError(f"{path}: Parquet needs the package 'pyarrow': pip install 'bittaper[parquet]'") from None
    flat = trials.copy()
    for name in flat:
        if flat[name].map(lambda value: isinstance(value, list | dict)).any():  # Parquet has one kind a column
            flat[name] = flat[name].map(lambda value: json.dumps(value) if isinstance(value, list | dict) else value)
    with atomic_writer(path, "wb") as file:
        flat.to_parquet(file, engine="pyarrow", index=False)


def export(
    folder: Path | str,
    *,
    journal: Path | str | None = None,
    csv: Path | str | None = None,
    parquet: Path | str | None = None,
) -> list[Path]:
    """Write what an exploration recorded, finished or not, for other tools.

    Args:
        folder: What ``explore`` wrote.
        journal: File for an Optuna journal: ``optuna.load_study`` and optuna-dashboard open it.
        csv: File for the trials as CSV.
        parquet: The same as Parquet.

    Returns:
        The files that were written.

    Raises:
        InputError: If there is no sound log, the journal exists, or Parquet lacks its package.
    """
    written = []
    if journal is not None:
        write_journal(read_log(Path(folder) / LOG_NAME), Path(journal))
        written.append(Path(journal))
    if csv is not None or parquet is not None:
        trials = load_exploration(folder).trials
        if csv is not None:
            with atomic_writer(csv) as file:
                trials.to_csv(file, index=False, lineterminator="\n")
            written.append(Path(csv))
        if parquet is not None:
            _write_parquet(trials, Path(parquet))
            written.append(Path(parquet))
    return written
