"""Suggestions by Optuna that never repeat a design, and depend on nothing but the record."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from dse.log import Batch, Outcome, Record
from dse.objective import violations
from dse.problem import Problem
from dse.samplers import generation_key, generation_of, make_sampler, suggestion_seed
from dse.space import Design, Space
from dse.starts import starting_designs

MAX_REPEATS = 8
"""Suggestions in a row that may repeat a design before a random unseen one is taken instead."""

RANDOM_DRAWS = 200
"""Random draws for an unseen design before the space is searched in order: by then > 97% of it is seen."""


class OptunaSuggester:
    """Chooses designs that were not evaluated before, by an Optuna sampler.

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
            sampler=make_sampler(self._sampler, self._seed, 0, self._budget),
        )
        self._seen: set[str] = set()
        self.suggestions = 0
        self.duplicates = 0
        self._starts = starting_designs(problem)
        self._asked: dict[str, Trial] = {}

    def next_batch(self, first: int, count: int) -> Batch:
        """Choose up to ``count`` designs; fewer, or none, when the space is exhausted."""
        designs: list[Design] = []
        generations: list[int | None] = []
        while len(designs) < count and (suggestion := self._suggest()) is not None:
            trial, design = suggestion
            self._seen.add(design.key)
            self._asked[design.key] = trial
            designs.append(design)
            generations.append(generation_of(self._study.sampler))
        canonical = [design.canonical() for design in designs]
        return Batch(first, self.suggestions, self.duplicates, canonical, generations)

    def tell(self, batch: Batch, designs: Sequence[Design], outcomes: Sequence[Outcome]) -> None:
        """Learn what came of a batch, of this run or an earlier one."""
        self.suggestions, self.duplicates = batch.suggestions, batch.duplicates
        for design, outcome, generation in zip(designs, outcomes, batch.generations, strict=True):
            self._seen.add(design.key)
            trial = self._asked.pop(design.key, None)
            if outcome.error is not None:
                if trial is not None:
                    self._study.tell(trial, state=TrialState.FAIL)
                continue
            if trial is None:
                self._study.add_trial(self._frozen(design, outcome, generation))
                continue
            values, constraints = self._values(design, outcome)
            for name, value in constraints.items():
                trial.set_constraint(name, value)
            self._study.tell(trial, values)

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
            system_attrs={} if generation is None else {generation_key(self._study.sampler): generation},
        )

    def _ask(self, design: Design | None = None) -> tuple[Trial, Design]:
        if design is not None:
            params, _ = self._problem.space.encode(design)
            self._study.enqueue_trial(params)
        self._study.sampler = make_sampler(self._sampler, self._seed, self.suggestions, self._budget)
        self.suggestions += 1
        trial = self._study.ask()
        return trial, self._problem.space.suggest(trial)

    def _suggest(self) -> tuple[Trial, Design] | None:
        for _ in range(MAX_REPEATS):
            start = self._starts[self.suggestions] if self.suggestions < len(self._starts) else None
            trial, design = self._ask(start)
            if design.key not in self._seen:
                return trial, design
            self.duplicates += 1
            self._study.tell(trial, state=TrialState.FAIL)
        unseen = random_unseen(self._problem.space, self._seen, suggestion_seed(self._seed, self.suggestions))
        return None if unseen is None else self._ask(unseen)


def random_unseen(space: Space, seen: Collection[str], seed: int) -> Design | None:
    """A random design whose key is not in ``seen``; None where there is none left, or none can be found."""
    size = space.size()
    if size is not None and len(seen) >= size:
        return None
    rng = np.random.default_rng(seed)
    draws = (space.random(rng) for _ in range(RANDOM_DRAWS))
    found = next((design for design in draws if design.key not in seen), None)
    if found is None and size is not None:
        unseen = [design for design in space.enumerate() if design.key not in seen]
        found = unseen[int(rng.integers(len(unseen)))]
    return found
