"""Exact shadow prices equal those of exploring everything."""

from __future__ import annotations

import importlib.resources
import json
import re

import pandas as pd
import pytest

import dse
import dse.prices
import dse.runner
from dse.candidates import Candidates
from dse.design_grid import DesignGrid
from dse.log import LOG_NAME, Record, Settlement, read_log
from dse.prices import loosened, shadow_prices
from dse.problem import prepare
from dse.related import Related
from dse.settled import AGAIN
from dse.simulator import Simulator
from dse.worth import relaxations
from hwsim.trace import InputError, canonical_sha256

BANDWIDTH = "memory.bandwidth_bytes_per_s"
SLOW = pytest.mark.slow


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


@pytest.fixture
def small(tmp_path):
    """A space of 36 designs of a small model, under two limits."""
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512}
    config |= {"num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return {
        "npu": "pmpd-4k",
        "workloads": [{"model": str(tmp_path / "config.json"), "prompt_tokens": 9, "decode_tokens": 7}],
        "schedules": ["p4:4>3@5", "p4:3", "p4:4"],
        "parameters": {
            BANDWIDTH: {"type": "categorical", "choices": [4e9, 8e9, 12e9, 16e9]},
            "matrix.macs": {"type": "categorical", "choices": [256, 1024, 4096]},
            "control.tiling": {"type": "categorical", "choices": ["half-buffer"]},
        },
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "area_mm2", "direction": "minimize"},
        ],
        "constraints": [
            {"name": "bandwidth_bytes_per_s", "op": "<=", "bound": 12, "unit": "GB/s"},
            {"name": "mean_decode_bits", "op": ">=", "bound": 3.5},
        ],
        "sampler": "exact",
        "confirmations": 4,
    }


KINDS = {
    "settled": {},
    "simulated-one-by-one": {"engine": "events"},
    "tiles-searched": {"tiling": "search"},
}


@pytest.mark.parametrize("kind", ["settled", "simulated-one-by-one", pytest.param("tiles-searched", marks=SLOW)])
def test_what_is_taken_over_changes_no_price(small, tmp_path, kind, monkeypatch):
    changes = dict(KINDS[kind])
    small["parameters"]["control.tiling"]["choices"] = [changes.pop("tiling", "half-buffer")]
    study = dse.parse_study(small | changes, "study.yaml")
    first = dse.explore(study, tmp_path / "out", progress=False)
    simulated: list[tuple[str, str]] = []
    call, metrics = Simulator.__call__, DesignGrid.metrics

    def counted(simulator, design):
        simulated.append((simulator._options.engine, design.key))
        return call(simulator, design)

    def settled(grid, rows, samples=None):
        if grid.slow[grid.npu[rows]].any() and len(rows) > AGAIN:  # fewer of what is known are evaluated again
            simulated.extend((str(samples), grid._candidates.design(row).key) for row in rows)
        return metrics(grid, rows, samples)

    with monkeypatch.context() as patch:
        patch.setattr(Simulator, "__call__", counted)
        patch.setattr(DesignGrid, "metrics", settled)
        patch.setattr(dse.prices, "check_same_numbers", lambda *_: None)  # it simulates a few again where in doubt
        prices = shadow_prices(tmp_path / "out", shares=(0.2, 0.4), progress=False)
    assert simulated and len(simulated) == len(set(simulated))
    if kind == "simulated-one-by-one":
        log = read_log(tmp_path / "out" / LOG_NAME)
        known = {("events", canonical_sha256(dict(design))) for design in log.designs_by_number().values()}
        assert known.isdisjoint(simulated)
    alone = []
    for index, limit in enumerate(study.constraints):
        for share in (0.2, 0.4):
            then = dse.load_exploration(tmp_path / "out" / "prices" / f"{index}-{limit.name}-{100 * share:g}")
            other = dse.explore(loosened(study, index, share), tmp_path / f"{index}-{share}", progress=False)
            pd.testing.assert_frame_equal(then.trials.drop(columns="source", errors="ignore"), other.trials)
            assert then.certificate == other.certificate
            alone.append(len(other.pareto))
    assert len(set(prices["volume_gain"])) > 2 and max(alone) > len(first.pareto)


def test_prices_are_refused_where_the_files_or_the_simulator_have_changed(small, tmp_path, monkeypatch):
    small["npu"] = str(tmp_path / "npu.yaml")
    shipped = (importlib.resources.files("hwsim") / "npus" / "pmpd-4k.yaml").read_text()
    (tmp_path / "npu.yaml").write_text(shipped)
    dse.explore(dse.parse_study(small, "study.yaml"), tmp_path / "out", progress=False)
    (tmp_path / "npu.yaml").write_text(shipped.replace("lanes: 16", "lanes: 8"))
    with pytest.raises(InputError, match=r"was written by another study \(npu = "):
        shadow_prices(tmp_path / "out", progress=False)
    (tmp_path / "npu.yaml").write_text(shipped)
    call = Simulator.__call__
    monkeypatch.setattr(Simulator, "__call__", lambda *given: {**call(*given), "ttft_s": 1.0})
    monkeypatch.setattr(dse.prices, "collect_provenance", lambda *_, **__: {"bittaper": "another"})
    with pytest.raises(InputError, match=r"ttft_s = .* for trial 0, and bittaper another .* gives 1"):
        shadow_prices(tmp_path / "out", progress=False)


def test_what_another_simulator_gave_is_no_price_though_it_was_taken_over(small, tmp_path, monkeypatch):
    study = dse.parse_study(small | {"engine": "events"}, "study.yaml")
    dse.explore(study, tmp_path / "out", progress=False)
    shadow_prices(tmp_path / "out", shares=(0.01,), progress=False)
    logs = [read_log(one / LOG_NAME) for one in (tmp_path / "out" / "prices").iterdir()]
    assert any(all(trial.source for trial in log.outcomes.values()) for log in logs)
    call = Simulator.__call__
    monkeypatch.setattr(Simulator, "__call__", lambda *given: {**call(*given), "decode_tokens_per_s": 1.0})
    for module in (dse.prices, dse.runner):
        monkeypatch.setattr(module, "collect_provenance", lambda *_, **__: {"bittaper": "another"})
    (tmp_path / "out" / LOG_NAME).unlink()
    dse.explore(study, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match=r"decode_tokens_per_s = .* for trial 0, and bittaper another .* gives 1"):
        shadow_prices(tmp_path / "out", shares=(0.01,), progress=False)


def test_parts_settled_of_fewer_schedules_are_those_of_these_designs(study_fields):
    def problem(quality):
        limits = [{"name": "relative_quality", "op": ">=", "bound": quality}]
        return prepare(dse.parse_study(study_fields | {"constraints": limits}, "study.yaml"))

    def record(problem, rows):
        known = Record({"excluded_schedules": problem.excluded})
        known.settled.append(Settlement(rows, 8, {"e2e_s": [1.0] * len(rows)}))
        return known

    tight, loose = problem(0.85), problem(0.6)
    fewer, more = (Candidates.enumerate(one.space) for one in (tight, loose))
    assert 0 < len(fewer) < len(more)
    rows = [0, 5, 13, len(fewer) - 1]
    related = Related()
    related.learn(record(tight, rows), "first")
    (part,) = related.settled(loose.space, loose.excluded)
    assert [more.design(row) for row in part.rows] == [fewer.design(row) for row in rows]
    assert related.settled(tight.space, tight.excluded)[0].rows == rows
    # Nothing is known of which of the looser one's designs the tighter one has.
    other = Related()
    other.learn(record(loose, rows), "second")
    assert other.settled(tight.space, tight.excluded) == []


def test_the_number_of_explorations_is_said_before_the_first(small, tmp_path, capsys):
    dse.explore(dse.parse_study(small, "study.yaml"), tmp_path / "out", progress=False)
    shadow_prices(tmp_path / "out", shares=(0.05, 0.2), progress=True)
    said = capsys.readouterr().err
    assert said.startswith("4 explorations: 2 of the limits, each loosened by 5%, 20%\n")
    assert re.search(r"prices: 100%.*4/4 \[", said)
    shadow_prices(tmp_path / "out", shares=(0.05, 0.2), progress=False)
    assert capsys.readouterr().err == ""


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
