"""What there is to find in a space: every design simulated on the full trace, its front, the best of few designs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from studies.exploration_benchmark.spaces import BANDWIDTH, BenchmarkSpace

if TYPE_CHECKING:
    from dse import StudyConfig
    from dse.candidates import Candidates
    from dse.problem import Problem

FINE_POINTS = 257
"""Bandwidths of the fine grid that stands for a continuous range."""

COARSE_POINTS = 17
"""Bandwidths of the grid on which combinations of the other parameters are chosen for the fine one."""

CEILINGS = (25, 50, 100, 200)


@dataclass(frozen=True)
class Truth:
    """Every design of a space.

    Attributes:
        designs: How many were simulated.
        losses: Of the front, ``[points, objectives]``.
        reference: Reference point as losses.
        hypervolume: Of the front.
        ceilings: Share of the hypervolume that a front of so many designs reaches, the best that greedy choice finds.
        least_bandwidth: Answer to the space's question in bytes/s.
        coarse_share: Hypervolume of the coarse grid as a share of the fine one's; 1 where the space is a grid.
    """

    designs: int
    losses: NDArray[np.float64]
    reference: NDArray[np.float64]
    hypervolume: float
    ceilings: dict[int, float]
    least_bandwidth: float
    coarse_share: float

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        arrays = {"losses": self.losses.tolist(), "reference": self.reference.tolist()}
        return {**vars(self), **arrays, "ceilings": list(self.ceilings.items())}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Truth:
        """What :meth:`to_json` gave."""
        arrays = {name: np.array(value[name]) for name in ("losses", "reference")}
        return cls(**{**value, **arrays, "ceilings": {int(count): share for count, share in value["ceilings"]}})

    def summary(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "designs": self.designs,
            "front": len(self.losses),
            "hypervolume": self.hypervolume,
            "greedy_ceilings": {str(count): share for count, share in self.ceilings.items()},
            "least_bandwidth_bytes_per_s": self.least_bandwidth,
            "coarse_grid_share": self.coarse_share,
        }


@dataclass(frozen=True)
class _Evaluated:
    """Designs of a grid with what their full simulation gave."""

    candidates: Candidates
    losses: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]
    feasible: NDArray[np.bool_]
    keeps_but_area: NDArray[np.bool_]


def _evaluate(problem: Problem, candidates: Candidates) -> _Evaluated:
    from dse.design_grid import DesignGrid
    from dse.objective import signs, violation
    from dse.simulator import Simulator

    assert isinstance(problem.evaluate, Simulator)
    grid = DesignGrid(problem.evaluate, candidates)
    assert grid.gridded.all(), "the benchmark's spaces hold designs that the grid can evaluate only"
    columns = grid.metrics(np.arange(len(candidates)))
    assert problem.quality is not None
    for name in ("relative_quality",):
        known = {label: problem.quality.metrics[label][name] for label in candidates.labels}
        columns[name] = candidates.schedule_column(known)
    study = problem.study
    values = np.column_stack([columns[objective.name] for objective in study.objectives])
    feasible = np.isfinite(columns["e2e_s"])
    keeps_but_area = feasible.copy()
    for limit in study.constraints:
        kept = np.asarray(violation(limit, columns[limit.name])) <= 0
        feasible &= kept
        keeps_but_area &= kept | (limit.name == "area_mm2")
    return _Evaluated(candidates, values * signs(study.objectives), columns, feasible, keeps_but_area)


def best_of_few(truth: Truth, count: int) -> float:
    """Share of the hypervolume that ``count`` designs can reach: the greedy ones, each exchanged for a better one.

    Greedy choice may be improved by looking at all together; one sweep of exchanges shows by how little.
    """
    from dse.pareto import FreeSpace, hypervolume, hypervolume_subset

    chosen = hypervolume_subset(truth.losses, [], truth.reference, count)
    for place in range(len(chosen)):
        others = truth.losses[chosen[:place] + chosen[place + 1 :]]
        chosen[place] = int(np.argmax(FreeSpace.of(others, truth.reference).gains(truth.losses)))
    return hypervolume(truth.losses[chosen], truth.reference) / truth.hypervolume


def find_truth(problem: Problem, space: BenchmarkSpace) -> Truth:
    """Simulate every design of a space.

    A continuous bandwidth is replaced by a grid, coarse at first. Of designs with one schedule and bandwidth only those
    can matter that no other one beats in both speed and area, which a bandwidth in between may need; the combinations
    of parameters that do so anywhere are then simulated at every bandwidth of a fine grid.
    """
    from dse.candidates import Candidates
    from dse.objective import losses

    reference = np.array(losses(problem.study.objectives, problem.study.reference_point or {}))
    if problem.space.size() is not None:
        found = _evaluate(problem, Candidates.enumerate(problem.space))
        return _truth(found, space, reference, len(found.losses), 1.0)
    coarse = _evaluate(problem, Candidates.enumerate(_gridded(problem, COARSE_POINTS).space))
    fine_problem = _gridded(problem, FINE_POINTS)
    fine = _evaluate(problem, _on_fine_grid(fine_problem, coarse))
    before = _truth(coarse, space, reference, 0, 1.0).hypervolume
    after = _truth(fine, space, reference, len(coarse.losses) + len(fine.losses), 1.0)
    return Truth(**{**vars(after), "coarse_share": before / after.hypervolume})


def _gridded(problem: Problem, points: int) -> Problem:
    from dse.problem import prepare

    study: StudyConfig = problem.study
    bandwidth = study.parameters[BANDWIDTH].model_copy(update={"points": points})
    return prepare(study.model_copy(update={"parameters": {**study.parameters, BANDWIDTH: bandwidth}}))


def _on_fine_grid(problem: Problem, coarse: _Evaluated) -> Candidates:
    """Every bandwidth of the fine grid under the combinations of everything else that may matter at some bandwidth."""
    from dse.candidates import Candidates

    rows = np.flatnonzero(coarse.keeps_but_area)
    others_of = np.unique(coarse.losses[rows, 1:], axis=0, return_inverse=True)[1].reshape(-1)
    first, area = coarse.losses[rows, 0], coarse.columns["area_mm2"][rows]
    order = np.lexsort([area, first, others_of])
    chosen_rows: list[int] = []
    for group in np.split(order, np.flatnonzero(np.diff(others_of[order])) + 1):
        smallest = np.minimum.accumulate(area[group])
        better = np.concatenate([[True], area[group][1:] < smallest[:-1]])
        chosen_rows += group[better].tolist()
    others = [path for path in coarse.candidates.codes if path != BANDWIDTH]
    chosen = coarse.candidates.take(rows[np.array(chosen_rows)])
    first, _ = chosen.distinct(others)
    # A design's schedule is no parameter, so combinations are kept under every schedule.
    combinations = chosen.take(first)
    values = {**coarse.candidates.values, BANDWIDTH: problem.space.axis(BANDWIDTH).all_values()}
    count, schedules = len(values[BANDWIDTH]), len(coarse.candidates.labels)
    codes = {path: np.repeat(column, count * schedules) for path, column in combinations.codes.items()}
    codes[BANDWIDTH] = np.tile(np.repeat(np.arange(count, dtype=np.int32), schedules), len(first))
    index = np.tile(np.arange(schedules, dtype=np.int32), len(first) * count)
    return Candidates(coarse.candidates.schedules, values, codes, index)


def _best_first(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of points that are equal in all objectives but the first, the best.

    Schedules and bandwidths are few, so this leaves few of many designs to search the front among.
    """
    others, group = np.unique(points[:, 1:], axis=0, return_inverse=True)
    first = np.full(len(others), np.inf)
    np.minimum.at(first, group.reshape(-1), points[:, 0])
    return np.column_stack([first, others])


def _truth(
    found: _Evaluated, space: BenchmarkSpace, reference: NDArray[np.float64], designs: int, coarse_share: float
) -> Truth:
    from dse.dominance import non_dominated
    from dse.pareto import hypervolume, hypervolume_subset

    best = _best_first(found.losses[found.feasible])
    front = best[non_dominated(best)]
    volume = hypervolume(front, reference)
    chosen = hypervolume_subset(front, [], reference, max(CEILINGS))
    ceilings = {count: hypervolume(front[chosen[:count]], reference) / volume for count in CEILINGS}
    answers = found.feasible & (found.columns["decode_tokens_per_s"] >= space.min_tokens_per_s)
    answers &= found.columns["relative_quality"] >= space.min_quality
    least = float(found.columns["bandwidth_bytes_per_s"][answers].min())
    return Truth(designs, front, reference, volume, ceilings, least, coarse_share)
