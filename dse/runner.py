"""Runs a study: suggest designs, simulate each once, record, resume.

The same study and seed give the same trials, also when the run was killed and resumed any number of
times, for the samplers exact, exhaustive, random, tpe and nsga2 (see :mod:`dse.samplers`). gp fits its model by
a numerical optimiser and repeats itself only on the same machine with the same libraries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import optuna
from tqdm import tqdm

from dse.exact import EnumeratedSearch
from dse.exploration import Exploration, build_exploration
from dse.log import LOG_NAME, Batch, LogWriter, Outcome, Record
from dse.problem import Evaluate, Problem, prepare
from dse.question import find_binding
from dse.samplers import choose_sampler
from dse.space import Design
from dse.study import StudyConfig
from dse.suggest import OptunaSuggester
from hwsim.trace import InputError, collect_provenance


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Optuna tells of every study and sampler; the progress bar says enough."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _evaluate(problem: Problem, number: int, design: Design) -> Outcome:
    """Simulate one design; a design that the NPU cannot run is an outcome too."""
    try:
        metrics = problem.metrics(design)
    except InputError as error:
        return Outcome(number, {}, str(error))
    row = {**design.npu, **metrics}
    for kind, items in (("objective", problem.study.objectives), ("constraint", problem.study.constraints)):
        for item in items:
            if item.name not in row:
                raise InputError(f"{kind} '{item.name}': the evaluator computes only {', '.join(sorted(metrics))}")
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        return Outcome(number, {}, f"{wrong[0]} = {metrics[wrong[0]]}: not a finite number")
    return Outcome(number, metrics)


def _header(problem: Problem) -> dict[str, Any]:
    study, size = problem.study, problem.space.size()
    return {
        "meaning": problem.meaning,
        "sampler": choose_sampler(study.sampler, size, study.budget, bounded=problem.bounds is not None),
        "space_size": size,
        "study": study.model_dump(mode="json"),
        "excluded_schedules": problem.excluded,
        "quality_labels": {} if problem.quality is None else problem.quality.labels,
        "provenance": collect_provenance(seed=study.seed),
    }


def _check_same_study(log: Path, record: Record, problem: Problem) -> None:
    before, now = record.header["meaning"], problem.meaning
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise InputError(
            f"{log}: was written by another study (differs in {', '.join(changed)}); choose another folder, or move "
            f"it away"
        )


def explore(
    study: StudyConfig,
    out: Path | str,
    *,
    evaluate: Evaluate | None = None,
    bounds: Evaluate | None = None,
    progress: bool = True,
) -> Exploration:
    """Explore a study, or go on with one that was stopped; writes the record and the tables into ``out``.

    The budget counts simulated designs, over all runs; raising it continues a finished study. Ctrl-C and
    kills leave a record that the next call resumes.

    Args:
        study: From :func:`dse.read_study`.
        out: Folder for ``trials.jsonl`` (the record), ``trials.csv``, ``pareto.csv`` and ``hypervolume.csv``.
        evaluate: Stands in for the simulator: metrics of a design by name. It raises InputError for a
            design that cannot run.
        bounds: Optimistic metrics of a design, for an evaluator that stands in; the simulator has its own.
        progress: Show a progress bar on standard error.

    Returns:
        Trials, front, hypervolume history and counts.

    Raises:
        InputError: If the study cannot be run, ``out`` holds the record of another study, or no evaluated
            design keeps the constraints (the message says which one binds; the tables are written first).
    """
    folder = Path(out)
    problem = prepare(study, evaluate, bounds)
    log_path = folder / LOG_NAME
    with _quiet_optuna(), LogWriter(log_path) as log:
        if log.record is not None and not log.record.outcomes:
            log.clear()  # an earlier run failed before its first trial, perhaps over what was mended since
        if log.record is not None:
            _check_same_study(log_path, log.record, problem)
        record = log.record or log.header(**_header(problem))
        _run(problem, record, log, progress)
    found = build_exploration(record, study)
    found.write_tables(folder)
    if found.counts.evaluated == 0:
        raise InputError(f"no design can run; trial 0: {found.trials['error'].iloc[0]}")
    if found.pareto.empty:
        valid = found.trials[found.trials["error"].isna()]
        raise InputError(f"no design of {len(valid)} keeps the constraints: {find_binding(valid, study.constraints)}")
    return found


class Suggester(Protocol):
    """What chooses designs: see :mod:`dse.suggest` and :mod:`dse.exact`."""

    def next_batch(self, first: int, count: int) -> Batch:
        """Choose up to ``count`` designs that are not known; none when there is nothing left to choose."""

    def tell(self, batch: Batch, designs: Sequence[Design], outcomes: Sequence[Outcome]) -> None:
        """Learn what came of a batch, of this run or an earlier one."""


def _make_suggester(problem: Problem, record: Record, progress: bool) -> Suggester:
    if record.header["sampler"] in {"exhaustive", "exact"}:
        return EnumeratedSearch(problem, bounded=record.header["sampler"] == "exact", progress=progress)
    return OptunaSuggester(problem, record)


def _run(problem: Problem, record: Record, log: LogWriter, progress: bool) -> None:
    """Finish what the record began, then go on until the budget is spent or nothing is left to choose."""
    study = problem.study
    suggester = _make_suggester(problem, record, progress)
    bar = tqdm(
        total=study.budget,
        initial=len(record.outcomes),
        desc=study.name,
        unit="design",
        disable=not progress,
        dynamic_ncols=True,
    )

    def finish(batch: Batch) -> None:
        designs = [problem.space.decode(design) for design in batch.designs]
        for number, design in enumerate(designs, start=batch.first):
            if number not in record.outcomes:
                outcome = _evaluate(problem, number, design)
                log.outcome(outcome)
                record.outcomes[number] = outcome
                bar.update()
        outcomes = [record.outcomes[batch.first + offset] for offset in range(len(designs))]
        suggester.tell(batch, designs, outcomes)

    with bar:
        for batch in record.batches:
            finish(batch)
        while (done := len(record.outcomes)) < study.budget:
            batch = suggester.next_batch(done, min(study.batch_size, study.budget - done))
            if not batch.designs:
                break
            log.batch(batch)
            record.batches.append(batch)
            finish(batch)
    if isinstance(suggester, EnumeratedSearch):
        certificate = suggester.certificate(record.certificate)
        if certificate != record.certificate:
            log.certificate(certificate)
            record.certificate = certificate
