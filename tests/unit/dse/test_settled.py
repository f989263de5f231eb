"""A settling that takes long goes on where it was killed, with the same result, and believes no other simulator."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import dse
import dse.confirm
from dse import grid_workers
from dse.design_grid import DesignGrid
from dse.log import LOG_NAME, LogWriter, read_log
from dse.settled import Settled
from explorations import run
from hwsim.trace import InputError

DESIGNS = 18


@pytest.fixture
def fields():
    """Six NPUs that search their tiles, under three schedules."""
    return {
        "npu": "pmpd-4k",
        "sampler": "exact",
        "workloads": [{"model": "phi-1.5", "prompt_tokens": 8, "decode_tokens": 4}],
        "schedules": ["p4:4", "p4:4>3@2", "p3:3"],
        "parameters": {
            "control.tiling": {"type": "categorical", "choices": ["search"]},
            "matrix.macs": {"type": "categorical", "choices": [1024, 4096]},
            "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": [8e9, 16e9, 24e9]},
        },
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "area_mm2", "direction": "minimize"},
            {"name": "mean_decode_bits", "direction": "maximize"},
        ],
    }


@pytest.fixture
def evaluated(monkeypatch):
    """Counts designs that the grid evaluates, and ends the run like Ctrl-C after ``evaluated.stop_after`` calls."""

    monkeypatch.setattr(grid_workers, "SLOW_CHUNK_NPUS", 1)
    monkeypatch.setattr(dse.confirm, "CONFIRMATIONS", 1)

    class Counter(list):
        stop_after = None
        faster = 1.0

    seen = Counter()
    real = DesignGrid.metrics

    def metrics(self, rows, samples=None):
        if len(self.npu) == DESIGNS and self.slow[self.npu[rows]].any():  # not the grid of a few trials
            if seen.stop_after is not None and len(seen) >= seen.stop_after:
                raise KeyboardInterrupt
            seen.append(len(rows))
        found = real(self, rows, samples)
        return {
            name: values * seen.faster if name == "decode_tokens_per_s" else values for name, values in found.items()
        }

    monkeypatch.setattr(DesignGrid, "metrics", metrics)
    return seen


@pytest.mark.slow
def test_a_killed_settling_goes_on_after_its_last_part(fields, tmp_path, evaluated):
    study = dse.parse_study(fields, "study.yaml")
    whole = run(study, tmp_path / "whole")
    all_at_once = sum(evaluated)
    assert len(evaluated) > 5, evaluated
    evaluated.clear()
    spent = []
    for stop_after in (2, 2, None):
        evaluated.stop_after = stop_after
        if stop_after is None:
            found = run(study, tmp_path / "killed")
        else:
            with pytest.raises(KeyboardInterrupt):
                run(study, tmp_path / "killed")
            assert read_log(tmp_path / "killed" / LOG_NAME).settled
        spent.append(sum(evaluated))
        evaluated.clear()
    # A run that goes on evaluates three designs again of those bounded and of those run in full, to see that it is the
    # same simulator; the second run was killed before it had looked at both.
    assert sum(spent) == all_at_once + 3 * 3
    # Of what the log has kept some metrics are not known, so its trials are simulated: to the same last bit.
    pd.testing.assert_frame_equal(found.trials, whole.trials, check_exact=True)
    assert found.certificate == whole.certificate
    # A finished run knows everything, and a record that is cut within a part loses that part only.
    run(study, tmp_path / "killed")
    assert sum(evaluated) == 2 * 3


@pytest.mark.slow
def test_numbers_of_another_simulator_are_not_taken_over(fields, tmp_path, evaluated):
    study = dse.parse_study(fields, "study.yaml")
    evaluated.stop_after, evaluated.faster = 3, 0.9
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "out")
    evaluated.stop_after, evaluated.faster = None, 1.0
    found = run(study, tmp_path / "out")
    pd.testing.assert_frame_equal(found.trials, run(study, tmp_path / "whole").trials)
    # What the second version wrote counts from then on.
    evaluated.clear()
    pd.testing.assert_frame_equal(run(study, tmp_path / "out").trials, found.trials)
    assert sum(evaluated) == 2 * 3


def test_what_was_taken_back_stays_so_when_the_other_simulator_is_killed_too(tmp_path):
    rows, path = np.arange(6), tmp_path / LOG_NAME

    def simulator(factor):
        return lambda wanted: {"e2e_s": factor * (1.0 + wanted)}

    with LogWriter(path) as log:
        record = log.header(excluded_schedules={}, quality_labels={})
        Settled(record, log).add(rows, None, simulator(2.0)(rows))
    with LogWriter(path) as log:
        settled = Settled(log.record, log)
        assert not len(settled.find(rows, None, simulator(1.0))[0])
        settled.add(rows[:3], None, simulator(1.0)(rows[:3]))
    with LogWriter(path) as log:
        known, metrics = Settled(log.record, log).find(rows, None, simulator(1.0))
        assert known.tolist() == [0, 1, 2] and metrics["e2e_s"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_simulator_that_gives_other_numbers_for_some_designs_is_another_one(tmp_path, changed):
    rows = np.arange(5)
    with LogWriter(tmp_path / LOG_NAME) as log:
        record = log.header(excluded_schedules={}, quality_labels={})
        Settled(record, log).add(rows, 8, {"e2e_s": np.ones(5)})
    with LogWriter(tmp_path / LOG_NAME) as log:
        known, _ = Settled(log.record, log).find(rows, 8, lambda wanted: {"e2e_s": 1.0 + (wanted == changed)})
        assert not len(known)


@pytest.mark.slow
def test_a_settling_of_another_study_is_begun_anew(fields, tmp_path, evaluated):
    evaluated.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(dse.parse_study(fields, "study.yaml"), tmp_path / "out")
    evaluated.stop_after = None
    changed = fields | {"workloads": [{"model": "phi-1.5", "prompt_tokens": 9, "decode_tokens": 4}]}
    found = run(dse.parse_study(changed, "study.yaml"), tmp_path / "out")
    other = run(dse.parse_study(changed, "study.yaml"), tmp_path / "other")
    pd.testing.assert_frame_equal(found.trials, other.trials)


def test_what_is_settled_in_seconds_is_not_kept(fields, tmp_path):
    del fields["parameters"]["control.tiling"]
    run(dse.parse_study(fields, "study.yaml"), tmp_path)
    assert not read_log(tmp_path / LOG_NAME).settled


def test_a_part_of_a_settling_that_is_not_sound_is_refused(fields, tmp_path):
    fields["parameters"] = {"control.tiling": {"type": "categorical", "choices": ["search"]}}
    run(dse.parse_study(fields, "study.yaml"), tmp_path)
    log = tmp_path / LOG_NAME
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    next(line for line in lines if line["record"] == "settled")["rows"].pop()
    log.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"a settled part has columns of other lengths\): it is damaged"):
        read_log(log)
