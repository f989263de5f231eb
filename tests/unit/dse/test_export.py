"""What is exported says what the record says, in the terms of the tool that reads it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import dse
from browser import open_chromium, watched
from dse.export import export
from dse.log import LOG_NAME, read_log
from hwsim.trace import InputError


@pytest.fixture
def study(study_fields):
    parameters = study_fields["parameters"] | {
        "memory.channels": {"type": "int", "low": 2, "high": 8, "step": 2},
        "clock_hz": {"type": "log", "low": 1e8, "high": 1e9},
        "matrix.weight_widths": {"type": "categorical", "choices": [[2, 3, 4, 16], [4, 16]]},
        "matrix.macs": {"type": "categorical", "choices": [4096, 8192, 1 << 20]},
    }
    changes = {"parameters": parameters, "sampler": "random", "budget": 30, "name": "team study"}
    return dse.parse_study(study_fields | changes, "study.yaml")


@pytest.fixture
def found(study, tmp_path, npu):
    return dse.explore(study, tmp_path / "out", evaluate=npu, progress=False)


def load(path, name):
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path))))


def test_a_journal_holds_real_directions_values_limits_and_attributes(study, found, tmp_path):
    assert export(tmp_path / "out", journal=tmp_path / "j.log") == [tmp_path / "j.log"]
    loaded = load(tmp_path / "j.log", "team study")
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE"]
    assert loaded.metric_names == [objective.name for objective in study.objectives]
    assert len(loaded.trials) == len(found.trials) == 30
    for trial, row in zip(loaded.trials, found.trials.to_dict("records"), strict=True):
        assert trial.user_attrs["schedule"] == row["schedule"]
        assert trial.params["clock_hz"] == row["clock_hz"] and trial.distributions["clock_hz"].log
        assert trial.params["matrix.weight_widths"] == json.dumps(row["matrix.weight_widths"])
        assert trial.distributions["memory.channels"] == optuna.distributions.IntDistribution(2, 8, step=2)
        assert row["schedule"].startswith(f"p{trial.params['schedule.prefill_weight_bits']}:")
        assert trial.user_attrs["design"]["matrix.macs"] == row["matrix.macs"]
        if isinstance(row["error"], str):
            assert trial.state is TrialState.FAIL and trial.user_attrs["error"] == row["error"]
            continue
        assert list(trial.values) == [row[name] for name in loaded.metric_names]
        assert trial.user_attrs["area_mm2"] == row["area_mm2"]
        (constraint,) = trial.constraints.values()
        assert (constraint <= 0) == row["feasible"]
    assert {trial.state for trial in loaded.trials} == {TrialState.FAIL, TrialState.COMPLETE}


def test_optuna_finds_the_same_front_in_the_journal(found, tmp_path):
    export(tmp_path / "out", journal=tmp_path / "j.log")
    best = load(tmp_path / "j.log", "team study").best_trials
    assert sorted(trial.number for trial in best) == sorted(found.pareto["number"])


@pytest.fixture
def dashboard(found, tmp_path):
    """Address of an optuna-dashboard, a process of its own, that shows the exported journal."""
    pytest.importorskip("optuna_dashboard")
    export(tmp_path / "out", journal=tmp_path / "j.log")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    process = subprocess.Popen(
        [str(program), "--host", "127.0.0.1", "--port", str(port), str(tmp_path / "j.log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with closing(socket.socket()) as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/dashboard/studies/0"
    finally:
        process.kill()
        process.wait()


PLOTTED = """
() => document.querySelector('.js-plotly-plot').data.flatMap(
  trace => Array.from(trace.x).map((x, index) => [x, trace.y[index]])
).filter(([x]) => x !== null)
"""
"""Points of the page's first figure, the Pareto front's; of a design that cannot run there is nothing to draw."""


@pytest.mark.slow
def test_optuna_dashboard_shows_the_trials_on_its_pareto_page(dashboard, found):
    """A real dashboard in a real browser."""
    done = found.trials[found.trials["error"].isna()]
    with open_chromium() as chromium, watched(chromium, height=1600) as watch:
        page = watch.open(dashboard)
        page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")
        plotted = page.evaluate(PLOTTED)
        text = page.inner_text("body")
    assert sorted(plotted) == sorted(done[["decode_tokens_per_s", "relative_quality"]].to_numpy().tolist())
    assert "Pareto Front" in text and "memory.bandwidth_bytes_per_s" in text
    assert f"Trial {found.pareto['number'].min()}\n" in text
    assert watch.complaints == [] and watch.foreign(dashboard.partition("/dashboard")[0]) == []


def test_optuna_goes_on_with_an_exported_study(found, tmp_path):
    export(tmp_path / "out", journal=tmp_path / "j.log")
    loaded = load(tmp_path / "j.log", "team study")
    distributions = {**loaded.trials[0].distributions}
    trial = loaded.ask(distributions)
    loaded.tell(trial, [1.0, 1.0, 1.0])
    assert len(load(tmp_path / "j.log", "team study").trials) == 31


def test_an_existing_journal_is_not_overwritten(found, tmp_path):
    (tmp_path / "j.log").write_text("notes of a team")
    with pytest.raises(InputError, match="exists, and a journal may hold what others wrote into it"):
        export(tmp_path / "out", journal=tmp_path / "j.log")
    assert (tmp_path / "j.log").read_text() == "notes of a team"


def test_csv_and_parquet_hold_the_trials(found, tmp_path):
    export(tmp_path / "out", csv=tmp_path / "t.csv", parquet=tmp_path / "t.parquet")
    assert (tmp_path / "t.csv").read_text() == (tmp_path / "out" / "trials.csv").read_text()
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert list(table) == list(found.trials)
    assert list(table["matrix.weight_widths"]) == [json.dumps(one) for one in found.trials["matrix.weight_widths"]]
    for name in ("number", "decode_tokens_per_s", "feasible", "schedule", "on_front"):
        pd.testing.assert_series_equal(table[name], found.trials[name], check_dtype=False)


def test_a_run_that_was_stopped_is_exported_as_far_as_it_came(study, tmp_path, npu):
    def stops(design):
        if len(npu.calls) == 7:
            raise KeyboardInterrupt
        return npu(design)

    with pytest.raises(KeyboardInterrupt):
        dse.explore(study, tmp_path / "out", evaluate=stops, progress=False)
    export(tmp_path / "out", journal=tmp_path / "j.log")
    assert len(load(tmp_path / "j.log", "team study").trials) == len(read_log(tmp_path / "out" / LOG_NAME).outcomes) > 0


def test_parquet_without_its_package_names_the_extra(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs the package 'pyarrow': pip install 'bittaper\[parquet\]'"):
        export(tmp_path / "out", parquet=tmp_path / "t.parquet")


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; run the study first"):
        export(tmp_path, journal=tmp_path / "j.log")
