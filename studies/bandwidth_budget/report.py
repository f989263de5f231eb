"""The tables of the bandwidth budget as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from studies.common.output import format_table

if TYPE_CHECKING:
    import pandas as pd

GB = 1e9


def gigabytes(value: float) -> str:
    """Three significant digits of GB/s, without an exponent.

    >>> gigabytes(22.06e9), gigabytes(3076e9)
    ('22.1', '3,076')
    """
    in_gb = value / GB
    return f"{in_gb:,.0f}" if in_gb >= 99.95 else f"{in_gb:.3g}"


def budget_text(budget: pd.DataFrame) -> str:
    """GB/s by schedule and target, a table per model and context; what is out of reach names the limiting unit."""
    import pandas as pd

    tables = []
    for (model, prompt), group in budget.groupby(["model", "prompt_tokens"], sort=False):
        targets = sorted(set(group["target_tokens_per_s"]))
        rows = []
        for (bits, label), mine in group.groupby(["mean_decode_bits", "schedule"]):
            cells = [str(label), f"{bits:.2f}"]
            for target in targets:
                found = mine[mine["target_tokens_per_s"] == target].iloc[0]
                reached = not pd.isna(found["bandwidth_bytes_per_s"])
                cells.append(gigabytes(found["bandwidth_bytes_per_s"]) if reached else f"none: {found['limited_by']}")
            rows.append(cells)
        header = ["schedule", "mean bits", *(f"{target:g} tokens/s" for target in targets)]
        tables.append(f"{model}, prompt of {prompt} tokens: least GB/s\n{format_table(header, rows)}")
    return "\n\n".join(tables)


def bit_value_text(bit_value: pd.DataFrame) -> str:
    """GB/s that one weight bit costs, by model, context and target; ``-`` where a width is out of reach."""
    targets = sorted(set(bit_value["target_tokens_per_s"]))
    rows = []
    key = ["model", "prompt_tokens", "from_bits", "to_bits"]
    for (model, prompt, low, high), mine in bit_value.groupby(key, sort=False):
        by_target = dict(zip(mine["target_tokens_per_s"], mine["bytes_per_s_per_bit"], strict=True))
        cells = [gigabytes(by_target[target]) if target in by_target else "-" for target in targets]
        rows.append([f"{model}, prompt of {prompt}, {low} to {high} bits", *cells])
    return format_table(["GB/s per bit", *(f"{target:g} tokens/s" for target in targets)], rows)


def print_tables(tables: Mapping[str, pd.DataFrame]) -> None:
    """Print the budget, what a bit is worth and how far off both may be."""
    from dse.validation import judged_by

    print(budget_text(tables["budget"]))
    if len(tables["bit_value"]):
        print(f"\nwhat one weight bit costs\n{bit_value_text(tables['bit_value'])}")
    print(
        "\nbandwidth is searched to 0.1%; the simulator's own error carries over to it: decoding speed was off by "
        f"{judged_by('realistic', 'decode_tokens_per_s')}; more by bittaper study validation\n"
    )
