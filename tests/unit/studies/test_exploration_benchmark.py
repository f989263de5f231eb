"""The benchmark's parts plug in by name, its spaces are those of kept studies, and its truth is brute force's."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from dse.objective import losses, violations
from dse.pareto import hypervolume
from dse.problem import prepare
from dse.sensitivity import DEFAULT_POINTS
from dse.space import Design
from hwsim.trace import Schedule, read_json
from studies.exploration_benchmark import efficiency, run, sensitivity, truth
from studies.exploration_benchmark.spaces import SPACES, BenchmarkSpace, read_space
from studies.exploration_benchmark.truth import Truth, find_truth

EXAMPLE = "studies/codesign/example/pareto.csv"


def tiny(problem):
    """A few designs of the shipped study."""
    study = problem.study
    choices = {
        "memory.bandwidth_bytes_per_s": [2e9, 4e9, 8e9, 16e9],
        "matrix.macs": [256, 1024],
        "buffers.weight_kib": [64],
        "buffers.activation_kib": [64],
        "sfu.lanes": [1, 4],
    }
    parameters = {
        path: type(study.parameters[path])(type="categorical", choices=values) for path, values in choices.items()
    }
    schedules = tuple(map(Schedule.from_label, ("p4:4", "p3:2", "p5:3", "p4:4>3@16")))
    return prepare(study.model_copy(update={"parameters": parameters, "schedules": schedules}))


@pytest.fixture
def shipped(tmp_path):
    return prepare(read_space("shipped", tmp_path))


def test_parts_run_by_name_and_keep_what_other_parts_left(tmp_path, monkeypatch):
    class Part:
        def run(self, folder, *, progress):
            (folder / "ran.csv").write_text("x\n1\n")
            return {"value": 7}

    asked = []
    monkeypatch.setattr(run, "_load", lambda name: asked.append(name) or Part())
    (tmp_path / run.NUMBERS_FILE).write_text(json.dumps({"parts": {"kills": {"value": 1}}}))
    assert run.run_exploration_benchmark(run.Settings(tmp_path, ("efficiency",), progress=False)) == []
    assert asked == ["efficiency"]
    assert read_json(tmp_path / run.NUMBERS_FILE)["parts"] == {"efficiency": {"value": 7}, "kills": {"value": 1}}
    assert read_json(tmp_path / run.MANIFEST_FILE)["parts"]["efficiency"]["seconds"] >= 0


def test_the_shipped_space_gives_the_kept_metrics_of_the_shipped_study(shipped):
    table = pd.read_csv(EXAMPLE).iloc[[0, 60, 120]]
    for row in table.to_dict("records"):
        npu = {path: row[path] for path in shipped.study.parameters}
        found = shipped.metrics(Design(npu, Schedule.from_label(row["schedule"])))
        names = ("decode_tokens_per_s", "ttft_s", "energy_j_per_token", "area_mm2", "relative_quality")
        assert [found[name] for name in names] == pytest.approx([row[name] for name in names], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("vicuna", 21_525), ("large", 924_000), ("shipped", None)])
def test_spaces_are_as_large_as_their_titles_say(tmp_path, name, size):
    assert prepare(read_space(name, tmp_path)).space.size() == size
    title = next(space.title for space in SPACES if space.name == name)
    assert size is None or f"{size:,}" in title


@pytest.mark.slow
def test_truth_is_that_of_simulating_every_design(shipped, tmp_path):
    problem, space = tiny(shipped), BenchmarkSpace("tiny", "tiny", 2000, 0.95)
    found = find_truth(problem, space)
    points, bandwidths = [], []
    for design in problem.space.enumerate():
        row = {**design.npu, **problem.metrics(design)}
        if max(violations(problem.study.constraints, row).values()) <= 0:
            points.append(losses(problem.study.objectives, row))
            if row["decode_tokens_per_s"] >= 2000 and row["relative_quality"] >= 0.95:
                bandwidths.append(row["bandwidth_bytes_per_s"])
    assert found.designs == problem.space.size()
    assert found.hypervolume == pytest.approx(hypervolume(np.array(points), found.reference))
    assert found.least_bandwidth == min(bandwidths)
    assert found.ceilings[200] == pytest.approx(1)
    assert found.ceilings[25] <= truth.best_of_few(found, 25) <= 1 + 1e-12
    again = Truth.from_json(json.loads(json.dumps(found.to_json())))
    assert again.summary() == found.summary()


@pytest.mark.slow
def test_a_continuous_bandwidth_is_refined_near_the_front(shipped, monkeypatch):
    small = tiny(shipped)
    bandwidth = shipped.study.parameters["memory.bandwidth_bytes_per_s"]
    parameters = {**small.study.parameters, "memory.bandwidth_bytes_per_s": bandwidth}
    problem = prepare(small.study.model_copy(update={"parameters": parameters}))
    monkeypatch.setattr(truth, "FINE_POINTS", 65)
    found = find_truth(problem, BenchmarkSpace("tiny", "tiny", 2000, 0.95))
    assert 0.8 < found.coarse_share < 1


@pytest.mark.slow
def test_every_sampler_is_followed_and_finished_ones_are_kept(shipped, tmp_path, monkeypatch):
    problem, space = tiny(shipped), BenchmarkSpace("tiny", "tiny", 2000, 0.95)
    monkeypatch.setattr(efficiency, "SEEDS", (0, 1))
    monkeypatch.setattr(efficiency, "BUDGETS", dict.fromkeys(efficiency.SAMPLERS, 40))
    found = find_truth(problem, space)
    for sampler in efficiency.SAMPLERS:
        runs = efficiency._kept_runs(tmp_path, problem, space, found, sampler, progress=False)
        assert [one.seed for one in runs] == [0, 1]
        for one in runs:
            assert len(one.recovered) == 40 and one.repeated == 0
            assert all(b >= a for a, b in zip(one.recovered, one.recovered[1:], strict=False))
            assert one.recovered[-1] <= 1 + 1e-12
        monkeypatch.setattr(efficiency, "run_sampler", None)
        assert efficiency._kept_runs(tmp_path, problem, space, found, sampler, progress=False) == runs
        monkeypatch.undo()
        monkeypatch.setattr(efficiency, "SEEDS", (0, 1))
        monkeypatch.setattr(efficiency, "BUDGETS", dict.fromkeys(efficiency.SAMPLERS, 40))
        rows = [efficiency._row(space, sampler, one, found) for one in runs]
        assert efficiency._medians(rows)["n"] == 2
        assert efficiency._curve(space, sampler, runs)[-1]["simulations"] == 40


def test_sobols_indices_are_measured_against_variances_that_are_known():
    points = np.random.default_rng(0).random((20_000, sensitivity.FACTORS))
    for name, function in sensitivity.FUNCTIONS.items():
        values, totals = function(points), function.totals()
        assert totals.sum() >= 1 - 1e-12 and not totals[4:].any()
        # What the first number explains alone, by the means of its groups: part of its total index, or all of it.
        groups = (points[:, 0] * 30).astype(int)
        means = np.bincount(groups, values) / np.bincount(groups)
        alone = means[groups].var() / values.var()
        expected = {"Ishigami": 0.3139}.get(name, totals[0])
        assert alone == pytest.approx(expected, abs=0.02), name


def test_an_estimate_that_takes_the_default_number_of_points_is_near_what_is_known():
    found = sensitivity.measure(DEFAULT_POINTS, seed=0)
    for name, (estimate, low, high) in found.items():
        totals = sensitivity.FUNCTIONS[name].totals()
        np.testing.assert_allclose(estimate, totals, atol=0.08)
        assert ((low <= totals) & (totals <= high))[totals > 0].all()
