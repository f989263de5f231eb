"""The setting resolves by the study alone, no sampler repeats a design, a stopped run goes on as another would."""

from __future__ import annotations

import importlib.util

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dse
from dse import proposals
from dse.samplers import choose_sampler, make_sampler
from hwsim.trace import InputError

STAND_IN = ("random", "tpe", "nsga2", "nsga3", "screened")


@pytest.fixture(autouse=True)
def few_proposals(monkeypatch):
    """The closed form is evaluated one by one, so fewer designs are screened than in earnest."""
    for name, value in (("DRAWS", 96), ("GENERATIONS", 3), ("PROMOTED", 12), ("MAX_LISTED", 50)):
        monkeypatch.setattr(proposals, name, value)


class StopError(Exception):
    """Ends a run from inside the evaluator, as a crash would."""


def optimistic(npu):
    """Bounds that are 10% faster than the closed form."""

    def bounds(design):
        found = type(npu)()(design)
        return found | {"decode_tokens_per_s": 1.1 * found["decode_tokens_per_s"]}

    return bounds


@pytest.fixture
def study(study_fields):
    def study(**changes):
        return dse.parse_study(study_fields | changes, "study.yaml")

    return study


@pytest.fixture
def continuous(study_fields):
    return {
        "parameters": study_fields["parameters"]
        | {
            "memory.bandwidth_bytes_per_s": {"type": "log", "low": "16e9", "high": "128e9"},
            "matrix.macs": {"type": "int", "low": 4096, "high": 16384, "step": 64},
            "sfu.lanes": {"type": "int", "low": 1, "high": 9, "when": {"schedule.last_decode_bits": 3}},
        }
    }


@pytest.mark.parametrize(
    ("size", "budget", "known", "chosen"),
    [
        (84, 84, {}, "exhaustive"),
        (84, None, {}, "exhaustive"),
        (184, None, {"bounded": True, "screened": True}, "exact"),
        (184, 100, {"bounded": True, "screened": True}, "screened"),
        (184, 100, {"bounded": True}, "exact"),
        (None, None, {"bounded": True, "screened": True}, "screened"),
        (None, 5000, {"screened": True}, "screened"),
        (None, 1000, {}, "tpe"),
        (None, 1001, {}, "nsga2"),
        (None, 201, {"slow": True}, "tpe"),
    ],
)
def test_auto_goes_by_size_budget_and_what_is_known_beforehand(size, budget, known, chosen):
    assert choose_sampler("auto", size, budget, **({"bounded": False} | known)) == chosen


def test_a_slow_evaluation_takes_a_gaussian_process_where_it_is_installed(monkeypatch):
    found = {"torch": True, "scipy": True}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    assert choose_sampler("auto", None, 200, bounded=False, slow=True) == "gp"
    del found["torch"]
    assert choose_sampler("auto", None, 200, bounded=False, slow=True) == "tpe"
    with pytest.raises(InputError, match="sampler = 'gp': needs torch installed; pip install them, or use tpe"):
        choose_sampler("gp", None, 200, bounded=False)
    with pytest.raises(InputError, match="sampler = 'gp': needs torch installed"):  # of a record from elsewhere
        make_sampler("gp", 0, 11, 200)


def test_screening_without_anything_to_screen_by_is_refused(study, npu, tmp_path):
    with pytest.raises(InputError, match="sampler = 'screened': nothing is known before it; use auto or tpe"):
        dse.explore(study(sampler="screened"), tmp_path, evaluate=npu, progress=False)
    with pytest.raises(InputError, match="sampler = 'screened': quality is measured live"):
        choose_sampler("screened", 99, 9, bounded=True, slow=True)


@pytest.mark.parametrize("sampler", ["nsga3", "screened"])
def test_no_sampler_repeats_a_design_or_leaves_the_space(study, continuous, tmp_path, npu, sampler):
    config = study(sampler=sampler, budget=40, **continuous)
    found = dse.explore(config, tmp_path, evaluate=npu, bounds=optimistic(npu), progress=False)
    assert found.sampler == sampler
    assert len(npu.calls) == len(set(npu.calls)) == len(found.trials) == 40
    trials = found.trials
    assert trials["memory.bandwidth_bytes_per_s"].between(16e9, 128e9).all()
    assert ((trials["matrix.macs"] - 4096) % 64 == 0).all() and trials["matrix.macs"].between(4096, 16384).all()
    acts = trials["schedule"].str.endswith("3") | trials["schedule"].str.contains(">3@")
    assert trials.loc[acts, "sfu.lanes"].between(1, 9).all() and trials.loc[~acts, "sfu.lanes"].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", STAND_IN)
def test_every_sampler_exhausts_a_small_space(study, tmp_path, npu, sampler):
    config = study(sampler=sampler, budget=500)
    found = dse.explore(config, tmp_path, evaluate=npu, bounds=optimistic(npu), progress=False)
    assert len(npu.calls) == len(set(npu.calls)) == 4 * 3 * 7
    assert found.exhausted


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["nsga3", "screened"])
def test_a_stopped_run_goes_on_to_the_same_trials(study, continuous, tmp_path, npu, sampler):
    config = study(sampler=sampler, budget=33, **continuous)

    def run(out, counter, after):
        def evaluate(design):
            if len(counter.calls) >= after:
                raise StopError
            return counter(design)

        return dse.explore(config, out, evaluate=evaluate, bounds=optimistic(npu), progress=False)

    whole = run(tmp_path / "whole", npu, 99)
    pieces = type(npu)()
    for after in (3, 11, 12, 25, 32):
        with pytest.raises(StopError):
            run(tmp_path / "pieces", pieces, after)
    resumed = run(tmp_path / "pieces", pieces, 99)
    assert len(pieces.calls) == len(set(pieces.calls)) == 33
    pd.testing.assert_frame_equal(resumed.trials, whole.trials)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(STAND_IN), st.integers(0, 1000), st.integers(1, 7))
def test_any_seed_and_batch_size_repeat_nothing_and_repeat_themselves(
    study, continuous, tmp_path_factory, npu, sampler, seed, batch
):
    config = study(sampler=sampler, budget=24, seed=seed, batch_size=batch, **continuous)
    tables = []
    for _ in range(2):
        counter = type(npu)()
        out = tmp_path_factory.mktemp("run")
        tables.append(dse.explore(config, out, evaluate=counter, bounds=optimistic(npu), progress=False).trials)
        assert len(counter.calls) == len(set(counter.calls)) == 24
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("scipy") is None, reason="needs torch, scipy"
)
def test_a_gaussian_process_repeats_no_design(study, tmp_path, npu):
    objectives = [{"name": "decode_tokens_per_s", "direction": "maximize"}]
    found = dse.explore(study(sampler="gp", budget=14, objectives=objectives), tmp_path, evaluate=npu, progress=False)
    assert len(npu.calls) == len(set(npu.calls)) == len(found.trials) == 14
