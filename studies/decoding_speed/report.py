"""What the command prints of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from studies.common.output import format_table
from studies.decoding_speed.run import Tables
from studies.decoding_speed.sharing import PAPER_POINTS

_COUNTS = ("model", "widths", "schedules", "steps", "steps_run")


def print_tables(tables: Tables) -> None:
    """Print speed, shared prefixes, caches, and what batches change."""
    for text in (
        _rates(tables["summary"], "mode", "ratio_to_plain"),
        f"N = {PAPER_POINTS} candidate switch points",
        _sharing(tables["sharing"]),
        _grids(tables["grid_summary"]),
        _rates(tables["caches_summary"], "cache", "ratio_to_dynamic"),
        _agreement(tables["agreement"]),
    ):
        print(text)
        print()


def _rates(summary: pd.DataFrame, what: str, ratio: str) -> str:
    rows = [
        [
            f"{row['model']}: {row[what]}",
            str(row["batch_size"]),
            f"{row['tokens_per_cpu_s_median']:.0f}",
            *_cell(row, ratio),
        ]
        for row in summary.to_dict("records")
    ]
    return format_table([f"model: {what}", "batch", "tokens per CPU s", ratio.replace("_", " "), "20..80%"], rows)


def _sharing(sharing: pd.DataFrame) -> str:
    rows = [
        [str(row[name]) for name in ("model", "widths", "schedules", "steps", "steps_run")]
        + [f"{row['steps_saved']:.1%}"]
        for row in sharing[sharing["points"] == PAPER_POINTS].to_dict("records")
    ]
    return format_table(["model", "widths", "schedules", "steps one by one", "steps run", "saved"], rows)


def _grids(grids: pd.DataFrame) -> str:
    rows = [
        [str(row["model"]), str(row["schedules"]), f"{row['steps_saved']:.1%}", *_cell(row, "speed_up")]
        for row in grids.to_dict("records")
    ]
    return format_table(["model", "schedules", "steps saved", "speed-up of the grid", "20..80%"], rows)


def _agreement(agreement: pd.DataFrame) -> str:
    rows = [
        [
            f"{row['model']}, {row['dtype']}",
            str(row["batch_size"]),
            f"{row['differ']} of {row['responses']}",
            "-" if pd.isna(row["largest_gap"]) else f"{row['largest_gap']:.2g}",
        ]
        for row in agreement.to_dict("records")
    ]
    return format_table(["model", "batch", "differ from batch 1", "largest gap of logits"], rows)


def _cell(row: Mapping[Any, Any], name: str) -> list[str]:
    median, low, high = (row[f"{name}_{part}"] for part in ("median", "p20", "p80"))
    return [f"{median:.2f}", f"{low:.2f}..{high:.2f}"]
