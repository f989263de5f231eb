"""What the paper prints agrees with itself where it can be checked, and is read from one place."""

from __future__ import annotations

from statistics import fmean

import pytest

from studies.paper.published import DNS, PRIMARY, STATIC, dense_and_sparse, printed, quality_table
from studies.paper.table1 import paper_cases
from studies.paper.table2 import paper_rows


@pytest.mark.parametrize("method", ["static", "learned"])
def test_the_mean_bits_saved_of_section_5_1_are_those_of_table_1(method: str) -> None:
    (text,) = (one.value for one in printed("Section 5.1") if (one.task, one.method) == ("Table 1", method))
    cases = paper_cases("pmpd-table1")
    assert len(cases) == 9
    assert fmean(row[f"{method}_bits_saved"] for row in cases) == pytest.approx(text, abs=0.005)


def test_the_mean_bits_saved_on_mt_bench_are_those_of_table_2() -> None:
    (text,) = (one.value for one in printed("Section 5.1") if one.task == "mt-bench")
    rows = [row for row in paper_rows() if row["metric"] == PRIMARY["mt-bench"]]
    assert len(rows) == 4
    assert fmean(row["high_bits"] - row["learned_bits"] for row in rows) == pytest.approx(text, abs=0.005)


def test_dense_and_sparse_reads_the_bits_of_a_scheduler() -> None:
    bits: dict[tuple[str, str], set[float]] = {}
    for table in ("pmpd-table1", "pmpd-table2"):
        for one in quality_table(table):
            bits.setdefault((one.model, one.task), set()).add(one.mean_decode_bits)
    rivals = list(dense_and_sparse())
    assert {one.method for one in rivals} == {DNS}
    assert len({(one.model, one.task) for one in rivals}) == 8 + 4
    for one in rivals:
        assert one.mean_decode_bits in bits[one.model, one.task]


def test_a_published_table_names_its_methods() -> None:
    found = [one for one in quality_table("pmpd-table5") if (one.model, one.task) == ("longchat-13b", "dialogsum")]
    by_method = {one.method: (one.mean_decode_bits, one.value) for one in found if one.quantity == "rouge_l"}
    assert by_method == {"low": (2.0, 10.6), "high": (3.0, 19.9), STATIC: (2.0, 20.3)}


def test_a_table_without_a_learned_scheduler_has_cases_without_one() -> None:
    cases = paper_cases("pmpd-table5")
    assert len(cases) == 6
    assert all("learned" not in row and "static" in row for row in cases)
