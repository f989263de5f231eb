"""The answers as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studies.common.output import format_table

if TYPE_CHECKING:
    import pandas as pd


def _cell(bandwidth_bytes_per_s: float, schedule: object) -> str:
    import pandas as pd

    return "none" if pd.isna(bandwidth_bytes_per_s) else f"{bandwidth_bytes_per_s / 1e9:.3g} ({schedule})"


def savings_text(savings: pd.DataFrame) -> str:
    """GB/s with uniform widths and with PMPD, a row per model, task, target and loss."""
    import pandas as pd

    rows = [
        [
            str(row["model"]),
            str(row["task"]),
            f"{row['target_tokens_per_s']:g}",
            f"{100 * row['loss']:g}%",
            _cell(row["bandwidth_bytes_per_s_uniform"], row["schedule_uniform"]),
            _cell(row["bandwidth_bytes_per_s_pmpd"], row["schedule_pmpd"]),
            "-" if pd.isna(row["saving"]) else f"{100 * row['saving']:.0f}%",
        ]
        for row in savings.to_dict("records")
    ]
    header = ["model", "task", "tokens/s", "loss", "GB/s, uniform", "GB/s, PMPD", "saving"]
    return format_table(header, rows)
