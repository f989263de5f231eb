"""A real process, killed at random moments: nothing completed is lost, nothing repeated, the same front."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

import dse
from dse.log import LOG_NAME, read_log
from studies.exploration_benchmark import kills as real_kills

CHILD = """
import sys, time
from pathlib import Path
import dse
from picklable_npu import closed_form

def slow(design):
    time.sleep(0.004)
    return closed_form(design)

dse.explore(dse.read_study(sys.argv[1]), Path(sys.argv[2]), evaluate=slow, progress=False)
"""

KILLS = 4
GP_STARTS = 10  # trials at random, before the process is fitted for the first time


def completed(log: Path) -> dict[int, dict]:
    return dict(read_log(log).outcomes) if log.exists() and b"\n" in log.read_bytes() else {}


@pytest.mark.parametrize("batch_size", [1, pytest.param(3, marks=pytest.mark.full)])
def test_killed_runs_resume_to_the_same_front(study_fields, tmp_path, npu, batch_size):
    fields = study_fields | {"sampler": "nsga2", "budget": 60, "batch_size": batch_size}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    study = dse.read_study(tmp_path / "study.yaml")
    whole = dse.explore(study, tmp_path / "whole", evaluate=npu, progress=False)

    out = tmp_path / "killed"
    log = out / LOG_NAME
    command = [sys.executable, "-c", CHILD, str(tmp_path / "study.yaml"), str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rng = random.Random(batch_size)
    kills = 0
    for kill in range(KILLS):
        before = completed(log)
        with subprocess.Popen(command, env=environment) as child:
            # Let the child add some bytes, fewer than a trial's line or many lines, then strike at once.
            goal = (log.stat().st_size if log.exists() else 0) + rng.randrange(1, 2 + 2500 * kill)
            while child.poll() is None and (not log.exists() or log.stat().st_size < goal):
                time.sleep(0.0005)
            time.sleep(rng.random() * 0.004)
            child.send_signal(signal.SIGKILL)
        kills += child.returncode == -signal.SIGKILL
        after = completed(log)
        assert before.items() <= after.items()
    assert kills >= KILLS - 1

    before = completed(log)
    found = dse.explore(study, out, evaluate=npu, progress=False)
    assert before.items() <= completed(log).items()
    assert found.trials["number"].is_unique and len(found.trials) == 60
    assert not found.trials.duplicated(["matrix.macs", "memory.bandwidth_bytes_per_s", "schedule"]).any()
    pd.testing.assert_frame_equal(found.trials, whole.trials)
    pd.testing.assert_frame_equal(found.pareto, whole.pareto)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("scipy") is None, reason="needs torch, scipy"
)
def test_a_gaussian_process_killed_while_it_suggests_goes_on_to_the_same_trials(study_fields, tmp_path, npu):
    """On one machine with one set of libraries, which is all that it promises."""
    objectives = [{"name": "decode_tokens_per_s", "direction": "maximize"}]
    fields = study_fields | {"sampler": "gp", "budget": GP_STARTS + 3, "objectives": objectives}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    study = dse.read_study(tmp_path / "study.yaml")
    whole = dse.explore(study, tmp_path / "whole", evaluate=npu, progress=False)

    log = tmp_path / "killed" / LOG_NAME
    command = [sys.executable, "-c", CHILD, str(tmp_path / "study.yaml"), str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment) as child:
        # One that it fitted to the others is done; the next is being searched for.
        while child.poll() is None and len(completed(log)) <= GP_STARTS:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
    before = completed(log)
    assert child.returncode == -signal.SIGKILL and GP_STARTS < len(before) < GP_STARTS + 3
    found = dse.explore(study, tmp_path / "killed", evaluate=npu, progress=False)
    assert before.items() <= completed(log).items()
    pd.testing.assert_frame_equal(found.trials, whole.trials)


@pytest.mark.slow
def test_real_explorations_with_workers_survive_every_kind_of_strike(tmp_path, monkeypatch):
    fields = real_kills.study_fields

    def smaller(sampler, seed):
        return fields(sampler, seed) | {"budget": 16, "batch_size": 8}

    monkeypatch.setattr(real_kills, "study_fields", smaller)
    monkeypatch.setattr(real_kills, "EARLY_SHARE", 0.0)
    monkeypatch.setattr(real_kills, "LONGEST_WAIT_S", 0.3)
    strikes = real_kills.strike_until(4, tmp_path, progress=False, seed=2)
    assert {strike.kind for strike in strikes} == set(real_kills.KINDS)
    assert all(strike.killed >= 1 for strike in strikes)
    assert sum(strike.trials_before for strike in strikes) > 0
    found = real_kills.summarise(strikes)
    assert {found[name] for name in ("completed_trials_lost", "duplicates", "other_trials", "other_front")} == {0}
