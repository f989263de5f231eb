"""What the study prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.common.output import format_table, si


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print time and memory, a line a process."""
    columns = ["case", "process", "blocks", "wall s", "CPU s", "s / 1e6 weights", "peak RSS", "not file pages"]
    lines = [
        [
            row["case"],
            row["process"],
            str(row["blocks"]),
            f"{row['seconds']:.0f}",
            f"{row['cpu_s']:.0f}",
            f"{row['seconds_per_million_weights']:.3f}",
            si(row["peak_rss_bytes"], "B"),
            si(row["peak_anonymous_bytes"], "B"),
        ]
        for row in rows
    ]
    print(format_table(columns, lines))
