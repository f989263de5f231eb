"""Units, signs and the mix of workloads, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from dse.objective import METRICS, WorkloadCost, combine, losses, unit_factor, violation
from dse.study import Constraint, Objective
from hwsim.trace import InputError


def cost(weight=1.0, steps=10.0, decode_s=1.0, **changes):
    fields = {"ttft_s": 0.5, "e2e_s": 1.5, "energy_j": 22.0, "dram_bytes": 110.0, "mean_decode_bits": 4.0}
    return WorkloadCost(weight=weight, decode_steps=steps, decode_s=decode_s, **(fields | changes))


def test_one_workload_is_itself():
    assert combine([cost()], "weighted") == {
        "decode_tokens_per_s": 10.0,
        "ttft_s": 0.5,
        "tpot_s": 0.1,
        "e2e_s": 1.5,
        "energy_j_per_token": 2.0,  # 22 J over 10 steps and the prefill's token
        "dram_bytes_per_token": 10.0,
        "mean_decode_bits": 4.0,
    }


def test_a_mix_is_total_tokens_over_total_time():
    # Three requests in four give 10 tokens in 1 s, one gives 50 in 25 s: 80 tokens in 28 s.
    mix = combine([cost(weight=3), cost(weight=1, steps=50.0, decode_s=25.0, mean_decode_bits=2.0)], "weighted")
    assert mix["decode_tokens_per_s"] == pytest.approx(80 / 28)
    assert mix["tpot_s"] == pytest.approx(28 / 80)
    assert mix["mean_decode_bits"] == pytest.approx((30 * 4 + 50 * 2) / 80)
    assert mix["energy_j_per_token"] == pytest.approx(4 * 22 / (3 * 11 + 51))


def test_only_the_ratio_of_weights_matters():
    pair = [cost(weight=2), cost(weight=6, steps=20.0)]
    scaled = [cost(weight=1), cost(weight=3, steps=20.0)]
    assert combine(pair, "weighted") == pytest.approx(combine(scaled, "weighted"))


def test_worst_takes_each_metric_where_it_is_worst():
    mix = combine([cost(), cost(steps=50.0, decode_s=25.0, ttft_s=0.1)], "worst")
    assert mix["decode_tokens_per_s"] == 2.0
    assert mix["ttft_s"] == 0.5


@pytest.mark.parametrize(
    ("op", "value", "expected"), [(">=", 15.0, 0.25), (">=", 25.0, -0.25), ("<=", 25.0, 0.25), ("<=", 20.0, 0.0)]
)
def test_violation_is_the_share_of_the_limit_missed(op, value, expected):
    assert violation(Constraint(name="decode_tokens_per_s", op=op, bound=20), value) == expected


def test_violation_of_a_limit_of_zero_is_absolute():
    assert violation(Constraint(name="area_mm2", op="<=", bound=0), 3.0) == 3.0


def test_losses_turn_the_sign_of_what_is_maximised():
    objectives = [Objective(name="area_mm2", direction="minimize"), Objective(name="quality", direction="maximize")]
    assert losses(objectives, {"area_mm2": 2.0, "quality": 3.0}) == [2.0, -3.0]


@pytest.mark.parametrize(
    ("name", "unit", "factor"),
    [("ttft_s", "ms", 1e-3), ("bandwidth_bytes_per_s", "GB/s", 1e9), ("memory.bandwidth_bytes_per_s", "GB/s", 1e9)],
)
def test_units(name, unit, factor):
    assert unit_factor(name, unit) == factor


def test_a_parameter_without_other_units_says_so():
    with pytest.raises(InputError, match=r"matrix\.macs: unit = 'kilo'.*leave unit out"):
        unit_factor("matrix.macs", "kilo")


def test_every_metric_lists_its_own_unit_first():
    assert all(next(iter(metric.units.values())) == 1.0 for metric in METRICS.values())
