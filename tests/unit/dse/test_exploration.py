"""Tables of an exploration: built from the record alone, with how sure each front row is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.log import LOG_NAME
from dse.uncertainty import add_uncertainty, challengers
from dse.validation import judged_by
from hwsim.trace import InputError


def front_of(*rows, **columns):
    names = ("decode_tokens_per_s", "relative_quality", "relative_quality_ci_low", "relative_quality_ci_high")
    table = pd.DataFrame(rows, columns=list(names))
    return table.assign(number=range(len(table)), bandwidth_bytes_per_s=1e9, **columns)


@pytest.fixture
def study(study_fields):
    return dse.parse_study(study_fields | {"budget": 500}, "study.yaml")


def test_a_front_row_is_challenged_only_where_intervals_overlap_and_nothing_else_is_worse(study):
    front = front_of((100, 0.90, 0.88, 0.92), (90, 0.91, 0.89, 0.93), (80, 0.99, 0.98, 1.0), (120, 0.5, 0.4, 0.6))
    found = [rows.tolist() for rows in challengers(front, study)]
    # Row 0 is faster than row 1 and may be as good; row 2 is clearly better than all, row 3 is clearly worse.
    assert found == [[], [0], [], []]
    table = add_uncertainty(front, study)
    assert table["challengers"].tolist() == [0, 1, 0, 0]
    assert table["challenged_by"].tolist() == [pd.NA, 0, pd.NA, pd.NA]
    assert len(table) == len(front)


def test_quality_without_an_interval_challenges_nobody(study):
    front = front_of((100, 0.90, np.nan, np.nan), (90, 0.91, np.nan, np.nan))
    assert add_uncertainty(front, study)["challengers"].tolist() == [0, 0]


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.floats(0.8, 1.0), st.floats(0, 0.05)), min_size=1, max_size=7
    )
)
def test_challengers_are_those_of_the_definition(rows):
    study = dse.StudyConfig.model_validate(
        {
            "workloads": [{"model": "vicuna-7b", "prompt_tokens": 5, "decode_tokens": 6}],
            "npu": "pmpd-4k",
            "schedules": ["p4:4"],
            "objectives": [
                {"name": "decode_tokens_per_s", "direction": "maximize"},
                {"name": "relative_quality", "direction": "maximize"},
                {"name": "bandwidth_bytes_per_s", "direction": "minimize"},
            ],
        }
    )
    front = front_of(*[(speed, value, value - half, value + half) for speed, _, value, half in rows])
    front["bandwidth_bytes_per_s"] = [float(bandwidth) for _, bandwidth, _, _ in rows]

    def challenges(other, one):
        (s1, b1, q1, h1), (s2, b2, q2, h2) = rows[other], rows[one]
        return s1 >= s2 and b1 <= b2 and q1 - h1 <= q2 + h2 and q1 + h1 >= q2 - h2

    expected = [
        [other for other in range(len(rows)) if other != one and challenges(other, one)] for one in range(len(rows))
    ]
    assert [found.tolist() for found in challengers(front, study)] == expected


def test_the_simulators_error_brackets_the_speed(study, tmp_path, npu):
    found = dse.explore(study, tmp_path, evaluate=npu, progress=False)
    errors = judged_by("realistic", "decode_tokens_per_s")
    front = found.pareto
    speed = front["decode_tokens_per_s"]
    # predicted / true - 1 = error, at both ends; no published machine was faster than it is simulated to be.
    np.testing.assert_allclose(speed / front["decode_tokens_per_s_error_low"] - 1, errors.largest)
    np.testing.assert_array_equal(front["decode_tokens_per_s_error_high"], speed)
    assert "bandwidth_bytes_per_s_error_low" not in front and "relative_quality_error_low" not in front
    assert "challengers" in pd.read_csv(tmp_path / "pareto.csv")


def test_a_study_file_stands_for_its_default_folder(study_fields, tmp_path, npu, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study_fields | {"name": "mine", "budget": 8}))
    study = dse.read_study(path)
    dse.explore(study, "results/mine", evaluate=npu, progress=False)
    pd.testing.assert_frame_equal(dse.load_exploration(path).trials, dse.load_exploration("results/mine").trials)
    path.write_text(yaml.safe_dump(study_fields | {"name": "mine", "budget": 9, "confirmations": 3}))
    assert len(dse.load_exploration(path).trials) == 8
    path.write_text(yaml.safe_dump(study_fields | {"name": "mine", "budget": 8, "seed": 4}))
    with pytest.raises(InputError, match=r"differs in seed from the study that results.mine was written by"):
        dse.load_exploration(path)


def test_a_record_with_nothing_simulated_yet_has_empty_tables(study, tmp_path, npu):
    dse.explore(study, tmp_path, evaluate=npu, progress=False)
    log = tmp_path / LOG_NAME
    log.write_bytes(log.read_bytes().split(b"\n")[0] + b"\n")
    found = dse.load_exploration(tmp_path)
    assert found.trials.empty and found.pareto.empty and not found.front_is_exact
    assert "decode_tokens_per_s" in found.trials
    with pytest.raises(InputError, match="holds no evaluated design yet"):
        dse.ask(found, minimise="area")


def test_a_record_of_a_study_that_is_no_longer_understood_is_one_clear_line(study, tmp_path, npu):
    dse.explore(study, tmp_path, evaluate=npu, progress=False)
    log = tmp_path / LOG_NAME
    header, rest = log.read_text().split("\n", 1)
    fields = json.loads(header)
    fields["study"]["colour"] = "red"
    log.write_text(json.dumps(fields, separators=(",", ":")) + "\n" + rest)
    with pytest.raises(InputError, match="unknown field in the study in the record 'colour'"):
        dse.load_exploration(tmp_path)


RUNNING = """
import sys, time
import dse
study = dse.read_study(sys.argv[1])

def evaluate(design):
    time.sleep(0.02)
    bits = design.schedule.mean_bits(60)
    bandwidth = design.npu["memory.bandwidth_bytes_per_s"]
    return {"decode_tokens_per_s": 8 * bandwidth / bits / 1e9, "bandwidth_bytes_per_s": bandwidth,
            "area_mm2": 1.0, "mean_decode_bits": bits}

dse.explore(study, sys.argv[2], evaluate=evaluate, progress=False)
"""


@pytest.mark.slow
def test_a_running_exploration_answers(study_fields, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study_fields | {"budget": 500, "sampler": "random"}))
    script = [sys.executable, "-c", textwrap.dedent(RUNNING), str(path), str(tmp_path / "out")]
    with subprocess.Popen(script) as running:
        try:
            log = tmp_path / "out" / LOG_NAME
            while not log.exists() or log.read_bytes().count(b'"trial"') < 5:
                assert running.poll() is None
            answer = dse.ask(tmp_path / "out", maximise="tokens_per_s")
            assert answer.design is not None and answer.asked >= 5 and not answer.exact
            assert "not proved best" in str(answer)
        finally:
            os.kill(running.pid, signal.SIGKILL)
