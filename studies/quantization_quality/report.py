"""What the command prints of a finished run."""

from __future__ import annotations

from collections.abc import Sequence

from studies.common.output import format_table
from studies.quantization_quality.table import Row


def print_summary(rows: Sequence[Row]) -> None:
    """Print every row of the main table, model by model."""
    header = ["quantiser", "bits/weight", "perplexity", "log-ppl - full", "Rouge-L", "same leading tokens %"]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        print(f"{model}: {mine[0]['answers']} answers, {mine[0]['prompts']} prompts; 95% intervals")
        print(format_table(header, [_line(row) for row in mine]))
        print()


def _line(row: Row) -> list[str]:
    matched = f" = {row['matched_to']}" if row["matched_to"] else ""
    return [
        f"{row['quantizer']} {row['bits']}{matched}",
        f"{row['bits_per_weight']:.2f}",
        _cell(row, "perplexity", 3),
        _cell(row, "log_perplexity_minus_full", 4),
        _cell(row, "rouge_l", 1),
        _cell(row, "leading_tokens_percent", 1),
    ]


def _cell(row: Row, name: str, digits: int) -> str:
    if row[name] is None:
        return "not finite"
    return f"{row[name]:.{digits}f} [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"
