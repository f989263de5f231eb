"""Importance of decisions: exact shares where everything was simulated, none by chance, and its bias said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.importance import decisions, importance, is_biased, variance_share
from hwsim.trace import InputError


def test_shares_of_a_full_factorial_of_an_additive_function_are_those_of_its_variance():
    a, b = (values.ravel() for values in np.meshgrid(np.arange(40), np.arange(50)))
    values = 3.0 * a + 1.0 * b
    variances = 9.0 * np.var(np.arange(40)), np.var(np.arange(50))
    for groups, variance in zip((a, b), variances, strict=True):
        # Beyond chance: (k - 1) of the n - k free directions are taken off.
        n, k = len(values), len(np.unique(groups))
        share = variance / sum(variances)
        assert variance_share(values, groups) == pytest.approx(share - (k - 1) * (1 - share) / (n - k))


def test_groups_that_do_not_matter_have_no_share_on_average():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    shares = [variance_share(values, rng.integers(20, size=400)) for _ in range(50)]
    # The plain correlation ratio would be 19/399 = 4.8%.
    assert np.mean(shares) < 0.015


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    seed=st.integers(0, 99),
    scale=st.floats(0.1, 100),
    shift=st.floats(-1e3, 1e3),
)
def test_a_share_lies_between_0_and_1_and_does_not_depend_on_units(values, seed, scale, shift):
    numbers = np.array(values)
    groups = np.random.default_rng(seed).integers(3, size=len(numbers))
    share = variance_share(numbers, groups)
    assert 0 <= share <= 1
    if np.ptp(numbers) > 1e-3 * np.abs(numbers).max():
        assert variance_share(scale * numbers + shift, groups) == pytest.approx(share, abs=1e-6)


def test_a_value_that_never_varies_is_explained_by_nothing():
    assert variance_share(np.full(10, 7.1), np.arange(10) % 2) == 0.0


@pytest.fixture
def whole(study_fields, tmp_path, npu):
    study = dse.parse_study(study_fields | {"budget": 500}, "study.yaml")
    return dse.explore(study, tmp_path / "whole", evaluate=npu, progress=False)


def test_where_everything_was_simulated_shares_are_certain_and_unbiased(whole):
    table = importance(whole)
    assert not is_biased(whole)
    assert (table["ci_low"] == table["share"]).all() and (table["ci_high"] == table["share"]).all()
    assert (table["n"] == len(whole.trials)).all()
    rows = table.set_index(["metric", "parameter"])["share"]
    assert rows["bandwidth_bytes_per_s", "memory.bandwidth_bytes_per_s"] == pytest.approx(1)
    assert rows["relative_quality", "schedule"] == pytest.approx(1)
    assert rows["relative_quality", "matrix.macs"] == 0
    # The most important decision of each objective comes first, objectives in their order.
    firsts = table.drop_duplicates("metric")
    assert firsts["metric"].tolist() == [objective.name for objective in whole.study.objectives]
    assert firsts["parameter"].tolist()[1:] == ["schedule", "memory.bandwidth_bytes_per_s"]


def test_shares_of_a_sample_have_intervals_and_a_chosen_one_is_biased(study_fields, tmp_path, npu):
    fields = study_fields | {"budget": 16}
    for sampler, biased in (("random", False), ("tpe", True)):
        study = dse.parse_study(fields | {"sampler": sampler}, "study.yaml")
        found = dse.explore(study, tmp_path / sampler, evaluate=npu, progress=False)
        assert is_biased(found) == biased
        table = importance(found)
        between = table[(table["share"] > 0.05) & (table["share"] < 0.95)]
        assert (between["ci_low"] < between["share"]).all() and (between["ci_high"] > between["share"]).all()


def test_what_is_off_is_a_group_of_its_own_and_many_values_are_cut(whole):
    trials = pd.DataFrame({"schedule": None, "a": [1.0, 2.0, np.nan, np.nan], "b": [[2, 3], [2, 3], [4], [4]]})
    study = whole.study.model_copy(update={"parameters": {"a": None, "b": None}})
    assert {name: codes.tolist() for name, codes in decisions(trials, study).items()} == {
        "a": [0, 1, 2, 2],
        "b": [0, 0, 1, 1],
    }
    many = pd.DataFrame({"schedule": None, "a": np.arange(1200.0), "b": 1})
    found = decisions(many, study)
    assert list(found) == ["a"]
    assert np.bincount(found["a"]).tolist() == [100] * 12


def test_too_few_designs_are_refused(study_fields, tmp_path, npu):
    study = dse.parse_study(study_fields | {"budget": 2}, "study.yaml")
    found = dse.explore(study, tmp_path, evaluate=npu, progress=False)
    with pytest.raises(InputError, match="importance: 2 designs could be simulated; it needs at least 3"):
        importance(found)
