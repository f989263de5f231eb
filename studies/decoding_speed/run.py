"""Measure every model and write tables, provenance and figure; ``plot.py`` draws what this writes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from accuracy.model import load_model
from hwsim.trace import atomic_writer, collect_provenance, write_json
from studies.common.machine import cpu_model
from studies.common.timing import one_torch_thread, spread
from studies.decoding_speed.agreement import measure_agreement
from studies.decoding_speed.caches import measure_caches
from studies.decoding_speed.sharing import POINTS, full_length_sharing, measure_grid_time, measure_sharing
from studies.decoding_speed.subjects import MAX_NEW_TOKENS, make_case, subject_names
from studies.decoding_speed.throughput import MODES, measure_throughput

Tables = dict[str, pd.DataFrame]
QUICK_POINTS = (2, 4)
# A grid takes the longest, and its speed-up hardly varies: both ways take the same steps of the same batches.
GRID_REPEATS = 3


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        repeats: Turns of every timed mode; at most three of whole grids.
        quick: The shipped model with a handful of prompts only, for tests.
        progress: Say what is going on.
    """

    out: Path
    repeats: int = 5
    quick: bool = False
    progress: bool = True


def run_decoding_speed(settings: Settings) -> Tables:
    """Quantise and measure every model; returns the tables that were written."""
    from studies.decoding_speed.plot import write_figure

    begin = time.process_time()
    points = QUICK_POINTS if settings.quick else POINTS
    rows: dict[str, list[dict[str, Any]]] = {"sharing": full_length_sharing(MAX_NEW_TOKENS, points)}
    prompts: dict[str, int] = {}
    with one_torch_thread(), TemporaryDirectory() as scratch:
        for name in subject_names(settings.quick):
            case = make_case(name, Path(scratch) / name, settings.quick)
            prompts[name] = len(case.prompts)
            lm = load_model(case.store)
            measurements = {
                "speed": measure_throughput(lm, case, MODES, settings.repeats),
                "sharing": measure_sharing(lm, case, points),
                "grid": measure_grid_time(lm, case, min(settings.repeats, GRID_REPEATS)),
                "caches": measure_caches(lm, case, settings.repeats),
                "agreement": measure_agreement(case),
            }
            for kind, measured in measurements.items():
                if settings.progress:
                    print(f"{name}: {kind}", file=sys.stderr, flush=True)
                rows.setdefault(kind, []).extend(measured)
    tables = {name: pd.DataFrame(found) for name, found in rows.items()}
    tables["summary"] = summarise(
        tables["speed"], ["model", "mode", "batch_size"], ["tokens_per_cpu_s", "ratio_to_plain"]
    )
    tables["grid_summary"] = summarise(tables["grid"], ["model", "schedules", "steps_saved"], ["speed_up"])
    tables["caches_summary"] = summarise(
        tables["caches"], ["model", "cache", "batch_size"], ["tokens_per_cpu_s", "ratio_to_dynamic"]
    )
    for name, table in tables.items():
        with atomic_writer(settings.out / f"{name}.csv") as file:
            table.to_csv(file, index=False)
    provenance = collect_provenance(
        settings.out,
        cpu=cpu_model(),
        threads=1,
        clock="CPU seconds",
        prompts=prompts,
        max_new_tokens=MAX_NEW_TOKENS,
        repeats=settings.repeats,
        cpu_s=round(time.process_time() - begin),
    )
    write_json(settings.out / "manifest.json", {"schema_version": "1.0", "provenance": provenance})
    write_figure(settings.out)
    return tables


def summarise(table: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Median and 20/80 percentiles of ``columns`` over the repeats, for every combination of ``keys``."""
    rows = []
    for key, group in table.groupby(list(keys), sort=False):
        row: dict[str, Any] = dict(zip(keys, key, strict=True)) | {"n": len(group)}
        for column in columns:
            names = (f"{column}_p20", f"{column}_median", f"{column}_p80")
            row |= zip(names, spread(group[column].tolist()), strict=True)
        rows.append(row)
    return pd.DataFrame(rows)
