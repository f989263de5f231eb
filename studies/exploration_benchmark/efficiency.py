"""How much of the exhaustive front each sampler finds, against the full simulations it pays for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from hwsim.trace import InputError, atomic_writer, canonical_sha256, read_json, write_json
from studies.exploration_benchmark.spaces import SPACES, BenchmarkSpace, read_space
from studies.exploration_benchmark.truth import Truth, best_of_few, find_truth

if TYPE_CHECKING:
    from dse.log import Outcome
    from dse.problem import Problem
    from dse.space import Design

BUDGETS = {"random": 200, "tpe": 120, "nsga2": 200, "screened": 200}
"""Full simulations by sampler; TPE's suggestions cost too much for more of them 20 times."""

SAMPLERS = tuple(BUDGETS)
SEEDS = tuple(range(20))
GOAL, WITHIN = 0.99, 100
CHECKED_AT = (25, 50, 100)
CURVE_STEP = 5


@dataclass
class Run:
    """One exploration by one sampler with one seed.

    Attributes:
        seed: Of the study.
        recovered: Share of the exhaustive hypervolume after each full simulation.
        bandwidths: Answer to the space's question after each, in bytes/s; infinite without one.
        suggestion_s: CPU seconds spent on choosing.
        repeated: Designs that were simulated although they had been before.
        refused: Suggestions that repeated a design and were not simulated again.
        levels: Evaluations below a full simulation.
    """

    seed: int
    recovered: list[float] = field(default_factory=list)
    bandwidths: list[float] = field(default_factory=list)
    suggestion_s: float = 0.0
    repeated: int = 0
    refused: int = 0
    levels: Mapping[str, int] = field(default_factory=dict)


class _Explorer:
    """An exploration that is asked for designs and told what came of them, without a record on disk."""

    def __init__(self, problem: Problem, sampler: str, seed: int) -> None:
        from dse.greedy import ScreenedSearch
        from dse.log import Record
        from dse.runner import Suggester
        from dse.suggest import OptunaSuggester

        self._budget = BUDGETS[sampler]
        study = problem.study.model_copy(update={"seed": seed, "sampler": sampler, "budget": self._budget})
        self.problem = replace(problem, study=study)
        self.run = Run(seed)
        begin = time.process_time()
        self._suggester: Suggester
        if sampler == "screened":
            self._suggester = ScreenedSearch(self.problem)
        else:
            header = {"sampler": sampler, "study": study.model_dump(mode="json")}
            self._suggester = OptunaSuggester(self.problem, Record(header))
        self.run.suggestion_s += time.process_time() - begin
        self._losses: list[list[float]] = []
        self._seen: set[str] = set()
        self._done = 0

    def ask(self, count: int) -> list[Design]:
        """The next designs."""
        begin = time.process_time()
        self._batch = self._suggester.next_batch(self._done, min(count, self._budget - self._done))
        self.run.suggestion_s += time.process_time() - begin
        self.run.refused, self.run.levels = self._batch.duplicates, self._batch.levels or {}
        self._designs = [self.problem.space.decode(design) for design in self._batch.designs]
        return self._designs

    def tell(self, found: Sequence[dict[str, float] | InputError], truth: Truth, space: BenchmarkSpace) -> None:
        """What their full simulations gave."""
        from dse.dominance import non_dominated
        from dse.log import Outcome
        from dse.objective import losses, violations
        from dse.pareto import hypervolume

        study = self.problem.study
        outcomes: list[Outcome] = []
        for design, metrics in zip(self._designs, found, strict=True):
            self.run.repeated += design.key in self._seen
            self._seen.add(design.key)
            least = self.run.bandwidths[-1] if self.run.bandwidths else np.inf
            if isinstance(metrics, InputError):
                outcomes.append(Outcome(self._done, {}, str(metrics)))
            else:
                outcomes.append(Outcome(self._done, metrics))
                row = {**design.npu, **metrics}
                if all(value <= 0 for value in violations(study.constraints, row).values()):
                    self._losses.append(losses(study.objectives, row))
                    fast, good = row["decode_tokens_per_s"], row["relative_quality"]
                    if fast >= space.min_tokens_per_s and good >= space.min_quality:
                        least = min(least, row["bandwidth_bytes_per_s"])
            points = np.array(self._losses)
            if len(points):
                points = points[non_dominated(points)]
                self._losses = points.tolist()
            self.run.recovered.append(hypervolume(points, truth.reference) / truth.hypervolume)
            self.run.bandwidths.append(least)
            self._done += 1
        begin = time.process_time()
        self._suggester.tell(self._batch, self._designs, outcomes)
        self.run.suggestion_s += time.process_time() - begin


def run_sampler(problem: Problem, space: BenchmarkSpace, truth: Truth, sampler: str, *, progress: bool) -> list[Run]:
    """Explore with every seed, side by side: what all ask for is simulated together."""
    import optuna

    from dse.samplers import BATCH_SIZES

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    title = f"{space.name}, {sampler}"
    bar = tqdm(total=BUDGETS[sampler], desc=title, unit="design", disable=not progress, leave=False)
    explorers = [_Explorer(problem, sampler, seed) for seed in SEEDS]
    while True:
        asked = [explorer.ask(BATCH_SIZES.get(sampler, 1)) for explorer in explorers]
        if not any(asked):
            break
        found = iter(problem.metrics_many([design for designs in asked for design in designs]))
        for explorer, designs in zip(explorers, asked, strict=True):
            explorer.tell([next(found) for _ in designs], truth, space)
        bar.update(max(map(len, asked)))
    bar.close()
    return [explorer.run for explorer in explorers]


def run(folder: Path, *, progress: bool) -> dict[str, Any]:
    """Compare the samplers on every space; what a killed run has finished is kept in ``efficiency_runs``."""
    from dse.problem import prepare
    from studies.exploration_benchmark.fidelity_error import measure_fidelity

    curves: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    summary: dict[str, Any] = {"goal": {"share": GOAL, "within": WITHIN}, "seeds": len(SEEDS), "budgets": BUDGETS}
    for space in SPACES:
        problem = prepare(read_space(space.name, folder))
        truth = _kept_truth(folder, problem, space)
        found = {sampler: _kept_runs(folder, problem, space, truth, sampler, progress=progress) for sampler in SAMPLERS}
        for sampler, ran in found.items():
            curves += _curve(space, sampler, ran)
            runs += [_row(space, sampler, one, truth) for one in ran]
        rows = {sampler: _medians([row for row in runs if _is(row, space, sampler)]) for sampler in SAMPLERS}
        few = best_of_few(truth, WITHIN)
        exhaustive = {**truth.summary(), f"best_{WITHIN}_designs": few}
        summary[space.name] = {"title": space.title, "exhaustive": exhaustive, "samplers": rows}
    _write(folder / "efficiency.csv", curves)
    _write(folder / "efficiency_runs.csv", runs)
    errors = measure_fidelity(progress=progress)
    _write(folder / "fidelity.csv", errors)
    summary["short_trace"] = {"worst_error": max(row["largest"] for row in errors), "designs": errors[0]["n"]}
    return summary


def _is(row: Mapping[str, Any], space: BenchmarkSpace, sampler: str) -> bool:
    return bool(row["space"] == space.name and row["sampler"] == sampler)


def _kept_truth(folder: Path, problem: Problem, space: BenchmarkSpace) -> Truth:
    path = folder / "efficiency_runs" / f"{space.name}-truth.json"
    key = canonical_sha256({"study": problem.meaning, "space": vars(space)})
    if path.is_file() and (kept := read_json(path))["key"] == key:
        return Truth.from_json(kept["truth"])
    truth = find_truth(problem, space)
    write_json(path, {"key": key, "truth": truth.to_json()})
    return truth


def _kept_runs(
    folder: Path, problem: Problem, space: BenchmarkSpace, truth: Truth, sampler: str, *, progress: bool
) -> list[Run]:
    path = folder / "efficiency_runs" / f"{space.name}-{sampler}.json"
    meaning = {"study": problem.meaning, "seeds": SEEDS, "budget": BUDGETS[sampler], "truth": truth.summary()}
    key = canonical_sha256(meaning)
    if path.is_file() and (kept := read_json(path))["key"] == key:
        return [Run(**one) for one in kept["runs"]]
    ran = run_sampler(problem, space, truth, sampler, progress=progress)
    for one in ran:
        one.bandwidths = [min(value, 1e30) for value in one.bandwidths]  # JSON knows no infinity
    write_json(path, {"key": key, "runs": [vars(one) for one in ran]})
    return ran


def _curve(space: BenchmarkSpace, sampler: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Quartiles over the seeds after every few simulations; an exhausted space keeps its last value."""
    budget = BUDGETS[sampler]
    table = np.array([one.recovered + one.recovered[-1:] * (budget - len(one.recovered)) for one in runs])
    rows = []
    for count in (1, *range(CURVE_STEP, budget + 1, CURVE_STEP)):
        low, middle, high = np.quantile(table[:, count - 1], [0.25, 0.5, 0.75]).tolist()
        share = {"p25": low, "median": middle, "p75": high}
        rows.append({"space": space.name, "sampler": sampler, "simulations": count, "n": len(runs), **share})
    return rows


def _row(space: BenchmarkSpace, sampler: str, one: Run, truth: Truth) -> dict[str, Any]:
    reached = next((count for count, share in enumerate(one.recovered, start=1) if share >= GOAL), None)
    answer = one.bandwidths[min(WITHIN, len(one.bandwidths)) - 1]
    return {
        "space": space.name,
        "sampler": sampler,
        "seed": one.seed,
        **{f"recovered_at_{count}": one.recovered[min(count, len(one.recovered)) - 1] for count in CHECKED_AT},
        "simulations_to_goal": reached,
        "least_bandwidth_error": answer / truth.least_bandwidth - 1 if answer < 1e30 else None,
        "repeated": one.repeated,
        "refused": one.refused,
        "bounded": one.levels.get("bound", 0),
        "short_traces": one.levels.get("short trace", 0),
        "suggestion_cpu_s": round(one.suggestion_s, 2),
    }


def _medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over seeds; what some runs never reached counts as infinitely many, shown as null."""
    found: dict[str, Any] = {}
    for name in ("simulations_to_goal", *(f"recovered_at_{count}" for count in CHECKED_AT), "least_bandwidth_error"):
        values = [np.inf if row[name] is None else row[name] for row in rows]
        median = float(np.median(values))
        found[name] = median if np.isfinite(median) else None
    found["reached_goal_within"] = sum(
        row["simulations_to_goal"] is not None and row["simulations_to_goal"] <= WITHIN for row in rows
    )
    found["n"] = len(rows)
    found["repeated"] = sum(row["repeated"] for row in rows)
    for name in ("refused", "bounded", "short_traces", "suggestion_cpu_s"):
        found[name] = float(np.median([row[name] for row in rows]))
    return found


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_writer(path) as file:
        pd.DataFrame(rows).to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
