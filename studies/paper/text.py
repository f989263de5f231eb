"""What the paper's text says of its own tables, beside what the tables say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studies.paper.comparison import Comparison
from studies.paper.published import DNS, LEARNED, STATIC, printed

CASE = "the paper's text against its own table"
TEXT = "Section 5.1 (text)"


def table1_claims(cases: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Section 5.1's percentages of Table 1.

    Args:
        cases: One row a model and task: ``high``, ``static``, ``learned``, ``dns`` (None where not printed), and the
            bits that each scheduler saves of ``high_bits``.
    """
    beside = [row for row in cases if row[DNS] is not None]
    iwslt = max((row for row in beside if row["task"] == "iwslt-fr-en"), key=lambda row: row[STATIC] / row[DNS])
    rouge = [row for row in beside if row["metric"] == "rouge_l"]
    own = max((row for row in rouge if row["model"] == "mobilellama-1.4b"), key=_lag)
    other = max(rouge, key=_lag)
    best = max(cases, key=lambda row: max(row[STATIC], row[LEARNED]) / row["high"])
    cut = max(cases, key=_cut)
    for quantity, ours, basis in (
        (
            "BLEU above dense-and-sparse",
            iwslt[STATIC] / iwslt[DNS] - 1,
            f"{iwslt['model']}: {iwslt[STATIC]:g} over {iwslt[DNS]:g}",
        ),
        (
            "Rouge-L lag of dense-and-sparse",
            _lag(own),
            f"{own['model']}, {own['task']}; {_lag(other):.0%} is that of {other['model']} on {other['task']}",
        ),
        (
            "gain over the high width",
            max(best[STATIC], best[LEARNED]) / best["high"] - 1,
            f"{best['model']}, {best['task']}",
        ),
        ("cut of mean bits", _cut(cut), f"{cut['model']}, {cut['task']}"),
    ):
        yield text_comparison(TEXT, quantity, ours, f"Table 1, {basis}")


def table2_claims(rows: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Section 5.1's percentages of Table 2.

    Args:
        rows: One row a model and metric, by method.
    """
    gains = {row["model"]: row[LEARNED] / row[DNS] - 1 for row in rows if row["metric"] == "fidelity_rouge_l"}
    drops = {row["model"]: row["high"] - row[LEARNED] for row in rows if row["metric"] == "fidelity_bertscore"}
    least, most, drop = (
        min(gains, key=gains.__getitem__),
        max(gains, key=gains.__getitem__),
        max(drops, key=drops.__getitem__),
    )
    yield text_comparison(TEXT, "Rouge-L above dense-and-sparse (least)", gains[least], f"Table 2, {least}")
    yield text_comparison(TEXT, "Rouge-L above dense-and-sparse (largest)", gains[most], f"Table 2, {most}")
    yield text_comparison(TEXT, "drop in BERTScore", drops[drop], f"Table 2, {drop}, largest of four", unit="points")


def text_comparison(
    source: str, quantity: str, ours: float, basis: str, *, unit: str = "share", n: int | None = None
) -> Comparison:
    """One number of the text beside the one that follows from the paper's tables.

    Args:
        source: Of the number in ``data/published.csv``.
        quantity: Its name there.
        ours: What follows.
        basis: From where.
        unit: Of both.
        n: Entries that it is over.
    """
    (paper,) = (one for one in printed(source) if one.quantity == quantity)
    return Comparison(
        case=CASE,
        quantity=quantity,
        unit=unit,
        paper=paper.value,
        paper_basis=source.replace(" (text)", "").replace(" (GPU)", ""),
        ours=ours,
        our_basis=basis,
        kind="derived",
        same_subject=True,
        n=n,
        headline=True,
    )


def _lag(row: Mapping[str, Any]) -> float:
    return float(1 - row[DNS] / row[STATIC])


def _cut(row: Mapping[str, Any]) -> float:
    return float(max(row[f"{method}_bits_saved"] for method in (STATIC, LEARNED)) / row["high_bits"])
