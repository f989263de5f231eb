"""Exact shadow prices equal those of exploring everything."""

from __future__ import annotations

import pandas as pd
import pytest

import dse
from dse.prices import loosened, shadow_prices
from dse.worth import relaxations
from hwsim.trace import InputError

BANDWIDTH = "memory.bandwidth_bytes_per_s"


@pytest.fixture
def fields(study_fields):
    choices = [f"{8 + 4 * step}e9" for step in range(12)]
    return study_fields | {
        "quality": [],
        "schedules": ["p4:2", "p4:4", "p4:4>2@8"],
        "workloads": [{"model": "mobilellama-1.4b", "prompt_tokens": 20, "decode_tokens": 16}],
        "parameters": {
            BANDWIDTH: {"type": "categorical", "choices": choices},
            "matrix.macs": {"type": "categorical", "choices": [1024, 4096]},
        },
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "mean_decode_bits", "direction": "maximize"},
        ],
        "constraints": [{"name": "bandwidth_bytes_per_s", "op": "<=", "bound": 30, "unit": "GB/s"}],
        "reference_point": {"decode_tokens_per_s": 0, "mean_decode_bits": 0},
        "budget": None,
        "sampler": "exact",
    }


@pytest.mark.slow
def test_prices_of_a_pruned_space_are_those_of_simulating_all_of_it(fields, tmp_path):
    dse.explore(dse.parse_study(fields, "study.yaml"), tmp_path / "exact", progress=False)
    prices = shadow_prices(tmp_path / "exact", shares=(0.05, 0.2), progress=False)
    assert prices["exact"].all()
    everything = fields | {"constraints": [], "sampler": "random"}
    whole = dse.explore(dse.parse_study(everything, "study.yaml"), tmp_path / "all", progress=False)
    speeds = {
        limit: whole.trials.query(f"bandwidth_bytes_per_s <= {limit}")["decode_tokens_per_s"].max()
        for limit in (30e9, 31.5e9, 36e9)
    }
    by = prices.set_index(["relaxed_by", "objective"])
    # Bandwidths are 28, 32 and 36 GB/s: a twentieth more admits none of them, a fifth more the last.
    assert by.loc[(0.05, "decode_tokens_per_s"), "gain"] == 0 == speeds[31.5e9] - speeds[30e9]
    assert by.loc[(0.2, "decode_tokens_per_s"), "gain"] == pytest.approx(speeds[36e9] - speeds[30e9])
    assert by.loc[(0.2, "decode_tokens_per_s"), "limit"] == pytest.approx(36e9)
    assert by.loc[(0.2, "mean_decode_bits"), "gain"] == 0
    assert by.loc[(0.2, "decode_tokens_per_s"), "volume_gain"] > 0
    # The record of the pruned exploration alone cannot see beyond the limit, and says so.
    assert not relaxations(dse.load_exploration(tmp_path / "exact"), shares=(0.2,))["exact"].any()
    # Called again it reads what is there.
    pd.testing.assert_frame_equal(shadow_prices(tmp_path / "exact", shares=(0.05, 0.2), progress=False), prices)


def test_a_limit_is_loosened_outwards_on_either_side(fields):
    two = [{"name": "area_mm2", "op": "<=", "bound": 9}, {"name": "decode_tokens_per_s", "op": ">=", "bound": 60}]
    study = dse.parse_study(fields | {"constraints": two}, "study.yaml")
    assert [limit.bound for limit in loosened(study, 0, 0.1).constraints] == [pytest.approx(9.9), 60]
    assert [limit.bound for limit in loosened(study, 1, 0.1).constraints] == [9, pytest.approx(54)]


def test_a_sampled_front_has_no_exact_price(study_fields, tmp_path, npu):
    study = dse.parse_study(study_fields | {"sampler": "random"}, "study.yaml")
    dse.explore(study, tmp_path, evaluate=npu, progress=False)
    with pytest.raises(InputError, match="its front is not exact"):
        shadow_prices(tmp_path)
    with pytest.raises(InputError, match=r"share = 5: must be between 0 and 1"):
        shadow_prices(tmp_path, shares=(5,))


def test_without_a_limit_there_is_no_price(study_fields, tmp_path, npu):
    study = dse.parse_study(study_fields | {"constraints": [], "budget": 500}, "study.yaml")
    dse.explore(study, tmp_path, evaluate=npu, progress=False)
    with pytest.raises(InputError, match="has no limit that could be loosened"):
        shadow_prices(tmp_path)
