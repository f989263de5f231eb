"""The tables as Markdown, and what the comparisons say of the paper's claims, counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hwsim.trace import write_text
from studies.common.output import format_table

VERDICTS = ("holds", "the same", "not resolved", "contradicted")
TITLES = {
    "table4": "Table 4, Fig. 6: prefill and decode widths",
    "fig3": "Fig. 3: where the high width is spent, at equal lengths",
    "table1": "Table 1: schedulers and baselines",
    "fig7": "Fig. 7: inputs of the learned scheduler",
    "table9": "Table 9: schedulers on one GPTQ model a width",
}


def print_summary(folder: Path) -> None:
    """Print each claim with how many of the models and pairs of widths it holds for, by the deciding metric."""
    for title, rows in claim_counts(folder):
        print(title)
        print(format_table(["claim", *VERDICTS], [[claim, *map(str, counts)] for claim, counts in rows]))
        print()


def claim_counts(folder: Path) -> Iterator[tuple[str, list[tuple[str, list[int]]]]]:
    """By experiment: claims with the number of cases of each verdict, by each model's deciding metric."""
    comparisons = _deciding(folder, pd.read_csv(folder / "comparisons.csv"))
    for experiment, title in TITLES.items():
        part = comparisons[comparisons["experiment"] == experiment]
        claims = [
            (str(claim), [int((group["verdict"] == verdict).sum()) for verdict in VERDICTS])
            for claim, group in part.groupby("claim", sort=False)
        ]
        if claims:
            yield title, claims


def write_tables(folder: Path) -> None:
    """Write ``tables.md``: scores with paired differences to the high width alone, then claims case by case."""
    scores = pd.read_csv(folder / "scores.csv")
    comparisons = pd.read_csv(folder / "comparisons.csv")
    lines = [
        "# Tables",
        "",
        "Brackets are 95% bootstrap intervals over prompts, seed 0. Differences are paired over the same prompts. "
        "Mean bits are over decode steps. The other metrics' comparisons are in comparisons.csv.",
    ]
    for experiment, title in TITLES.items():
        part = scores[scores["experiment"] == experiment]
        if part.empty:
            continue
        lines += ["", f"## {title}"]
        for (model, pair), rows in part.groupby(["model", "pair"], sort=False):
            lines += ["", f"### {model}, {pair} bits, n = {rows['n'].iloc[0]}", "", *_scores(rows)]
            decided = _deciding(folder, comparisons)
            claims = decided[
                (decided["experiment"] == experiment) & (decided["model"] == model) & (decided["pair"] == pair)
            ]
            lines += ["", *_claims(claims)]
    write_text(folder / "tables.md", "\n".join(lines) + "\n")


def _scores(rows: pd.DataFrame) -> Iterator[str]:
    metrics = list(rows["metric"].unique())
    yield f"| method | mean bits | {' | '.join(metrics)} | {metrics[0]} less high alone |"
    yield "|---" * (len(metrics) + 3) + "|"
    for method, part in rows.groupby("method", sort=False):
        by_metric = part.set_index("metric")
        first = by_metric.loc[metrics[0]]
        cells = [f"{by_metric.loc[metric, 'value']:.2f}" if metric in by_metric.index else "" for metric in metrics]
        difference = _interval(*(first[f"minus_high_{end}"] for end in ("value", "ci_low", "ci_high")))
        yield f"| {method} | {first['mean_bits']:.3f} | {' | '.join(cells)} | {difference} |"


def _claims(rows: pd.DataFrame) -> Iterator[str]:
    if rows.empty:
        return
    yield "| claim | difference | against (mean bits) | says |"
    yield "|---|---|---|---|"
    for _, row in rows.iterrows():
        scale, unit = (100, "%") if row["relative"] else (1, "")
        value, low, high = (scale * row[end] for end in ("value", "ci_low", "ci_high"))
        difference = _interval(value, low, high, unit)
        against = f"{row['against']} ({row['against_mean_bits']:.3f})"
        yield f"| {row['method']}: {row['claim']} | {difference} | {against} | {row['verdict']} |"


def _interval(value: float, low: float, high: float, unit: str = "") -> str:
    return f"{value:+.2f}{unit} [{low:+.2f}, {high:+.2f}]"


def _deciding(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of each model's first metric, the one that decides."""
    first = pd.read_csv(folder / "scores.csv").groupby("model", sort=False)["metric"].first()
    return rows[rows["metric"] == rows["model"].map(first)]
