"""Runs a study: suggest designs, simulate each once, record, resume.

The same study and seed give the same trials, also when the run was killed and resumed any number of
times, and whatever evaluates them (this process, worker processes, a cluster), for the samplers exact, exhaustive,
random, tpe, nsga2 and nsga3 (see :mod:`dse.samplers`). What is suggested next depends on the record alone: a batch is
chosen, every design of it evaluated in any order, and the sampler told in the batch's order. gp fits its model by
a numerical optimiser and repeats itself only on the same machine with the same libraries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from dse.evaluation import Backend, InProcess, Numbered, WorkerSpec
from dse.exact import EnumeratedSearch
from dse.exploration import Exploration, build_exploration
from dse.export import quiet_optuna
from dse.greedy import ScreenedSearch
from dse.live import forget_failures
from dse.log import LOG_NAME, Batch, LogWriter, Outcome, Record
from dse.objective import NoDesignError
from dse.pool import ProcessPool
from dse.problem import Evaluate, Problem, prepare
from dse.question import find_binding
from dse.related import Related
from dse.resume import check_same_simulator, check_same_study, differences
from dse.samplers import BATCH_SIZES, SAMPLED_BUDGET, SETTLED_BATCH, choose_sampler
from dse.screening import can_screen
from dse.settled import Settled
from dse.space import Design
from dse.study import StudyConfig
from dse.suggest import OptunaSuggester
from hwsim.trace import InputError, collect_provenance

if TYPE_CHECKING:
    from dse.storage import Mirror, SharedStudy


def _header(problem: Problem, provenance: Mapping[str, str]) -> dict[str, Any]:
    study, size = problem.study, problem.space.size()
    sampler = choose_sampler(
        study.sampler,
        size,
        study.budget,
        bounded=problem.bounds is not None or problem.gridded,
        screened=can_screen(problem),
        slow=study.live_quality is not None,
    )
    return {
        "meaning": problem.meaning,
        "sampler": sampler,
        "space_size": size,
        "study": study.model_dump(mode="json"),
        "excluded_schedules": problem.excluded,
        "quality_labels": {} if problem.quality is None else problem.quality.labels,
        "provenance": provenance,
    }


def explore(
    study: StudyConfig,
    out: Path | str,
    *,
    evaluate: Evaluate | None = None,
    bounds: Evaluate | None = None,
    progress: bool = True,
    workers: int = 1,
    cluster: str | None = None,
    allow_command: bool = False,
    storage: SharedStudy | None = None,
    retry: bool = False,
    related: Related | None = None,
) -> Exploration:
    """Explore a study, or go on with one that was stopped; writes the record and the tables into ``out``.

    The budget counts simulated designs, over all runs; raising it continues a finished study. Ctrl-C and
    kills leave a record that the next call resumes.

    Args:
        study: From :func:`dse.read_study`.
        out: Folder for ``trials.jsonl`` (the record), ``trials.csv``, ``pareto.csv`` and ``hypervolume.csv``.
        evaluate: Stands in for the simulator: metrics of a design by name. It raises InputError for a
            design that cannot run. One that cannot be pickled is called in this process whatever ``workers``.
        bounds: Optimistic metrics of a design, for an evaluator that stands in; the simulator has its own.
        progress: Show a progress bar on standard error.
        workers: Processes that evaluate; 1 for this one alone. It changes no result.
        cluster: Evaluate on a Dask cluster instead: ``local``, a scheduler's address, or a YAML file (see
            :mod:`dse.cluster`).
        allow_command: Let the study's live quality command run.
        storage: An Optuna study shared with others, to take known designs from and give new ones to (see
            :mod:`dse.storage`).
        retry: Evaluate again what could not be evaluated before, though the NPU may run it: its live quality command
            failed, or its worker was ended.
        related: What explorations know whose studies differ from this one only in the bounds of limits. It learns what
            this one finds.

    Returns:
        Trials, front, hypervolume history and counts.

    Raises:
        InputError: If the study cannot be run, or ``out`` holds the record of another study.
        NoDesignError: If no evaluated design keeps the constraints (the message says which one binds; the tables
            are written first).
    """
    if workers < 1:
        raise InputError(f"workers = {workers}: must be >= 1")
    folder = Path(out)
    problem = prepare(study, evaluate, bounds, allow_command=allow_command, folder=folder)
    log_path = folder / LOG_NAME
    provenance = collect_provenance(folder, seed=study.seed)
    told = []
    with quiet_optuna(), LogWriter(log_path) as log:
        if log.record is not None and not log.record.outcomes and not _is_worth_keeping(log.record, problem):
            log.clear()  # an earlier run failed before its first trial, perhaps over what was mended since
        if log.record is not None:
            check_same_study(log_path, log.record, problem)
            check_same_simulator(log, log.record, problem, provenance)
            if retry:
                _forget_failures(log.record, folder)
        spec = WorkerSpec.of(problem, evaluate, bounds, allow_command=allow_command, folder=folder)
        mirror = None if storage is None else _open_mirror(storage, problem)
        try:
            with closing(_make_backend(problem, spec, workers, cluster)) as backend:
                record = log.record or log.header(**_header(problem, provenance))
                _run(problem, record, log, backend, mirror, related, progress, spec.pickled(), workers)
        except BaseException:
            if mirror is not None:
                mirror.close(wait_s=0)  # whoever stops a run does not wait for a database; the next run hands it over
            raise
        if mirror is not None:
            told.append(mirror.close())
    if related is not None:
        related.learn(record, str(folder))
    found = build_exploration(record, study)
    found = replace(found, notes=(*found.notes, *told))
    found.write_tables(folder)
    valid = found.trials[found.trials["error"].isna()]
    if valid.empty:
        raise NoDesignError(f"no design can run; trial 0: {found.trials['error'].iloc[0]}")
    if found.pareto.empty:
        binding = find_binding(valid, study.constraints)
        raise NoDesignError(f"no design of {len(valid)} keeps the constraints: {binding}")
    return found


def _is_worth_keeping(record: Record, problem: Problem) -> bool:
    """Whether a record without a trial holds what settling took long to find, of this study."""
    return bool(record.settled) and not differences(record.header["meaning"], problem.meaning)


def _forget_failures(record: Record, folder: Path) -> None:
    """Let designs be evaluated again whose outcome says nothing of them; the log takes a later line for each."""
    forget_failures(folder)
    for number in [number for number, outcome in record.outcomes.items() if outcome.unknown]:
        del record.outcomes[number]


def _open_mirror(storage: SharedStudy, problem: Problem) -> Mirror:
    from dse.storage import Mirror  # noqa: PLC0415 - databases are for teams that ask for one

    return Mirror(storage, problem.study, problem.meaning, list(problem.space.schedules))


def _make_backend(problem: Problem, spec: WorkerSpec, workers: int, cluster: str | None) -> Backend:
    if cluster is not None:
        from dse.cluster import connect  # noqa: PLC0415 - needs the extra `cluster`

        return connect(spec, cluster, workers)
    pickled = spec.pickled() if workers > 1 else None
    return InProcess(problem) if pickled is None else ProcessPool(pickled, workers)


def _take_over(mirror: Mirror, problem: Problem, numbered: Sequence[Numbered]) -> list[Outcome]:
    """What a shared study knows of designs."""
    found = (mirror.take_over(problem, number, design) for number, design in numbered)
    return [outcome for outcome in found if outcome is not None]


class Suggester(Protocol):
    """What chooses designs: see :mod:`dse.suggest` and :mod:`dse.exact`."""

    def next_batch(self, first: int, count: int) -> Batch:
        """Choose up to ``count`` designs that are not known; none when there is nothing left to choose."""

    def tell(self, batch: Batch, designs: Sequence[Design], outcomes: Sequence[Outcome]) -> None:
        """Learn what came of a batch, of this run or an earlier one."""


def _make_suggester(
    problem: Problem,
    record: Record,
    log: LogWriter,
    related: Related | None,
    progress: bool,
    spec: bytes | None,
    workers: int,
) -> Suggester:
    if record.header["sampler"] in {"exhaustive", "exact"}:
        bounded = record.header["sampler"] == "exact"
        known = [] if related is None else related.settled(problem.space, problem.excluded)
        kept = Settled(record, log, known)
        return EnumeratedSearch(problem, bounded=bounded, progress=progress, spec=spec, workers=workers, kept=kept)
    if record.header["sampler"] == "screened":
        return ScreenedSearch(problem)
    return OptunaSuggester(problem, record)


def _run(
    problem: Problem,
    record: Record,
    log: LogWriter,
    backend: Backend,
    mirror: Mirror | None,
    related: Related | None,
    progress: bool,
    spec: bytes | None,
    workers: int,
) -> None:
    """Finish what the record began, then go on until the budget is spent or nothing is left to choose."""
    study, sampler = problem.study, record.header["sampler"]
    suggester = _make_suggester(problem, record, log, related, progress, spec, workers)
    enumerated = isinstance(suggester, EnumeratedSearch)
    budget = study.budget or (math.inf if enumerated else SAMPLED_BUDGET)
    settled = sampler == "exact" and problem.gridded and study.budget is None
    batch_size = study.batch_size or (SETTLED_BATCH if settled else BATCH_SIZES.get(sampler, 1))
    simulated = sum(outcome.source is None for outcome in record.outcomes.values())
    bar = tqdm(
        total=None if math.isinf(budget) else int(budget),
        initial=simulated,
        desc=study.name,
        unit="design",
        disable=not progress,
        leave=None,  # one below another bar goes when it is done
        dynamic_ncols=True,
    )

    sources: list[Callable[[Sequence[Numbered]], Sequence[Outcome]]] = []
    if mirror is not None:
        sources.append(partial(_take_over, mirror, problem))
    if isinstance(suggester, EnumeratedSearch):
        sources.append(suggester.settled)
    if related is not None:
        sources.append(related.outcomes)

    def outcomes(numbered: Sequence[Numbered]) -> Iterator[Outcome]:
        waiting = [one for one in numbered if one[0] not in record.outcomes]
        for known in sources:
            found = known(waiting)
            yield from found
            done = {outcome.number for outcome in found}
            waiting = [one for one in waiting if one[0] not in done]
        yield from backend.evaluate(waiting)

    def finish(batch: Batch) -> None:
        nonlocal simulated
        designs = [problem.space.decode(design) for design in batch.designs]
        numbered = list(enumerate(designs, start=batch.first))
        for outcome in outcomes(numbered):
            log.outcome(outcome)
            record.outcomes[outcome.number] = outcome
            if outcome.source is None:
                simulated += 1
                bar.update()
            if mirror is not None:
                mirror.add(batch.designs[outcome.number - batch.first], outcome)
        suggester.tell(batch, designs, [record.outcomes[number] for number, _ in numbered])

    def begin(batch: Batch) -> None:
        log.batch(batch)
        record.batches.append(batch)
        finish(batch)

    with bar:
        if mirror is not None:
            mirror.check_designs(problem.space)
            mirror.add_record(record)
        for batch in record.batches:
            finish(batch)
        if mirror is not None and (known := mirror.known_batch(record)) is not None:
            begin(known)
        while simulated < budget:
            batch = suggester.next_batch(record.designs(), int(min(batch_size, budget - simulated)))
            if not batch.designs:
                break
            begin(batch)
    if isinstance(suggester, EnumeratedSearch):
        certificate = suggester.certificate(record.certificate, related)
        if not record.outcomes:
            raise NoDesignError(suggester.why_nothing())
        if certificate != record.certificate:
            log.certificate(certificate)
            record.certificate = certificate
