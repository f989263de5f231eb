"""The paper's numbers.

Each stands in one file: qualities in ``dse/published``, Fig. 5's labels with the validation, GPU times with their
study; ``data/published.csv`` holds what none of these does.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from dse.quality_files import quality_path, read_named_quality
from hwsim.trace import Quality, canonical_sha256, file_sha256

CITATION = "Chen et al., Progressive Mixed-Precision Decoding for Efficient LLM Inference, arXiv:2410.13461"
PRIMARY = {"cnn-dm": "rouge_l", "dialogsum": "rouge_l", "iwslt-fr-en": "bleu", "mt-bench": "fidelity_rouge_l"}
"""The first metric that the paper prints for a task."""

LOW, HIGH, STATIC, LEARNED, DNS = "low", "high", "static", "learned", "dns"


@dataclass(frozen=True)
class Printed:
    """One number of the paper.

    Attributes:
        source: Where it is printed.
        model: Named shape, or what a mean is over.
        task: Data set.
        method: Of the table's rows.
        mean_decode_bits: Mean bits of the method; NaN for a difference.
        quantity: Metric, or what the text gives.
        value: The number.
    """

    source: str
    model: str
    task: str
    method: str
    mean_decode_bits: float
    quantity: str
    value: float


@cache
def printed(source: str) -> tuple[Printed, ...]:
    """What ``data/published.csv`` holds of one source, for example ``Table 4``."""
    text = (resources.files("studies.paper") / "data" / "published.csv").read_text(encoding="utf-8")
    return tuple(
        Printed(
            row["source"],
            row["model"],
            row["task"],
            row["method"],
            float(row["mean_decode_bits"] or "nan"),
            row["quantity"],
            float(row["value"]),
        )
        for row in csv.DictReader(text.splitlines())
        if row["source"] == source
    )


def published_sha256(*tables: str) -> str:
    """What the printed numbers are: a hash of ``data/published.csv`` and of published tables.

    Args:
        tables: For example ``pmpd-table1``.
    """
    own = resources.files("studies.paper") / "data" / "published.csv"
    texts = [own.read_text(encoding="utf-8"), *(file_sha256(quality_path(f"published:{name}")) for name in tables)]
    return canonical_sha256(texts)


def quality_table(name: str) -> Iterator[Printed]:
    """The records of a published table, with the methods' names: low, high, static or learned.

    Args:
        name: For example ``pmpd-table1``.
    """
    records = read_named_quality(f"published:{name}")
    uniform: dict[tuple[str, str], float] = {}
    for one in records:
        if one.schedule is not None and len(one.schedule.widths()) == 1:
            key = (one.model_name, one.task)
            uniform[key] = max(uniform.get(key, 0.0), one.mean_decode_bits)
    for one in records:
        if one.schedule is None:
            method = LEARNED
        elif len(one.schedule.widths()) > 1:
            method = STATIC
        else:
            method = HIGH if one.mean_decode_bits == uniform[one.model_name, one.task] else LOW
        yield _printed(name.replace("pmpd-table", "Table "), one, method)


def dense_and_sparse() -> Iterator[Printed]:
    """The dense-and-sparse rows of Tables 1 (gold references) and 2 (``mt-bench``)."""
    for one in read_named_quality("published:pmpd-dense-and-sparse"):
        yield _printed("Table 2" if one.task == "mt-bench" else "Table 1", one, DNS)


def _printed(source: str, one: Quality, method: str) -> Printed:
    return Printed(source, one.model_name, one.task, method, one.mean_decode_bits, one.metric, one.value)
