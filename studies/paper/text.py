"""What the paper's text says of its own tables, beside what the tables say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studies.paper.comparison import Comparison
from studies.paper.published import DNS, LEARNED, STATIC, Printed, printed

CASE = "the paper's text against its own table"
TEXT = "Section 5.1 (text)"
ABOVE = "Rouge-L above dense-and-sparse"
HUNDREDTH = 0.005
"""Mean bits are printed with two digits."""


def table1_claims(cases: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Sections 4.3 and 5.1 on Table 1.

    Args:
        cases: One row a model and task: ``high``, ``static``, ``learned``, ``dns`` and ``dns_bits`` (None where not
            printed), the bits that each scheduler saves of ``high_bits``, and what it gains, relative to ``high``.
    """
    n = len(cases)
    beside = [row for row in cases if row[DNS] is not None]
    translated = [row for row in cases if row["task"] == "iwslt-fr-en"]
    rivalled = max((row for row in translated if row[DNS] is not None), key=lambda row: row[STATIC] / row[DNS])
    rouge = {(row["model"], row["task"]): row for row in beside if row["metric"] == "rouge_l"}
    own, elsewhere = (_lag(rouge["mobilellama-1.4b", task]) for task in ("cnn-dm", "dialogsum"))
    other = max(rouge.values(), key=_lag)
    best = max(cases, key=lambda row: max(row[STATIC], row[LEARNED]) / row["high"])
    cut = max(cases, key=_cut)
    for quantity, ours, basis in (
        (
            "BLEU above dense-and-sparse",
            rivalled[STATIC] / rivalled[DNS] - 1,
            f"{rivalled['model']}: {rivalled[STATIC]:g} over {rivalled[DNS]:g}",
        ),
        (
            "Rouge-L lag of dense-and-sparse, MobileLLaMA on CNN/DM",
            own,
            f"{elsewhere:.0%} on dialogsum; {_lag(other):.0%} is that of {other['model']} on {other['task']}",
        ),
        (
            "gain over the high width",
            max(best[STATIC], best[LEARNED]) / best["high"] - 1,
            f"{best['model']}, {best['task']}",
        ),
        ("cut of mean bits", _cut(cut), f"{cut['model']}, {cut['task']}"),
    ):
        yield text_comparison(statement(TEXT, quantity), ours, f"Table 1, {basis}")
    summaries = [row for row in cases if row["task"] != "iwslt-fr-en"]
    for method, rows in (("Static", summaries), ("Learned", summaries), ("Static", translated)):
        key = f"{method.lower()}_relative"
        worst = min(rows, key=lambda row: row[key])
        quantity = f"largest loss of {method} on {'IWSLT' if rows is translated else 'CNN/DM and DialogSum'}"
        basis = f"Table 1, {worst['model']}, {worst['task']}: {worst[key]:+.1%}"
        yield text_comparison(statement(TEXT, quantity), max(0.0, -worst[key]), basis, n=len(rows))
    for least, choose in (("least", min), ("largest", max)):
        row = choose(translated, key=_static_cut)
        basis = f"Table 1, {row['model']}: {row['high_bits'] - row[f'{STATIC}_bits_saved']:g} of {row['high_bits']:g}"
        quantity = f"{least} cut of Static's mean bits on IWSLT"
        yield text_comparison(statement(TEXT, quantity), _static_cut(row), basis, n=len(translated))
    # Some rivals have the bits of Learned, which are more than Static's there: behind with more is behind with as many.
    more = [row[f"{DNS}_bits"] - (row["high_bits"] - row[f"{STATIC}_bits_saved"]) for row in beside]
    beaten = [bits for bits, row in zip(more, beside, strict=True) if row[STATIC] > row[DNS] and bits > -HUNDREDTH]
    basis = (
        f"Table 1: {len(beaten)} of the {len(beside)} that are printed, in {sum(bits > HUNDREDTH for bits in beaten)} "
        "of them with fewer bits than dense-and-sparse"
    )
    behind = statement(TEXT, "share of tasks with dense-and-sparse behind Static at its bits")
    yield text_comparison(behind, len(beaten) / len(beside), basis, n=len(beside))
    both = [
        row
        for row in cases
        if row[LEARNED] > row[STATIC] and row[f"{LEARNED}_bits_saved"] > row[f"{STATIC}_bits_saved"]
    ]
    yield text_comparison(
        statement("Section 4.3 (text)", "entries where Learned beats Static in score and bits (some cases)"),
        float(len(both)),
        f"Table 1: {len(both) or 'none'} has both; a higher score in "
        f"{sum(row[LEARNED] > row[STATIC] for row in cases)}, fewer bits in "
        f"{sum(row[f'{LEARNED}_bits_saved'] > row[f'{STATIC}_bits_saved'] for row in cases)} others",
        unit="entries",
        n=n,
    )


def table2_claims(rows: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Section 5.1's percentages of Table 2.

    Args:
        rows: One row a model and metric, by method.
    """
    gains = {row["model"]: row[LEARNED] / row[DNS] - 1 for row in rows if row["metric"] == "fidelity_rouge_l"}
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    yield text_comparison(statement(TEXT, f"{ABOVE} (least)"), gains[least], f"Table 2, {least}")
    yield text_comparison(statement(TEXT, f"{ABOVE} (largest)"), gains[most], f"Table 2, {most}")
    for quantity, metric in (("drop in BERTScore", "fidelity_bertscore"), ("drop in Rouge-L", "fidelity_rouge_l")):
        drops = {row["model"]: row["high"] - row[LEARNED] for row in rows if row["metric"] == metric}
        most = max(drops, key=drops.__getitem__)
        yield text_comparison(
            statement(TEXT, quantity), drops[most], f"Table 2, {most}, largest of four", unit="points"
        )


def text_comparison(
    said: Printed, ours: float, basis: str, *, unit: str = "share", name: str | None = None, n: int | None = None
) -> Comparison:
    """One number of the text beside the one that follows from the paper's tables.

    Args:
        said: The number.
        ours: What follows.
        basis: From where.
        unit: Of both.
        name: What it is, where the number's ``quantity`` is a metric.
        n: Entries that it is over.
    """
    return Comparison(
        case=CASE,
        quantity=name or said.quantity,
        unit=unit,
        paper=said.value,
        paper_basis=said.source.partition(" (")[0],
        ours=ours,
        our_basis=basis,
        kind="derived",
        same_subject=True,
        n=n,
        headline=True,
    )


def statement(source: str, quantity: str) -> Printed:
    """The number of the text that is called so in ``data/published.csv``."""
    (found,) = (one for one in printed(source) if one.quantity == quantity)
    return found


def _lag(row: Mapping[str, Any]) -> float:
    return float(1 - row[DNS] / row[STATIC])


def _static_cut(row: Mapping[str, Any]) -> float:
    return float(row[f"{STATIC}_bits_saved"] / row["high_bits"])


def _cut(row: Mapping[str, Any]) -> float:
    return float(max(row[f"{method}_bits_saved"] for method in (STATIC, LEARNED)) / row["high_bits"])
