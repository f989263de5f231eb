"""A small world to explore: measured quality of a grid of schedules, and a closed-form NPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dse
from hwsim.trace import Quality, Schedule, write_quality
from picklable_npu import STEPS, closed_form


def quality_record(schedule: Schedule, **changes: Any) -> Quality:
    bits = schedule.mean_bits(STEPS)
    value = 40 - 60 / (bits * bits) - 4 / schedule.prefill_weight_bits
    fields: dict[str, Any] = {
        "model_name": "vicuna-7b",
        "model_sha256": "m",
        "store_sha256": None if schedule.widths() == {16} else "s",
        "quantizer": "any-precision",
        "task": "summary",
        "task_version": "1",
        "split": "val",
        "metric": "rouge_l",
        "direction": "maximize",
        "reference": "gold",
        "schedule": schedule,
        "schedule_sha256": schedule.sha256(),
        "mean_decode_bits": bits,
        "value": value,
        "ci_low": value - 1,
        "ci_high": value + 1,
        "n": 100,
        "seed": 0,
        "source": "measured",
    }
    return Quality.model_validate(fields | changes)


def grid_schedules() -> list[Schedule]:
    """Uniform and falling schedules over 2..4 bits with switches at a few steps, one with two switches, and fp16."""
    falling = {
        Schedule.from_pairs(4, [(0, high), (step, low)]).label(): Schedule.from_pairs(4, [(0, high), (step, low)])
        for high, low in itertools.product((2, 3, 4), repeat=2)
        for step in (0, 20, 40)
        if high >= low
    }
    return [
        *falling.values(),
        Schedule.uniform(3),
        Schedule.from_pairs(4, [(0, 4), (10, 3), (30, 2)]),
        Schedule.uniform(16),
    ]


@pytest.fixture
def quality_path(tmp_path: Path) -> Path:
    path = tmp_path / "quality.json"
    write_quality(path, [quality_record(schedule) for schedule in grid_schedules()])
    return path


@pytest.fixture
def make_quality():
    return quality_record


@pytest.fixture
def schedules() -> list[Schedule]:
    return grid_schedules()


class ClosedFormNpu:
    """Weight traffic over bandwidth, or MACs: whichever is slower. Counts what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, design: Any) -> dict[str, float]:
        self.calls.append(design.key)
        return closed_form(design)


@pytest.fixture
def npu() -> ClosedFormNpu:
    return ClosedFormNpu()


@pytest.fixture
def study_fields(quality_path: Path) -> dict[str, Any]:
    """A study of 3 x 4 hardware points under every schedule of the grid."""
    return {
        "workloads": [{"model": "vicuna-7b", "prompt_tokens": 50, "decode_tokens": STEPS}],
        "npu": "pmpd-4k",
        "quality": [str(quality_path)],
        "parameters": {
            "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": ["16e9", "32e9", "64e9", "128e9"]},
            "matrix.macs": {"type": "categorical", "choices": [4096, 8192, 16384]},
        },
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "relative_quality", "direction": "maximize"},
            {"name": "bandwidth_bytes_per_s", "direction": "minimize"},
        ],
        "constraints": [{"name": "relative_quality", "op": ">=", "bound": 0.8}],
        "budget": 30,
        "seed": 3,
    }


@pytest.fixture
def study(study_fields: dict[str, Any]) -> Callable[..., dse.StudyConfig]:
    """Makes the study with changed fields, sampled at random: what evaluates it changes no design."""

    def study(**changes: Any) -> dse.StudyConfig:
        return dse.parse_study(study_fields | {"sampler": "random", "budget": 40} | changes, "study.yaml")

    return study
