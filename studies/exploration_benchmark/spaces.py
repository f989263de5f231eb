"""The spaces that samplers are compared on, as study files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hwsim.trace import Quality, Schedule, read_json, write_quality

if TYPE_CHECKING:
    from dse import StudyConfig

_STUDIES = resources.files("studies")
BANDWIDTH = "memory.bandwidth_bytes_per_s"
PROMPT_TOKENS, DECODE_TOKENS = 48, 53
"""Mean lengths in the kept run of ``bittaper study codesign``; its kept metrics say so, and a test checks it."""


@dataclass(frozen=True)
class BenchmarkSpace:
    """One space.

    Attributes:
        name: Its key in tables.
        title: For figures.
        min_tokens_per_s: Of the question "the least GB/s for X tokens/s at quality >= q".
        min_quality: Relative quality in it.
    """

    name: str
    title: str
    min_tokens_per_s: float
    min_quality: float


SPACES = (
    BenchmarkSpace("shipped", "shipped study, bandwidth continuous", 5000, 0.95),
    BenchmarkSpace("vicuna", "Vicuna-7B, qualities of the paper's Table 1, 21,525 designs", 15, 0.98),
    BenchmarkSpace("large", "shipped model, wider limits, 924,000 designs", 10000, 0.95),
)
LARGE_POINTS = 33
LARGE_AREA_MM2 = 3


def read_space(name: str, folder: Path) -> StudyConfig:
    """The study of a space.

    Args:
        name: One of :data:`SPACES`.
        folder: For the quality file that the shipped model's studies need.
    """
    from dse import parse_study, read_study

    if name == "vicuna":
        with resources.as_file(_STUDIES / "exploration_benchmark" / "spaces" / "vicuna.yaml") as path:
            return read_study(path)
    study = shipped_study(folder)
    return parse_study(study if name == "shipped" else large_study(study), "studies/codesign/study.yaml")


def large_study(shipped: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped study with bandwidth on a grid, twice the area and no limit on the time to the first token."""
    parameters = dict(shipped["parameters"])
    parameters[BANDWIDTH] = {**parameters[BANDWIDTH], "points": LARGE_POINTS}
    limits = [limit for limit in shipped["constraints"] if limit["name"] == "relative_quality"]
    limits.append({"name": "area_mm2", "op": "<=", "bound": LARGE_AREA_MM2, "unit": "mm2"})
    return {**shipped, "name": "large", "parameters": parameters, "constraints": limits}


def shipped_study(folder: Path) -> dict[str, Any]:
    """The template of the co-design study with its workload and the qualities that its kept run measured.

    Writes these as ``shipped_quality.json`` into ``folder``.
    """
    from accuracy.reference import MODEL_FOLDER

    study: dict[str, Any] = yaml.safe_load((_STUDIES / "codesign" / "study.yaml").read_text(encoding="utf-8"))
    path = folder / "shipped_quality.json"
    write_quality(path, _kept_quality())
    load = {
        "model": str(MODEL_FOLDER / "config.json"),
        "prompt_tokens": PROMPT_TOKENS,
        "decode_tokens": DECODE_TOKENS,
    }
    del study["budget"]  # the benchmark has its own
    return study | {"workloads": [load], "quality": [str(path)]}


def _kept_quality() -> list[Quality]:
    """Quality records of the kept run of the co-design study, validation prompts, its first metric."""
    folder = Path(str(_STUDIES / "codesign" / "example"))
    numbers, manifest = read_json(folder / "codesign.json"), read_json(folder / "manifest.json")
    records = []
    for row in numbers["quality"]["val"]:
        if row["metric"] != numbers["metric"]:
            continue
        schedule = Schedule.from_label(row["schedule"])
        fields: dict[str, Any] = {
            "model_name": numbers["model"],
            "model_sha256": manifest["model_sha256"],
            "store_sha256": None if schedule.widths() == {16} else manifest["store_sha256"],
            "quantizer": "any-precision",
            "task": numbers["task"]["name"],
            "task_version": numbers["task"]["version"],
            "split": "val",
            "metric": row["metric"],
            "direction": "maximize",
            "reference": "gold",
            "schedule": schedule,
            "schedule_sha256": schedule.sha256(),
            "mean_decode_bits": row["mean_decode_bits"],
            "value": row["value"],
            "ci_low": row["ci_low"],
            "ci_high": row["ci_high"],
            "n": row["n"],
            "seed": manifest["settings"]["seed"],
            "source": "measured",
        }
        records.append(Quality.model_validate(fields))
    return records
