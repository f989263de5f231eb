"""Sobol's indices: a textbook function, a known NPU, and what is varied around a design."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import dse
from dse.factors import Factor, factors_around, factors_over_ranges
from dse.problem import prepare
from dse.sensitivity import caution, sobol_indices, sobol_points
from dse.space import Axis
from hwsim.trace import InputError


def indices_of(function, factors, points):
    cube = sobol_points(factors, points, seed=1)
    values = np.broadcast_to(function(np.moveaxis(cube, -1, 0)), cube.shape[:2]).T[:, None]
    return sobol_indices(values[0], values[1], values[2:], seed=1)


def test_ishigamis_function_has_its_known_indices():
    def ishigami(quantiles):
        x = np.pi * (2 * quantiles - 1)
        return np.sin(x[0]) + 7 * np.sin(x[1]) ** 2 + 0.1 * x[2] ** 4 * np.sin(x[0])

    found = indices_of(ishigami, 3, 1024)
    np.testing.assert_allclose(found[0, 0, 0], [0.3139, 0.4424, 0.0], atol=0.03)
    np.testing.assert_allclose(found[1, 0, 0], [0.5576, 0.4424, 0.2437], atol=0.03)
    estimate, low, high = found[:, 0], found[:, 1], found[:, 2]
    assert (low < estimate).all() and (estimate < high).all()
    assert (high - low < 0.2).all()


def test_an_additive_function_has_equal_first_and_total_indices_and_a_constant_has_none():
    found = indices_of(lambda u: 3 * u[0] + u[1], 2, 256)
    np.testing.assert_allclose(found[:, 0, 0], [[0.9, 0.1], [0.9, 0.1]], atol=0.01)
    assert not indices_of(lambda _: 4.2, 2, 16).any()


def test_what_wide_intervals_do_not_say_is_said():
    def table(low, high):
        rows = {"total_order_ci_low": [0.0, low], "total_order_ci_high": [0.01, high], "n": [64, 64]}
        return pd.DataFrame(rows)

    assert caution(table(0.71, 0.8)) is None
    assert caution(table(0.5, 0.74)) == (
        "the widest 95% interval of a total index is +-0.12 with 64 points: smaller differences between shares say "
        "nothing; --points 256 makes intervals half as wide"
    )


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        (Axis("a", "a", ("x", "y", "z"), ordered=False), ["x", "x", "y", "z"]),
        (Axis("a", "a", low=5, high=6, integer=True), [5, 5, 6, 6]),
        (Axis("a", "a", low=1.0, high=3.0), [1.0, 1.5, 2.0, 2.75]),
        (Axis("a", "a", low=1.0, high=16.0, log=True), [1.0, 2.0, 4.0, 11.3137]),
    ],
)
def test_every_choice_and_every_integer_has_the_same_share(axis, values):
    found = [Factor("a", axis).place(quantile) for quantile in (0.0, 0.25, 0.5, 0.875)]
    assert found == [pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for value in values]


def test_an_integer_range_of_any_length_needs_no_list():
    factor = Factor("a", Axis("a", "a", low=0, high=1 << 40, integer=True))
    assert factor.place(0.5) == 1 << 39 and factor.ends == (0, 1 << 40)


PARAMETERS = {
    "memory.bandwidth_bytes_per_s": {"type": "log", "low": "16e9", "high": "128e9"},
    "matrix.macs": {"type": "categorical", "choices": [4096, 8192, 16384]},
    "control.prefetch": {"type": "categorical", "choices": ["none", "planned"]},
    "buffers.kv_kib": {"type": "int", "low": 64, "high": 1024, "when": {"control.prefetch": "planned"}},
}


@pytest.fixture
def study(study_fields):
    area = [{"name": "area_mm2", "op": "<=", "bound": 99}]
    fields = study_fields | {"parameters": PARAMETERS, "sampler": "random", "constraints": area}
    return dse.parse_study(fields, "study.yaml")


KEPT: dict[str, dse.Exploration] = {}
"""Explored once for all tests that only read it."""


@pytest.fixture
def found(study, tmp_path, npu):
    if not KEPT:
        KEPT["found"] = dse.explore(study, tmp_path / "out", evaluate=npu, progress=False)
    return KEPT["found"]


def test_around_a_design_the_parameters_that_act_and_the_assumed_numbers_vary(study, npu):
    problem = prepare(study, npu)
    centre = problem.space.at(0.0, next(iter(problem.space.schedules.values())))
    factors, held = factors_around(problem, centre, 0.1)
    by_path = {factor.path: factor for factor in factors}
    assert by_path["memory.bandwidth_bytes_per_s"].ends == (16e9 * 0.9, 16e9 * 1.1)
    assert by_path["matrix.macs"].axis.all_values() == (4096, 8192)
    assert by_path["matrix.pipeline_cycles"].ends == (15, 17) and by_path["matrix.pipeline_cycles"].assumed
    # A rank less is none, which no memory has: only more is tried.
    assert by_path["memory.timing.ranks"].ends == (1, 2)
    assert not by_path["matrix.macs"].assumed
    # With 2 rows an array has 1 core or 2; the fewer rows of fewer MACs would not do.
    assert by_path["matrix.cores"].ends == (1, 2)
    assert held == {"control.prefetch": "nothing lies near none"}
    # The parameter does not act here, so that the file's own value counts, which is assumed.
    assert by_path["buffers.kv_kib"].assumed and by_path["buffers.kv_kib"].value == 512


def test_what_does_not_go_together_is_not_varied_together(study_fields, npu):
    macs = {"type": "categorical", "choices": [2048, 4096]}
    problem = prepare(dse.parse_study(study_fields | {"parameters": {"matrix.macs": macs}}, "study.yaml"), npu)
    centre = problem.space.at(1.0, next(iter(problem.space.schedules.values())))
    factors, held = factors_around(problem, centre, 0.1)
    assert "matrix.cores" not in {factor.path for factor in factors}
    assert held == {"matrix.cores": "not every value goes with every one of matrix.macs"}


def test_over_the_ranges_parameters_and_schedules_vary(study, npu):
    problem = prepare(study, npu)
    factors, held = factors_over_ranges(problem)
    assert [factor.path for factor in factors] == [*PARAMETERS, "schedule"]
    assert factors[-1].axis.all_values() == tuple(problem.space.schedules)
    assert held == {}


def test_a_bandwidth_bound_speed_belongs_to_the_bandwidth_and_an_area_to_the_macs(found, npu):
    number = int(found.pareto["number"].iloc[-1])
    result = dse.measure_sensitivity(found, design=number, points=32, evaluate=npu, progress=False)
    total = result.table.set_index(["metric", "parameter"])["total_order"]
    # 16 GB/s at the fewest: a step always waits for its bytes where MACs are ample.
    assert total["decode_tokens_per_s", "memory.bandwidth_bytes_per_s"] == pytest.approx(1, abs=0.1)
    assert total["area_mm2", "matrix.macs"] == pytest.approx(1, abs=0.1)
    assert total["area_mm2", "memory.timing.t_rtrs_ns"] == 0
    speed = result.table[result.table["metric"] == "decode_tokens_per_s"].iloc[0]
    exact = found.trials.set_index("number").loc[number, "decode_tokens_per_s"]
    assert speed["metric_at_design"] == pytest.approx(exact)
    assert 0.9 * exact < speed["metric_low"] < exact < speed["metric_high"] < 1.1 * exact
    factors = result.table["parameter"].nunique()
    assert result.simulated == 32 * (factors + 2)


def test_over_the_ranges_quality_belongs_to_the_schedule(found, npu, tmp_path):
    result = dse.measure_sensitivity(found, points=32, evaluate=npu, progress=False)
    total = result.table.set_index(["metric", "parameter"])["total_order"]
    assert total["relative_quality", "schedule"] == pytest.approx(1, abs=0.1)
    assert total["relative_quality", "matrix.macs"] == 0
    # The bandwidth is chosen, not simulated.
    assert "bandwidth_bytes_per_s" not in set(result.table["metric"])
    path = result.write(tmp_path)
    assert path.name == "sensitivity-ranges.csv" and len(pd.read_csv(path)) == len(result.table)


def test_the_same_seed_gives_the_same_table(found, npu):
    tables = [dse.measure_sensitivity(found, points=8, evaluate=npu, progress=False).table for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 48}, r"points = 48: must be a power of two, at least 8"),
        ({"around": 1.5}, r"around = 1\.5: must be between 0 and 1"),
        ({"design": 999}, r"no trial 999 among the 30 of the exploration"),
    ],
)
def test_a_bad_request_is_one_clear_line(found, npu, options, message):
    with pytest.raises(InputError, match=message):
        dse.measure_sensitivity(found, evaluate=npu, progress=False, **options)


def test_designs_within_the_ranges_that_cannot_run_are_counted(study_fields, tmp_path, npu):
    macs = {"type": "categorical", "choices": [4096, 1 << 17]}
    study = dse.parse_study(study_fields | {"parameters": {"matrix.macs": macs}, "budget": 30}, "study.yaml")
    found = dse.explore(study, tmp_path / "out", evaluate=npu, progress=False)
    broken = int(found.trials["number"][found.trials["error"].notna()].iloc[0])
    with pytest.raises(InputError, match=rf"trial {broken} cannot run: matrix\.macs = 131072: too many"):
        dse.measure_sensitivity(found, design=broken, evaluate=npu, progress=False)
    with pytest.raises(InputError, match=r"\d+ of \d+ designs within the ranges cannot run \(matrix\.macs = 131072"):
        dse.measure_sensitivity(found, evaluate=npu, progress=False)
