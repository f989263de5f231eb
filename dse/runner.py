"""Runs a study: suggest designs, simulate each once, record, resume.

The same study and seed give the same trials, also when the run was killed and resumed any number of
times, for the samplers exhaustive, random, tpe and nsga2 (see :mod:`dse.samplers`). gp fits its model by
a numerical optimiser and repeats itself only on the same machine with the same libraries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from dse.exploration import Exploration, build_exploration
from dse.log import LOG_NAME, Batch, LogWriter, Outcome, Record
from dse.objective import violations
from dse.problem import Evaluate, Problem, prepare
from dse.question import find_binding
from dse.samplers import GENERATION_KEY, choose_sampler, generation_of, make_sampler, suggestion_seed
from dse.space import Design
from dse.study import StudyConfig
from hwsim.trace import InputError, collect_provenance

MAX_REPEATS = 8
"""Suggestions in a row that may repeat a design before a random unseen one is taken instead."""

RANDOM_DRAWS = 200
"""Random draws for an unseen design before the space is searched in order: by then > 97% of it is seen."""


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Optuna tells of every study and sampler; the progress bar says enough."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


class Suggester:
    """Chooses designs that were not evaluated before.

    Args:
        problem: What is explored.
        record: What an earlier run left.
    """

    def __init__(self, problem: Problem, record: Record) -> None:
        self._problem = problem
        self._sampler = record.header["sampler"]
        self._budget = record.header["study"]["budget"]
        self._seed = problem.study.seed
        self._study = optuna.create_study(
            directions=[objective.direction for objective in problem.study.objectives],
            sampler=make_sampler(self._sampler, 0, self._budget),
        )
        self._seen: set[str] = set()
        self.suggestions = 0
        self.duplicates = 0
        self._starts = list({design.key: design for design in self._starting_designs()}.values())
        self._order = self._exhaustive_order() if self._sampler == "exhaustive" else []

    def _starting_designs(self) -> list[Design]:
        """Designs whose trade-offs bracket the front.

        These are the least, the most and the middle amount of hardware, each under the schedule with the
        fewest bits and the one with the best quality (where it is not measured, the most bits).
        """
        space, quality = self._problem.space, self._problem.quality
        labels = list(space.schedules)
        if not labels:
            return [space.at(share, None) for share in (0.0, 1.0, 0.5)]
        # The mean of the widths is a fair order while the number of steps is not known.
        bits = {label: np.mean([part.weight_bits for part in space.schedules[label].decode]) for label in labels}
        fewest = min(labels, key=lambda label: (bits[label], space.schedules[label].prefill_weight_bits))
        best = max(labels, key=lambda label: bits[label])
        if quality is not None and all("relative_quality" in quality.metrics[label] for label in labels):
            best = max(labels, key=lambda label: quality.metrics[label]["relative_quality"])
        return [space.at(share, space.schedules[label]) for share in (0.0, 1.0, 0.5) for label in (fewest, best)]

    def _exhaustive_order(self) -> list[Design]:
        designs = list(self._problem.space.enumerate())
        np.random.default_rng(self._seed).shuffle(designs)
        return designs

    def restore(self, batch: Batch, designs: list[Design], outcomes: list[Outcome]) -> None:
        """Tell the sampler of a batch of an earlier run."""
        self.suggestions, self.duplicates = batch.suggestions, batch.duplicates
        self._seen.update(design.key for design in designs)
        trials = [
            self._frozen(design, outcome, generation)
            for design, outcome, generation in zip(designs, outcomes, batch.generations, strict=True)
            if outcome.error is None
        ]
        self._study.add_trials(trials)

    def _values(self, design: Design, outcome: Outcome) -> tuple[list[float], dict[str, float]]:
        row = {**design.npu, **outcome.metrics}
        study = self._problem.study
        return [row[objective.name] for objective in study.objectives], violations(study.constraints, row)

    def _frozen(self, design: Design, outcome: Outcome, generation: int | None) -> FrozenTrial:
        params, distributions = self._problem.space.encode(design)
        values, constraints = self._values(design, outcome)
        return optuna.trial.create_trial(
            params=params,
            distributions=distributions,
            values=values,
            constraints=constraints,
            system_attrs={} if generation is None else {GENERATION_KEY: generation},
        )

    def tell(self, trial: Trial, design: Design, outcome: Outcome) -> None:
        """Tell the sampler what came of a suggestion of this run."""
        if outcome.error is not None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        values, constraints = self._values(design, outcome)
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        self._study.tell(trial, values)

    def next_batch(self, first: int, count: int) -> tuple[Batch, list[tuple[Trial, Design]]]:
        """Choose up to ``count`` designs; fewer, or none, when the space is exhausted."""
        chosen: list[tuple[Trial, Design]] = []
        generations: list[int | None] = []
        while len(chosen) < count:
            suggestion = self._suggest()
            if suggestion is None:
                break
            trial, design = suggestion
            self._seen.add(design.key)
            chosen.append((trial, design))
            generations.append(generation_of(self._study.sampler))
        designs = [design.canonical() for _, design in chosen]
        return Batch(first, self.suggestions, self.duplicates, designs, generations), chosen

    def _ask(self, design: Design | None = None) -> tuple[Trial, Design]:
        if design is not None:
            params, _ = self._problem.space.encode(design)
            self._study.enqueue_trial(params)
        seed = suggestion_seed(self._seed, self.suggestions)
        self._study.sampler = make_sampler(self._sampler, seed, self._budget)
        self.suggestions += 1
        trial = self._study.ask()
        return trial, self._problem.space.suggest(trial)

    def _suggest(self) -> tuple[Trial, Design] | None:
        if self._sampler == "exhaustive":
            return self._ask(self._order[self.suggestions]) if self.suggestions < len(self._order) else None
        for _ in range(MAX_REPEATS):
            start = self._starts[self.suggestions] if self.suggestions < len(self._starts) else None
            trial, design = self._ask(start)
            if design.key not in self._seen:
                return trial, design
            self.duplicates += 1
            self._study.tell(trial, state=TrialState.FAIL)
        unseen = self._random_unseen()
        return None if unseen is None else self._ask(unseen)

    def _random_unseen(self) -> Design | None:
        space = self._problem.space
        size = space.size()
        if size is not None and len(self._seen) >= size:
            return None
        rng = np.random.default_rng(suggestion_seed(self._seed, self.suggestions))
        draws = (space.random(rng) for _ in range(RANDOM_DRAWS))
        found = next((design for design in draws if design.key not in self._seen), None)
        if found is None and size is not None:
            unseen = [design for design in space.enumerate() if design.key not in self._seen]
            found = unseen[int(rng.integers(len(unseen)))]
        return found


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
        "sampler": choose_sampler(study.sampler, size, study.budget),
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
            f"{log}: was written by another study ({', '.join(changed)} differ); choose another folder, or move it away"
        )


def explore(
    study: StudyConfig, out: Path | str, *, evaluate: Evaluate | None = None, progress: bool = True
) -> Exploration:
    """Explore a study, or go on with one that was stopped; writes the record and the tables into ``out``.

    The budget counts simulated designs, over all runs; raising it continues a finished study. Ctrl-C and
    kills leave a record that the next call resumes.

    Args:
        study: From :func:`dse.read_study`.
        out: Folder for ``trials.jsonl`` (the record), ``trials.csv``, ``pareto.csv`` and ``hypervolume.csv``.
        evaluate: Stands in for the simulator: metrics of a design by name. It raises InputError for a
            design that cannot run.
        progress: Show a progress bar on standard error.

    Returns:
        Trials, front, hypervolume history and counts.

    Raises:
        InputError: If the study cannot be run, ``out`` holds the record of another study, or no evaluated
            design keeps the constraints (the message says which one binds; the tables are written first).
    """
    folder = Path(out)
    problem = prepare(study, evaluate)
    log_path = folder / LOG_NAME
    with _quiet_optuna(), LogWriter(log_path) as log:
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


def _run(problem: Problem, record: Record, log: LogWriter, progress: bool) -> None:
    """Finish what the record began, then go on until the budget is spent or the space is exhausted."""
    study = problem.study
    suggester = Suggester(problem, record)
    bar = tqdm(
        total=study.budget,
        initial=len(record.outcomes),
        desc=study.name,
        unit="design",
        disable=not progress,
        dynamic_ncols=True,
    )

    def outcome_of(number: int, design: Design) -> Outcome:
        if number not in record.outcomes:
            outcome = _evaluate(problem, number, design)
            log.outcome(outcome)
            record.outcomes[number] = outcome
            bar.update()
        return record.outcomes[number]

    with bar:
        for batch in record.batches:
            designs = [problem.space.decode(design) for design in batch.designs]
            outcomes = [outcome_of(batch.first + offset, design) for offset, design in enumerate(designs)]
            suggester.restore(batch, designs, outcomes)
        while (done := len(record.outcomes)) < study.budget:
            batch, chosen = suggester.next_batch(done, min(study.batch_size, study.budget - done))
            if not chosen:
                break
            log.batch(batch)
            record.batches.append(batch)
            for offset, (_, design) in enumerate(chosen):
                outcome_of(done + offset, design)
            for offset, (trial, design) in enumerate(chosen):
                suggester.tell(trial, design, record.outcomes[done + offset])
