"""What the paper's text says of its own tables is held against them, number by number."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

import studies.paper
from hwsim import load_shape
from studies.paper import figure5, gpu
from studies.paper.comparison import Comparison
from studies.paper.result import Request
from studies.paper.table1 import cases_beside_dense_and_sparse
from studies.paper.table2 import paper_rows
from studies.paper.text import CASE, table1_claims, table2_claims

FOLDER = Path(studies.paper.__file__).parent


def by_quantity(comparisons: object) -> Mapping[str, Comparison]:
    assert isinstance(comparisons, list)
    return {one.quantity: one for one in comparisons if one.case == CASE}


TABLE1 = by_quantity(list(table1_claims(list(cases_beside_dense_and_sparse()))))
TABLE2 = by_quantity(list(table2_claims(paper_rows())))


@pytest.mark.parametrize(
    ("quantity", "printed", "follows"),
    [
        ("BLEU above dense-and-sparse", 0.29, 31.0 / 27.6 - 1),
        ("Rouge-L lag of dense-and-sparse, MobileLLaMA on CNN/DM", 0.23, 1 - 17.4 / 17.6),
        ("gain over the high width", 0.024, 25.0 / 24.4 - 1),
        ("cut of mean bits", 0.33, 1 / 3),
        ("largest loss of Static on CNN/DM and DialogSum", 0, 0),
        ("largest loss of Learned on CNN/DM and DialogSum", 0, 1 - 15.5 / 16.2),
        ("largest loss of Static on IWSLT", 0.023, 1 - 29.7 / 30.4),
        ("least cut of Static's mean bits on IWSLT", 0.09, 0.35 / 4),
        ("largest cut of Static's mean bits on IWSLT", 0.33, 1 / 4),
        # A rival with more bits is behind all the more: MobileLLaMA on DialogSum, Zephyr-3B on IWSLT.
        ("share of tasks with dense-and-sparse behind Static at its bits", 1, 1),
        ("entries where Learned beats Static in score and bits (some cases)", 1, 0),
    ],
)
def test_what_sections_4_and_5_say_of_table_1(quantity: str, printed: float, follows: float) -> None:
    assert (TABLE1[quantity].paper, TABLE1[quantity].ours) == (printed, pytest.approx(follows))


def test_where_the_texts_percentages_of_table_1_come_from() -> None:
    lag = TABLE1["Rouge-L lag of dense-and-sparse, MobileLLaMA on CNN/DM"]
    assert lag.our_basis == "Table 1, 14% on dialogsum; 23% is that of phi-1.5 on cnn-dm"
    behind = TABLE1["share of tasks with dense-and-sparse behind Static at its bits"]
    assert (
        behind.our_basis == "Table 1: 8 of the 8 that are printed, in 2 of them with fewer bits than dense-and-sparse"
    )
    both = TABLE1["entries where Learned beats Static in score and bits (some cases)"]
    assert both.our_basis == "Table 1: none has both; a higher score in 2, fewer bits in 4 others"


@pytest.mark.parametrize(
    ("quantity", "printed", "follows"),
    [
        ("Rouge-L above dense-and-sparse (least)", 0.139, 39.6 / 36.7 - 1),
        ("Rouge-L above dense-and-sparse (largest)", 0.184, 35.7 / 29.9 - 1),
        ("drop in BERTScore", 0, 89.9 - 88.9),
        ("drop in Rouge-L", 1.4, 41.0 - 39.6),
    ],
)
def test_what_section_5_1_says_of_table_2(quantity: str, printed: float, follows: float) -> None:
    assert (TABLE2[quantity].paper, TABLE2[quantity].ours) == (printed, pytest.approx(follows))


def test_what_the_text_says_of_the_gpus(tmp_path: Path) -> None:
    found = by_quantity(gpu.compute_layers(Request(tmp_path)).comparisons)
    assert [one.paper for one in found.values()] == [1.4, 12.2, 1.41, 6.58, 1.84]
    assert [one.ours for one in found.values()] == pytest.approx([5 / 3.34, 12.197, 1.4145, 6.589, 1.835], abs=5e-4)
    least = found["least speed-up over fp16"].our_basis
    assert least == "Tables 7 and 8: RTX 4090, mobilellama-1.4b, attention, which Table 3 prints as 1.40"
    assert "prints" not in found["largest speed-up over fp16"].our_basis
    (gain,) = by_quantity(gpu.compute_end_to_end(Request(tmp_path)).comparisons).values()
    assert (gain.paper, gain.ours) == (0.31, pytest.approx(3.36 - 3.05))


def test_what_the_text_says_of_the_npu() -> None:
    label = {"dataset": "CNN/DM", "model": "Vicuna-7B", "case": "3bit", "mean_decode_weight_bits": 3.0}
    details = [
        label | {"published_speedup": 4.9},
        label | {"case": "PMPD-Static", "mean_decode_weight_bits": 2.6, "published_speedup": 5.0},
        label | {"case": "PMPD-Learned", "mean_decode_weight_bits": 2.4, "published_speedup": 6.0},
        label | {"model": "Phi-1.5", "case": "PMPD-Static", "mean_decode_weight_bits": 3.0, "published_speedup": 4.0},
        label | {"model": "Phi-1.5", "case": "4bit", "mean_decode_weight_bits": 4.0, "published_speedup": 3.5},
    ]
    found = by_quantity(list(figure5.text_claims(details)))
    fp16_steps_per_s = {name: 32e9 / (2 * load_shape(name).linear_weights()) for name in ("vicuna-7b", "phi-1.5")}
    assert {quantity: (one.paper, one.ours) for quantity, one in found.items()} == {
        "largest speed-up over uniform quantization": (1.54, pytest.approx(6.0 / 4.9)),
        "decoding speed above, Vicuna-7B": (15, pytest.approx(5.5 * fp16_steps_per_s["vicuna-7b"])),
        "decoding speed above, mobile-grade models": (50, pytest.approx(4.0 * fp16_steps_per_s["phi-1.5"])),
        "peak of 4K MACs at 1 GHz": (8, pytest.approx(8.192)),
        "peak of 16K MACs at 1 GHz": (16, pytest.approx(32.768)),
    }


def test_every_number_that_is_kept_of_the_text_stands_beside_what_follows() -> None:
    """A row of the file that no result reads would be quoted in vain."""
    with (FOLDER / "data" / "published.csv").open(encoding="utf-8") as file:
        said = [row for row in csv.DictReader(file) if row["source"].endswith(("(text)", "(GPU)", "(NPU)"))]
    with (FOLDER / "results" / "comparisons.csv").open(encoding="utf-8") as file:
        compared = {row["quantity"] for row in csv.DictReader(file) if row["case"] == CASE}
    assert len(said) > 20
    assert [row["quantity"] for row in said if row["quantity"] not in compared] == []
