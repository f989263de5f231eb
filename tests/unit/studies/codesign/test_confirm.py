"""Chosen designs on test prompts: their numbers are those of the exploration, under the same names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from accuracy.evaluation import trace_file_name
from dse import Design, parse_study
from dse.simulator import Simulator
from hwsim import load_shape
from hwsim.trace import Schedule, synthetic_trace, write_trace
from studies.codesign.confirm import Confirmer


def test_energy_per_token_is_over_the_tokens_that_the_exploration_counts(tmp_path: Path, monkeypatch):
    shape, schedule = load_shape("phi-1.5"), Schedule.uniform(4)
    trace = synthetic_trace(shape, schedule, prompt_tokens=16, decode_tokens=3)
    write_trace(tmp_path / trace_file_name(schedule.label()), trace.header, trace.sequences)
    study = parse_study(
        {
            "name": "s",
            "npu": "pmpd-4k",
            "schedules": [schedule.label()],
            "workloads": [{"model": "phi-1.5", "prompt_tokens": 16, "decode_tokens": 3}],
            "parameters": {"matrix.macs": {"type": "categorical", "choices": [1024, 4096]}},
            "objectives": [{"name": "energy_j_per_token", "direction": "minimize"}],
        },
        "s",
    )
    confirmer = Confirmer(study, [SimpleNamespace(metric="bleu")], tmp_path, seed=0)
    change = SimpleNamespace(value=0.0, low=0.0, high=0.0, n=1)
    monkeypatch.setattr(confirmer, "_relative_change", lambda label: change)
    design = {"matrix.macs": 1024}
    explored = Simulator(study)(Design(design, schedule))
    measured = confirmer.measured(design, schedule.label())
    for name in ("energy_j_per_token", "decode_tokens_per_s", "ttft_s"):
        assert measured[name] == pytest.approx(explored[name], rel=1e-12)
