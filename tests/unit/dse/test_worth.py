"""What binds and what things are worth: brute force on small tables, closed forms on a known NPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.study import Constraint
from dse.worth import exchange, exchange_rates, exchanges, relaxations, staircase, stopped

WEIGHTS = 1e9  # of the closed-form NPU


def limit(name, op, bound):
    return Constraint(name=name, op=op, bound=bound)


@pytest.fixture
def explore(study_fields, tmp_path, npu):
    def explore(**changes):
        study = dse.parse_study(study_fields | {"budget": 500} | changes, "study.yaml")
        return dse.explore(study, tmp_path / "out", evaluate=npu, progress=False)

    return explore


LIMITS = [
    {"name": "area_mm2", "op": "<=", "bound": 9},
    {"name": "decode_tokens_per_s", "op": ">=", "bound": 60},
]


def test_designs_are_counted_by_the_limit_that_stops_them(explore):
    found = explore(constraints=LIMITS)
    trials = found.trials
    large, slow = trials["area_mm2"] > 9, trials["decode_tokens_per_s"] < 60
    table = stopped(found)
    assert table["stopped"].tolist() == [large.sum(), slow.sum()]
    assert table["alone"].tolist() == [(large & ~slow).sum(), (slow & ~large).sum()]
    assert table["share"].tolist() == [large.mean(), slow.mean()]
    assert (table["n"] == len(trials)).all()
    near = (found.pareto["decode_tokens_per_s"] <= 60 * 1.01).sum()
    assert table["tight"].tolist() == [0, near]


def test_a_shadow_price_is_the_best_within_the_loosened_limit_less_the_best_within_it(explore):
    found = explore(constraints=LIMITS)
    trials = found.trials
    for row in relaxations(found, shares=(0.05, 1.0)).to_dict("records"):
        share = row["relaxed_by"]
        loose = {"area": 9.0, "speed": 60.0}
        if row["constraint"].startswith("area"):
            loose["area"] *= 1 + share
            assert row["limit"] == pytest.approx(loose["area"])
        else:
            loose["speed"] *= 1 - share
        now = trials[(trials["area_mm2"] <= 9) & (trials["decode_tokens_per_s"] >= 60)]
        then = trials[(trials["area_mm2"] <= loose["area"]) & (trials["decode_tokens_per_s"] >= loose["speed"])]
        name = row["objective"]
        best = "min" if name == "bandwidth_bytes_per_s" else "max"
        sign = -1 if best == "min" else 1
        assert row["added"] == len(then) - len(now)
        assert row["gain"] == pytest.approx(sign * (getattr(then[name], best)() - getattr(now[name], best)()))
        assert row["volume_gain"] >= 0 and row["exact"]


def test_a_price_of_a_limit_on_quality_is_a_lower_bound_where_schedules_were_left_out(explore):
    found = explore()
    table = relaxations(found).drop_duplicates("constraint")
    assert found.counts.excluded_schedules > 0
    assert table["exact"].tolist() == [False]


POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=40)
@given(points=POINTS)
def test_a_staircase_gives_the_best_of_every_budget(points):
    paid, bought = np.array(points, dtype=float).T
    steps = staircase(paid, bought)
    assert (np.diff(paid[steps]) > 0).all() and (np.diff(bought[steps]) > 0).all()
    for budget in range(1, 10):
        best = bought[paid <= budget].max(initial=0)
        assert bought[steps][paid[steps] <= budget].max(initial=0) == best


def test_a_gigabyte_per_second_buys_what_a_step_reads_at_the_fewest_bits_allowed(explore):
    # With ample MACs a step takes 1e9 weights x bits / 8 / bandwidth; at full precision 0.5 tokens/s per GB/s.
    macs = {"type": "categorical", "choices": [1 << 16]}
    bandwidth = {"type": "categorical", "choices": ["8e9", "16e9", "24e9", "32e9"]}
    found = explore(parameters={"memory.bandwidth_bytes_per_s": bandwidth, "matrix.macs": macs})
    fewest = found.trials["mean_decode_bits"].min()
    one = exchange(found, "bandwidth_bytes_per_s", "decode_tokens_per_s")
    assert len(one.steps) == 4 and one.exact and one.n == len(found.trials)
    for first, last in ((0, 3), (0, 1), (2, 3)):
        assert one.rate(first, last) == pytest.approx(8 / (WEIGHTS * fewest))
    full = exchange(found, "bandwidth_bytes_per_s", "decode_tokens_per_s", limit("relative_quality", ">=", 1))
    assert full.rate() == pytest.approx(8 / (WEIGHTS * 16)) and full.n == 4


def test_rates_are_the_finite_differences_of_the_best_designs(explore):
    found = explore()
    table = exchange_rates(found)
    assert set(table["bought"]) == {"decode_tokens_per_s", "mean_decode_bits"}
    for row, one in zip(table.to_dict("records"), exchanges(found), strict=True):
        kept = found.trials[found.trials["feasible"]]
        if one.fixed is not None:
            kept = kept[kept[one.fixed.name] >= one.fixed.limit]
        cheapest = kept[kept["bandwidth_bytes_per_s"] == kept["bandwidth_bytes_per_s"].min()]
        best = kept[row["bought"]].max()
        enough = kept[kept[row["bought"]] == best]["bandwidth_bytes_per_s"].min()
        rate = (best - cheapest[row["bought"]].max()) / (enough - cheapest["bandwidth_bytes_per_s"].min())
        assert row["rate"] == pytest.approx(rate)
        assert (row["paid_low"], row["paid_high"]) == (cheapest["bandwidth_bytes_per_s"].min(), enough)
        assert row["n"] == len(kept) and row["exact"]


def test_rates_of_a_sample_are_not_exact_and_a_fixed_bandwidth_has_none(explore, study_fields, tmp_path, npu):
    found = explore(sampler="random", budget=30)
    assert not exchange_rates(found)["exact"].any()
    parameters = {"matrix.macs": study_fields["parameters"]["matrix.macs"]}
    study = dse.parse_study(study_fields | {"parameters": parameters}, "study.yaml")
    fixed = dse.explore(study, tmp_path / "fixed", evaluate=npu, progress=False)
    assert exchange_rates(fixed).empty
