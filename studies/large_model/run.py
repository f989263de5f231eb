"""Quantise a generated model in fresh processes, one of them killed; ``plot.py`` draws what this writes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hwsim.trace import InputError, atomic_writer, collect_provenance, read_json, write_json
from studies.large_model.measure import Measured, run_measured
from studies.large_model.model import RandomLlama, write_random_llama

# What is measured: arguments of `bittaper quantize`, whether text is needed, and whether a process is killed midway.
CASES: dict[str, dict[str, Any]] = {
    "nested": {"arguments": ["--min-bits", "2", "--max-bits", "8"], "text": False, "killed": False},
    "nested, Fisher": {
        "arguments": ["--min-bits", "2", "--max-bits", "8", "--sensitivity", "fisher"],
        "text": True,
        "killed": True,
    },
    "GPTQ": {"arguments": ["--method", "gptq", "--bits", "3"], "text": True, "killed": False},
}


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results; the model and its stores come and go in its ``work``.
        dimensions: Of the model.
        texts: Calibration texts.
        max_tokens: Tokens of each.
        progress: Say what is going on.
    """

    out: Path
    dimensions: RandomLlama = field(default_factory=RandomLlama)
    texts: int = 4
    max_tokens: int = 128
    progress: bool = True


def run_large_model(settings: Settings) -> list[dict[str, Any]]:
    """Measure every case that ``out`` does not hold yet, and write one file a case, a table and a figure.

    Returns:
        One row per process.

    Raises:
        InputError: If ``out`` holds cases with other settings, or a process fails.
    """
    from studies.large_model.plot import write_figure

    work, model = settings.out / "work", settings.out / "work" / "model"
    asked = {"dimensions": asdict(settings.dimensions), "texts": settings.texts, "max_tokens": settings.max_tokens}
    rows: list[dict[str, Any]] = []
    parts: dict[str, Any] = {}
    for name, case in CASES.items():
        file = settings.out / f"{slug(name)}.json"
        if not file.exists():
            if not (model / "config.json").exists():
                _say(settings, "writing the model")
                shutil.rmtree(work, ignore_errors=True)
                write_random_llama(model, settings.dimensions)
                write_json(work / "texts.json", _texts(settings))
            processes = _measure(name, case, model, work, settings)
            # Cases may be measured at different times.
            provenance = collect_provenance(
                settings.out, cores=len(os.sched_getaffinity(0)), clock="wall and CPU seconds"
            )
            write_json(file, {"asked": asked, "provenance": provenance, "processes": processes})
        kept = read_json(file)
        if kept["asked"] != asked:
            raise InputError(f"{file}: was measured with other settings; choose another --out, or remove it")
        parts[name] = {"asked": asked, "provenance": kept["provenance"]}
        rows += [{key: value for key, value in process.items() if key != "samples"} for process in kept["processes"]]
    with atomic_writer(settings.out / "processes.csv") as table:
        pd.DataFrame(rows).to_csv(table, index=False)
    write_json(settings.out / "manifest.json", {"schema_version": "1.0", "parts": parts})
    write_figure(settings.out)
    shutil.rmtree(work, ignore_errors=True)
    return rows


def _texts(settings: Settings) -> list[str]:
    """Text of the shipped task, one token a byte, long enough to be cut."""
    from accuracy.reference import examples

    text = " ".join(example.prompt for example in examples("calib", 400))
    pieces = [text[start : start + settings.max_tokens] for start in range(0, len(text), settings.max_tokens)]
    if len(pieces) <= settings.texts:
        raise InputError(f"texts = {settings.texts}: must be below {len(pieces)} at {settings.max_tokens} tokens each")
    return pieces[: settings.texts]


def _measure(name: str, case: dict[str, Any], model: Path, work: Path, settings: Settings) -> list[dict[str, Any]]:
    """Run one case; a killed one in two processes."""
    store, partial = work / "store", work / "store.partial"
    for folder in (store, partial):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "studies.cli", "quantize", str(model), str(store), "--json", "--quiet"]
    command += case["arguments"]
    if case["text"]:
        command += ["--calibration", str(work / "texts.json"), "--max-tokens", str(settings.max_tokens)]
    half = settings.dimensions.num_hidden_layers // 2

    def finished_blocks() -> int:
        return len(list(partial.glob("part-model.layers.*.json")))

    processes = []
    if case["killed"]:
        _say(settings, f"{name}: until half of the blocks are done, then SIGKILL")
        first = run_measured(command, partial, lambda: finished_blocks() >= half)
        if first.returncode != -9 or store.exists():
            raise InputError(f"{name}: the process ended before it could be killed; give the model more blocks")
        processes.append(_row(name, "killed", first, finished_blocks(), settings))
    _say(settings, f"{name}: to the end")
    before = finished_blocks()
    last = run_measured(command, partial)
    if last.returncode:
        raise InputError(f"{name}: bittaper quantize failed: {last.error.strip()[-300:]}")
    blocks = settings.dimensions.num_hidden_layers - before
    row = _row(name, "resumed" if case["killed"] else "whole", last, blocks, settings)
    processes.append({**row, **_store_sizes(json.loads(last.output), model, store)})
    shutil.rmtree(store)
    return processes


def _row(case: str, process: str, measured: Measured, blocks: int, settings: Settings) -> dict[str, Any]:
    """One process as a row of the table, its samples beside it."""
    weights = blocks * _block_weights(settings.dimensions)
    return {
        "case": case,
        "process": process,
        "blocks": blocks,
        "weights": weights,
        "seconds": measured.seconds,
        "cpu_s": measured.cpu_s,
        "seconds_per_million_weights": measured.seconds / weights * 1e6 if weights else None,
        "peak_rss_bytes": measured.peak_rss_bytes,
        "peak_anonymous_bytes": max(sample.anonymous_bytes for sample in measured.samples),
        "peak_partial_folder_bytes": max(sample.disk_bytes for sample in measured.samples),
        "samples": [asdict(sample) for sample in measured.samples],
    }


def _block_weights(dimensions: RandomLlama) -> int:
    """Quantised weights of one block: its matrices."""
    block = (shape for name, shape in dimensions.tensors() if name.startswith("model.layers.0."))
    return sum(shape[0] * shape[1] for shape in block if len(shape) == 2)


def _store_sizes(summary: dict[str, Any], model: Path, store: Path) -> dict[str, Any]:
    return {
        "model_disk_bytes": sum(file.stat().st_size for file in model.glob("*.safetensors")),
        "store_disk_bytes": sum(file.stat().st_size for file in store.glob("*.safetensors")),
        "bits_per_weight": summary["bits_per_weight"],
        "relative_error": summary["relative_error"],
    }


def slug(name: str) -> str:
    """A case's name as its file is called."""
    return name.lower().replace(", ", "-")


def _say(settings: Settings, text: str) -> None:
    if settings.progress:
        print(text, file=sys.stderr, flush=True)
