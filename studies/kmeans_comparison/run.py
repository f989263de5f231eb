"""Cluster real rows by every method and compare errors and times; ``plot.py`` draws what this writes."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from hwsim.trace import atomic_writer, collect_provenance, write_json
from studies.common.machine import cpu_model, usable_cores
from studies.common.timing import measured_apart
from studies.kmeans_comparison.measure import JOINT, JOINT_BITS, ORIGINAL, OURS, SCIKIT_LEARN
from studies.kmeans_comparison.methods import (
    DEFAULT_ITERATIONS,
    ORIGINAL_ITERATIONS,
    optional,
    original,
    ours,
    partition_errors,
    scikit_learn,
)
from studies.kmeans_comparison.rows import CALIBRATION_TEXTS, FISHER, Part, generated_rows, real_rows

SEEDS, PARENT = (2, 3, 4), 8
# Sums of a row's thousand terms in float64, taken in another order.
TOLERANCE = 1e-9
GENERATED_ROWS, GENERATED_COLUMNS = 64, 4096
TIMED_ROWS = 384
GROUP = ["model", "weighting"]


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        rows: Rows of weights to compare errors on, over all models; None as :func:`real_rows` has it.
        repeats: Timed repeats.
        progress: Show progress.
    """

    out: Path
    rows: int | None = None
    repeats: int = 5
    progress: bool = True


def run_kmeans_comparison(settings: Settings) -> dict[str, pd.DataFrame]:
    """Compare errors and times; write tables, provenance and figure; returns the tables by name.

    Raises:
        InputError: If flash1dkmeans or scikit-learn is not installed, or there are not that many rows.
    """
    from studies.kmeans_comparison.plot import write_figure

    optional("flash1dkmeans")
    optional("sklearn", "scikit-learn")
    parts = real_rows(settings.rows)
    found = [errors_of(part) for part in tqdm(parts, desc="errors", unit="matrix", disable=not settings.progress)]
    errors = pd.concat(found, ignore_index=True)
    times = pd.DataFrame(_times(parts, settings))
    tables = {
        "seed": summarise_seed(errors),
        "nested": summarise_nested(errors),
        "times": summarise_times(times),
        "repeats": times,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with atomic_writer(settings.out / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    names = ("seed", "nested", "times")
    records = {name: json.loads(tables[name].to_json(orient="records", double_precision=12)) for name in names}
    write_json(settings.out / "kmeans_comparison.json", {"schema_version": "1.0", **records})
    write_json(settings.out / "manifest.json", {"schema_version": "1.0", "provenance": _provenance(settings, parts)})
    write_figure(settings.out)
    return tables


def errors_of(part: Part) -> pd.DataFrame:
    """Weighted squared error of every row by every method: ``method, seed_bits, bits, row, error``.

    The rows of ``direct`` are clustered at that width alone: what nesting costs.
    """
    found: list[tuple[str, int, int, NDArray[np.float64]]] = []
    for seed in SEEDS:
        nested = {
            OURS: ours(part, seed, PARENT),
            JOINT: ours(part, seed, PARENT, seed + JOINT_BITS),
            ORIGINAL: original(part, seed, PARENT),
        }
        for method, labels in nested.items():
            found += [
                (method, seed, bits, partition_errors(part, labels, PARENT - bits)) for bits in range(seed, PARENT + 1)
            ]
        found.append((SCIKIT_LEARN, seed, seed, partition_errors(part, scikit_learn(part, seed))))
    for bits in range(min(SEEDS), PARENT + 1):
        found.append(("direct", bits, bits, partition_errors(part, ours(part, bits, bits))))
    return pd.concat(
        pd.DataFrame(
            {
                "model": part.model,
                "weighting": part.weighting,
                "method": method,
                "seed_bits": seed,
                "bits": bits,
                "row": np.arange(len(errors)),
                "error": errors,
            }
        )
        for method, seed, bits, errors in found
    )


def summarise_seed(errors: pd.DataFrame) -> pd.DataFrame:
    """At each seed width: sums over rows, and rows where another method is below ours."""
    summary = []
    for (model, weighting, seed), group in errors[errors["bits"] == errors["seed_bits"]].groupby(
        [*GROUP, "seed_bits"], sort=False
    ):
        if seed not in SEEDS:
            continue
        by = {name: rows["error"].to_numpy() for name, rows in group.groupby("method")}
        line: dict[str, Any] = {"model": model, "weighting": weighting, "seed_bits": seed, "rows": by[OURS].size}
        for other in (ORIGINAL, SCIKIT_LEARN):
            ratio = _ratios(by[other], by[OURS])
            line |= {
                f"{other}_over_ours": by[other].sum() / by[OURS].sum(),
                f"rows_{other}_below": int((by[OURS] > by[other] * (1 + TOLERANCE)).sum()),
                f"{other}_row_p50": float(np.quantile(ratio, 0.5)),
                f"{other}_row_p80": float(np.quantile(ratio, 0.8)),
                f"{other}_row_max": float(ratio.max()),
            }
        summary.append(line)
    return pd.DataFrame(summary)


def summarise_nested(errors: pd.DataFrame) -> pd.DataFrame:
    """At each seed width and width: sums over rows of ours, the original's and direct clustering, as ratios."""
    direct = errors[errors["method"] == "direct"]
    summary = []
    nested = errors[errors["method"].isin([OURS, JOINT, ORIGINAL])]
    for (model, weighting, seed, bits), group in nested.groupby([*GROUP, "seed_bits", "bits"], sort=False):
        by = {name: rows["error"].to_numpy() for name, rows in group.groupby("method")}
        same = (direct["model"] == model) & (direct["weighting"] == weighting) & (direct["bits"] == bits)
        least = direct.loc[same, "error"].to_numpy()
        summary.append(
            {
                "model": model,
                "weighting": weighting,
                "seed_bits": seed,
                "bits": bits,
                "rows": by[OURS].size,
                "ours": by[OURS].sum(),
                "original_over_ours": by[ORIGINAL].sum() / by[OURS].sum(),
                "rows_original_below": int((by[OURS] > by[ORIGINAL] * (1 + TOLERANCE)).sum()),
                "original_row_p20": float(np.quantile(_ratios(by[ORIGINAL], by[OURS]), 0.2)),
                "original_row_p50": float(np.quantile(_ratios(by[ORIGINAL], by[OURS]), 0.5)),
                "original_row_p80": float(np.quantile(_ratios(by[ORIGINAL], by[OURS]), 0.8)),
                "jointly_over_ours": by[JOINT].sum() / by[OURS].sum(),
                "ours_over_direct": by[OURS].sum() / least.sum() if least.sum() else 1.0,
            }
        )
    return pd.DataFrame(summary)


def summarise_times(times: pd.DataFrame) -> pd.DataFrame:
    """Median and 20/80 percentiles over the repeats."""
    keys = ["rows", "cores", "clock", "seed_bits", "parent_bits", "method"]
    grouped = times.groupby(keys, sort=False)["seconds_per_million_weights"]
    return pd.DataFrame({f"p{place}": grouped.quantile(place / 100) for place in (20, 50, 80)}).reset_index()


def _ratios(theirs: NDArray[np.float64], mine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row by row; one where both are zero."""
    ratio: NDArray[np.float64] = np.divide(theirs, mine, out=np.ones_like(mine), where=mine > 0)
    return ratio


def _times(parts: list[Part], settings: Settings) -> list[dict[str, Any]]:
    """Time all methods on one core and on all, in fresh processes, on generated long rows and on real ones."""
    arrays: dict[str, NDArray[Any]] = {}
    for part in [generated_rows(GENERATED_ROWS, GENERATED_COLUMNS), *timed_rows(parts)]:
        arrays[f"{part.model}.values"], arrays[f"{part.model}.weights"] = part.values, part.weights  # noqa: PD011
    times: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        for count in dict.fromkeys((1, usable_cores())):
            if settings.progress:
                print(f"times on {count} of {usable_cores()} cores", file=sys.stderr, flush=True)
            times += measured_apart("studies.kmeans_comparison.measure", path, count, settings.repeats)
    return times


def timed_rows(parts: list[Part]) -> list[Part]:
    """The longest Fisher-weighted rows of the shipped model and of all, repeated up to a number worth timing."""
    fisher = [part for part in parts if part.weighting == FISHER]
    shipped = [part for part in fisher if part.model == fisher[0].model]
    found: dict[str, Part] = {}
    for some in (shipped, fisher):
        columns = max(part.columns for part in some)
        chosen = [part for part in some if part.columns == columns]
        name = f"{chosen[0].model}, {columns} columns"
        again = np.resize(np.arange(sum(part.rows for part in chosen)), TIMED_ROWS)
        values = np.concatenate([part.values for part in chosen])[again]  # noqa: PD011
        weights = np.concatenate([part.weights for part in chosen])[again]
        found[name] = Part(name, FISHER, values, weights)
    return list(found.values())


def _provenance(settings: Settings, parts: list[Part]) -> dict[str, str]:
    return collect_provenance(
        settings.out,
        cpu=cpu_model(),
        cores=usable_cores(),
        models=", ".join(dict.fromkeys(part.model for part in parts)),
        rows=sum(part.rows for part in parts) // 2,
        calibration_texts_per_model=CALIBRATION_TEXTS,
        repeats=settings.repeats,
        tolerance=TOLERANCE,
        lloyd_iterations=f"{DEFAULT_ITERATIONS} for errors, {ORIGINAL_ITERATIONS} for times",
        **{name.replace("-", "_"): version(name) for name in ("flash1dkmeans", "scikit-learn", "numba")},
    )
