"""Measure the shipped model and a larger one in fresh processes; ``plot.py`` draws what this writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from accuracy.quantization import quantize
from accuracy.reference import MODEL_FOLDER
from hwsim.trace import atomic_writer, collect_provenance, write_json
from studies.common.machine import cpu_model
from studies.common.timing import ONE_THREAD, spread
from studies.cpu_decoding.modes import CACHED, FLOAT_AGAIN, MEMORY_MODES, PROMPT_TOKENS, SPEED_MODES
from studies.large_model.model import RandomLlama, write_random_llama

ALONE = {**ONE_THREAD, "TOKENIZERS_PARALLELISM": "false"}
# For weighing, the C library gives every tensor pages of its own, which it returns when the tensor is freed.
ENVIRONMENTS = {"speed": ALONE, "memory": {**ALONE, "MALLOC_MMAP_THRESHOLD_": "65536"}}
# 85M weights in linear layers, 25M in embedding and lm_head.
LARGER = RandomLlama(768, 2048, 12, 12, 12, 16384)


@dataclass(frozen=True)
class Case:
    """A model to be measured.

    Attributes:
        name: What the results call it.
        folder: The model; None for a random one that comes and goes.
        steps: Decode steps timed together.
        turns: Turns of every mode per repeat of the study.
    """

    name: str
    folder: Path | None
    steps: int
    turns: int


# A step of the small model is short: more of them, and more often, take the same time.
CASES = (Case("shipped, 1.5M", MODEL_FOLDER, steps=8, turns=5), Case("random Llama, 110M", None, steps=4, turns=1))


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        cases: The models.
        repeats: Turns of every mode with the larger model; the small one has five times as many.
        progress: Say what is going on.
    """

    out: Path
    cases: tuple[Case, ...] = CASES
    repeats: int = 5
    progress: bool = True


def run_cpu_decoding(settings: Settings) -> pd.DataFrame:
    """Quantise and measure every model, and write tables, provenance and figure; returns the speed's summary."""
    from studies.cpu_decoding.plot import write_figure

    speed: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    for case in settings.cases:
        with TemporaryDirectory() as scratch:
            source, store = case.folder or Path(scratch) / "model", Path(scratch) / "store"
            if case.folder is None:
                write_random_llama(source, LARGER)
            _say(settings, f"{case.name}: quantising")
            quantize(source, store, progress=False)
            turns = settings.repeats * case.turns
            for number, row in enumerate(_measured("memory", source, store), start=1):
                _say(settings, f"{case.name}: memory, {number} of {len(MEMORY_MODES)}")
                memory.append({"model": case.name, **row})
            for number, row in enumerate(_measured("speed", source, store, case.steps, turns), start=1):
                if number % len(SPEED_MODES) == 0:
                    _say(settings, f"{case.name}: speed, turn {number // len(SPEED_MODES)} of {turns}")
                speed.append({"model": case.name, **row})
    summary = summarise(pd.DataFrame(speed))
    for name, table in (("speed", pd.DataFrame(speed)), ("summary", summary), ("memory", pd.DataFrame(memory))):
        with atomic_writer(settings.out / f"{name}.csv") as file:
            table.to_csv(file, index=False)
    provenance = collect_provenance(
        settings.out,
        cpu=cpu_model(),
        threads=1,
        clock="CPU seconds",
        prompt_tokens=PROMPT_TOKENS,
        steps={case.name: case.steps for case in settings.cases},
        repeats=settings.repeats,
    )
    write_json(settings.out / "manifest.json", {"schema_version": "1.0", "provenance": provenance})
    write_figure(settings.out)
    return summary


def _measured(module: str, *arguments: object) -> Iterator[dict[str, Any]]:
    """The JSON lines that a module of this study prints in a fresh process on one thread."""
    command = [sys.executable, "-m", f"studies.cpu_decoding.{module}", *map(str, arguments)]
    with subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENTS[module]}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def summarise(speed: pd.DataFrame) -> pd.DataFrame:
    """Median and 20/80 percentiles over the repeats, of tokens per CPU second and of the ratio to the float model."""
    rows = []
    for (model, mode, bits), group in speed.groupby(["model", "mode", "weight_bits"], sort=False):
        row: dict[str, Any] = {"model": model, "mode": mode, "weight_bits": bits, "n": len(group)}
        for name, column in (("tokens_per_cpu_s", "tokens_per_cpu_s"), ("ratio", "ratio_to_float")):
            row |= zip((f"{name}_p20", f"{name}_median", f"{name}_p80"), spread(group[column].tolist()), strict=True)
        rows.append(row)
    return pd.DataFrame(rows)


def slower_widths(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of cached weights that are slower than the float model beyond what two float runs differ by.

    Slower means that the 80th percentile of the ratio lies below 1, and the median below the 20th percentile of the
    second float run.
    """
    floats = summary[summary["mode"] == FLOAT_AGAIN].set_index("model")["ratio_p20"]
    cached = summary[summary["mode"] == CACHED]
    noise = cached["model"].map(floats)
    return cached[(cached["ratio_p80"] < 1) & (cached["ratio_median"] < noise)]


def _say(settings: Settings, text: str) -> None:
    if settings.progress:
        print(text, file=sys.stderr, flush=True)
