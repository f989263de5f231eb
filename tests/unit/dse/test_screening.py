"""Hypervolume by boxes equals the definition, and cheap levels lead to the front in few full simulations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dse
from dse.log import LOG_NAME
from dse.pareto import FreeSpace, hypervolume, hypervolume_gain, hypervolume_subset
from dse.problem import prepare
from dse.proposals import promising_plans
from dse.screening import Screen, best


def points(count):
    cells = st.integers(0, 6).map(lambda value: value / 5)
    return st.integers(1, 4).flatmap(
        lambda objectives: st.tuples(
            arrays(float, (count, objectives), elements=cells), arrays(float, (5, objectives), elements=cells)
        )
    )


@settings(deadline=None, max_examples=25)
@given(points(6))
def test_gains_by_boxes_are_those_by_definition(drawn):
    front, added = drawn
    corner = np.ones(front.shape[1])
    wanted = [hypervolume_gain(point, front, corner) for point in added]
    assert FreeSpace.of(front, corner).gains(added) == pytest.approx(wanted, abs=1e-12)
    grown = FreeSpace.of(front[:2], corner)
    for point in front[2:]:
        grown = grown.without(point)
    assert grown.gains(added) == pytest.approx(wanted, abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(points(12), st.integers(1, 5))
def test_the_subset_is_the_greedy_one(drawn, count):
    candidates, front = drawn
    corner = np.ones(candidates.shape[1])
    chosen = hypervolume_subset(candidates, front, corner, count)
    assert len(chosen) == len(set(chosen)) <= count
    known = front
    for row in chosen:
        gains = [hypervolume(np.vstack([known, point]), corner) - hypervolume(known, corner) for point in candidates]
        assert gains[row] == pytest.approx(max(gains), abs=1e-12)
        known = np.vstack([known, candidates[row]])
    if len(chosen) < count:
        assert hypervolume(np.vstack([known, candidates]), corner) == pytest.approx(hypervolume(known, corner))


@pytest.fixture
def fields(study_fields):
    return study_fields | {
        "parameters": {
            "memory.bandwidth_bytes_per_s": {"type": "log", "low": "16e9", "high": "128e9", "points": 10},
            "matrix.macs": {"type": "categorical", "choices": [4096, 8192, 16384]},
        },
        "reference_point": {"decode_tokens_per_s": 0, "relative_quality": 0.8, "bandwidth_bytes_per_s": 128e9},
    }


def slower_bounds(npu):
    """Bounds that promise 30% too much."""

    def bounds(design):
        found = type(npu)()(design)
        return found | {"decode_tokens_per_s": 1.3 * found["decode_tokens_per_s"]}

    return bounds


def test_screening_needs_no_more_designs_than_the_front_has(fields, tmp_path, npu):
    whole = dse.explore(dse.parse_study(fields | {"budget": 210}, "s"), tmp_path / "a", evaluate=npu, progress=False)
    front = np.unique(whole.pareto[["decode_tokens_per_s", "relative_quality"]].to_numpy(), axis=0)
    config = dse.parse_study(fields | {"budget": len(front), "sampler": "screened"}, "s")
    found = dse.explore(config, tmp_path / "b", evaluate=npu, bounds=slower_bounds(npu), progress=False)
    assert whole.exhausted and len(front) < 80
    assert found.hypervolume["hypervolume"].iloc[-1] == pytest.approx(whole.hypervolume["hypervolume"].iloc[-1])


def test_the_record_tells_how_many_designs_each_level_judged(fields, tmp_path, npu):
    config = dse.parse_study(fields | {"budget": 20, "sampler": "screened"}, "s")
    found = dse.explore(config, tmp_path, evaluate=npu, bounds=slower_bounds(npu), progress=False)
    assert found.counts.levels == {"bound": 210, "short trace": 0}
    lines = map(json.loads, (tmp_path / LOG_NAME).read_text().splitlines())
    batches = [line for line in lines if line["record"] == "batch"]
    assert [batch["levels"] for batch in batches] == [{"bound": 210, "short trace": 0}] * 2


def test_designs_that_cannot_run_or_keep_no_limit_do_not_pass(fields, npu):
    macs = {"matrix.macs": {"type": "categorical", "choices": [4096, 1 << 20]}}
    limit = {"name": "decode_tokens_per_s", "op": ">=", "bound": 100}
    config = dse.parse_study(fields | {"parameters": fields["parameters"] | macs, "constraints": [limit]}, "s")
    problem = prepare(config, npu, slower_bounds(npu))
    found = Screen(problem)(list(problem.space.enumerate()))
    assert {design.npu["matrix.macs"] for design in found.designs} == {4096}
    assert all(row["decode_tokens_per_s"] >= 100 for row in found.rows)


def test_a_large_front_is_thinned_but_keeps_its_ends(fields, npu):
    problem = prepare(dse.parse_study(fields, "s"), npu, slower_bounds(npu))
    found = Screen(problem)(list(problem.space.enumerate()))
    kept = best(found, 12)
    assert len(kept.designs) <= 12 + kept.losses.shape[1]
    assert kept.losses.min(axis=0) == pytest.approx(found.losses.min(axis=0))


def test_plans_with_more_quality_for_their_bits_come_first(fields, npu, schedules):
    problem = prepare(dse.parse_study(fields | {"constraints": []}, "s"), npu, slower_bounds(npu))
    assert len(promising_plans(problem)) == len(problem.space.schedules)
    many = [f"p4:4>{low}@{step}" for low in (2, 3) for step in range(1, 30)]
    quiet = {"quality": [], "constraints": [], "reference_point": None, "schedules": many}
    objectives = [{"name": "decode_tokens_per_s", "direction": "maximize"}]
    problem = prepare(dse.parse_study(fields | quiet | {"objectives": objectives}, "s"), npu, slower_bounds(npu))
    assert {plan.decode[-1].weight_bits for plan in promising_plans(problem)} == {2}
