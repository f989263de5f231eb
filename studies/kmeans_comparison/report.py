"""What the study prints."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from studies.common.output import format_table
from studies.kmeans_comparison.measure import JOINT, ORIGINAL, OURS, PRESORTED, SCIKIT_LEARN

METHODS = (OURS, JOINT, ORIGINAL, PRESORTED, SCIKIT_LEARN)


def print_tables(tables: Mapping[str, pd.DataFrame]) -> None:
    """Print, per seed width, errors of the others relative to ours, and seconds per million weights."""
    seed = tables["seed"]
    below = int(seed[["rows_original_below", "rows_scikit-learn_below"]].to_numpy().sum())
    print(f"at the seed width, rows where another is better: {below} of {2 * seed['rows'].sum()}")
    lines = [
        [
            line["model"],
            line["weighting"],
            str(line["seed_bits"]),
            f"{line['original_over_ours']:.4f}",
            f"{line['scikit-learn_over_ours']:.4f}",
        ]
        for line in seed.to_dict("records")
    ]
    print(format_table(["model", "errors", "seed bits", "flash1dkmeans / ours", "scikit-learn / ours"], lines))
    nested = tables["nested"]
    above = nested[nested["original_over_ours"] < 1]
    print(f"nested, sums over rows above the original's: {len(above)} of {len(nested)}")
    for line in above.to_dict("records"):
        print(f"  {line['model']}, {line['weighting']}, seed {line['seed_bits']}, {line['bits']} bits")
    print(format_table(["rows", "cores", "widths", *METHODS], time_lines(tables["times"])))


def time_lines(times: pd.DataFrame) -> list[list[str]]:
    """Median seconds per million weights, a line per rows, cores and widths, a column per method."""
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in times.to_dict("records"):
        key = (row["rows"], f"{row['cores']} ({row['clock']} s)", f"{row['seed_bits']}..{row['parent_bits']}")
        lines.setdefault(key, {})[row["method"]] = f"{row['p50']:.3f}"
    return [[*key, *(found.get(method, "") for method in METHODS)] for key, found in lines.items()]
