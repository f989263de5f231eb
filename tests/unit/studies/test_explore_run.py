"""``bittaper explore run`` and ``export``: where designs are simulated, and where results go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from dse.log import LOG_NAME
from studies.cli import main
from studies.commands.explore_run import format_front


def error_of(capsys, *arguments):
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def study(tmp_path):
    """A study that takes the simulator a second."""
    fields = {
        "name": "small",
        "workloads": [{"model": "phi-1.5", "prompt_tokens": 8, "decode_tokens": 4}],
        "npu": "pmpd-4k",
        "schedules": ["p4:4", "p4:3"],
        "parameters": {
            "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": [16e9, 32e9, 64e9]},
            "clock_hz": {"type": "categorical", "choices": [2e8, 4e8]},
        },
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "bandwidth_bytes_per_s", "direction": "minimize"},
        ],
        "budget": 12,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


@pytest.mark.slow
def test_a_run_with_workers_is_exported_and_shared(study, tmp_path, capsys):
    out, team = tmp_path / "out", tmp_path / "team.log"
    share = ["--storage", str(team), "--storage-study", "team"]
    assert main(["explore", "run", str(study), "--out", str(out), "--workers", "2", "--quiet", *share]) == 0
    printed = capsys.readouterr().out
    assert "12 designs simulated (" in printed
    assert f"note: 12 trials were added to Optuna study 'team' in {team}" in printed
    again = [str(study), "--out", str(tmp_path / "again"), "--workers", "1", "--quiet", "--json", *share]
    assert main(["explore", "run", *again]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["evaluated"], counts["taken_over"]) == (0, 12)
    files = {name: tmp_path / f"x.{name}" for name in ("journal", "csv", "parquet")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert main(["explore", "export", str(out), *options, *share]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *(f"wrote {path}" for path in files.values()),
        f"0 trials were added to Optuna study 'team' in {team}",
    ]
    storage = JournalStorage(JournalFileBackend(str(files["journal"])))
    assert len(optuna.load_study(study_name="small", storage=storage).trials) == 12
    assert len(pd.read_csv(files["csv"])) == len(pd.read_parquet(files["parquet"])) == 12


@pytest.mark.slow
def test_ctrl_c_exits_130_and_the_same_command_goes_on(study, tmp_path):
    out = tmp_path / "out"
    fields = yaml.safe_load(study.read_text())
    fields["workloads"][0]["decode_tokens"] = 24
    study.write_text(yaml.safe_dump(fields | {"engine": "events"}, sort_keys=False))
    command = [sys.executable, "-m", "studies.cli", "explore", "run", str(study), "--out", str(out), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    log = out / LOG_NAME
    with subprocess.Popen(
        # What a shell starts in the background, these tests perhaps, ignores Ctrl-C, and its children with it.
        ["env", "--default-signal=INT", *command, "--workers", "2"],
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and (not log.exists() or b'"trial"' not in log.read_bytes()):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "bittaper: interrupted; the same command goes on from whatever it has kept"
    before = log.read_bytes()
    assert main(["explore", "run", str(study), "--out", str(out), "--quiet", "--workers", "1"]) == 0
    assert log.read_bytes().startswith(before)


def test_a_failed_quality_command_is_asked_again_by_retry_alone(study, tmp_path, capsys):
    script = tmp_path / "measure.py"
    script.write_text("import sys; open(__file__ + '.calls', 'a').write('x'); sys.exit('no disk')")
    live = {"command": [sys.executable, "-I", "-S", str(script), "{schedule}", "{out}"]}
    objectives = [{"name": "quality", "direction": "maximize"}]
    changes = {"schedules": ["p4:4"], "live_quality": live, "objectives": objectives}
    study.write_text(yaml.safe_dump(yaml.safe_load(study.read_text()) | changes))
    run = ["explore", "run", study, "--out", tmp_path / "out", "--workers", "1", "--quiet", "--allow-command"]
    for more, calls in ((), 1), ((), 1), (["--retry"], 2):
        error = error_of(capsys, *run, *more)
        assert (
            "no design can run; trial 0: live_quality: schedule p4:4: the command ended with code 1: no disk" in error
        )
        assert (tmp_path / "measure.py.calls").read_text() == calls * "x"


def test_what_does_not_go_together_is_refused(study, tmp_path, capsys):
    run = ("explore", "run", study, "--out", tmp_path / "out")
    assert "not allowed with argument" in error_of(capsys, *run, "--workers", 2, "--cluster", "local")
    assert "--workers: 0: must be >= 1" in error_of(capsys, *run, "--workers", 0)
    assert "belong together: give --storage-study NAME too" in error_of(capsys, *run, "--storage", "team.log")
    assert "belong together: give --storage PLACE too" in error_of(capsys, *run, "--storage-study", "x")
    assert "nothing to write; give --journal" in error_of(capsys, "explore", "export", tmp_path)
    assert "no such file; run the study first" in error_of(capsys, "explore", "export", tmp_path, "--csv", "t.csv")
    assert not (tmp_path / "out").exists()


def test_a_front_is_printed_in_the_units_of_the_report_and_a_bandwidth_once():
    path = "memory.bandwidth_bytes_per_s"
    front = pd.DataFrame({"number": [0, 1200], "schedule": "p4:4", path: [32e9, 64.5e9], "matrix.macs": [4096, 8192]})
    front["sfu.lanes"] = [np.nan, 8.0]
    front["bandwidth_bytes_per_s"], front["ttft_s"] = front[path], [0.0123456, 2.0]
    objectives = [SimpleNamespace(name=name) for name in ("bandwidth_bytes_per_s", "ttft_s")]
    study = SimpleNamespace(
        objectives=objectives, constraints=[], parameters={path: 0, "matrix.macs": 0, "sfu.lanes": 0}
    )
    assert [line.split() for line in format_front(SimpleNamespace(study=study, pareto=front)).splitlines()] == [
        ["trial", "schedule", "matrix.macs", "sfu.lanes", "bandwidth", "(GB/s)", "TTFT", "(ms)"],
        ["0", "p4:4", "4,096", "off", "32", "12.35"],
        ["1200", "p4:4", "8,192", "8", "64.5", "2,000"],
    ]
    front["bandwidth_bytes_per_s"] *= 2  # of two memories, or of a worst workload
    assert "memory.bandwidth (GB/s)" in format_front(SimpleNamespace(study=study, pareto=front))


@pytest.mark.parametrize(("count", "more"), [(1, None), (20, None), (21, "1 more in pareto.csv"), (500, "480 more in")])
def test_a_long_front_is_printed_from_end_to_end(count, more):
    front = pd.DataFrame({"number": range(count), "schedule": "p4:4", "area_mm2": range(count)})
    study = SimpleNamespace(objectives=[SimpleNamespace(name="area_mm2")], constraints=[], parameters={})
    _, *lines = format_front(SimpleNamespace(study=study, pareto=front)).splitlines()
    if more is not None:
        assert lines.pop().startswith(more)
    shown = [int(line.split()[0]) for line in lines if line.strip()[0].isdigit()]
    assert shown[0] == 0 and shown[-1] == count - 1
    assert len(shown) == len(set(shown)) == min(count, 20)
