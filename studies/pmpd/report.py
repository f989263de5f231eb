"""What the comparisons say of the paper's claims, counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from studies.common.output import format_table

if TYPE_CHECKING:
    from collections.abc import Iterator

VERDICTS = ("holds", "not resolved", "contradicted")
TITLES = {
    "table4": "Table 4, Fig. 6: prefill and decode widths",
    "fig3": "Fig. 3: where the high width is spent",
    "table1": "Table 1: schedulers and baselines",
    "fig7": "Fig. 7: inputs of the learned scheduler",
    "table9": "Table 9: the same with GPTQ",
}


def print_summary(folder: Path) -> None:
    """Print each claim with how many of the models and pairs of widths it holds for, by the deciding metric."""
    for title, rows in claim_counts(folder):
        print(title)
        print(format_table(["claim", *VERDICTS], [[claim, *map(str, counts)] for claim, counts in rows]))
        print()


def claim_counts(folder: Path) -> Iterator[tuple[str, list[tuple[str, list[int]]]]]:
    """By experiment: claims with the number of cases of each verdict, by each model's deciding metric."""
    comparisons = pd.read_csv(folder / "comparisons.csv")
    scores = pd.read_csv(folder / "scores.csv")
    deciding = scores.groupby("model", sort=False)["metric"].first()
    comparisons = comparisons[comparisons["metric"] == comparisons["model"].map(deciding)]
    for experiment, title in TITLES.items():
        part = comparisons[comparisons["experiment"] == experiment]
        claims = [
            (str(claim), [int((group["verdict"] == verdict).sum()) for verdict in VERDICTS])
            for claim, group in part.groupby("claim", sort=False)
        ]
        if claims:
            yield title, claims
