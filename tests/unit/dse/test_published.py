"""The shipped tables are what the paper prints, quoted, with schedules derived as they say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from math import floor
from pathlib import Path

import pytest

from dse.quality import load_quality
from dse.quality_files import PUBLISHED_NAMES, read_named_quality
from dse.study import parse_study
from hwsim import load_shape
from hwsim.trace import InputError, Schedule, switch_steps

TOKENS = {"cnn-dm": 256, "dialogsum": 33, "iwslt-fr-en": 60, "mt-bench": 256}
PAPER = Path(os.environ.get("BITTAPER_SHARED", Path(__file__).parents[4] / "shared")) / "paper" / "pmpd-paper.txt"

MODELS = {
    "Vicuna-7B": "vicuna-7b",
    "MobileLLaMa": "mobilellama-1.4b",
    "Phi-1.5": "phi-1.5",
    "Zephyr-3B": "stablelm-zephyr-3b",
}
TASKS = ("cnn-dm", "dialogsum", "iwslt-fr-en")
METRICS = dict.fromkeys(TASKS[:2], ("rouge_l", "bertscore")) | {"iwslt-fr-en": ("bleu", "sacrebleu")}
KINDS = {"PMPD-Learned": "learned", "DNS": "dense-and-sparse"}

Number = tuple[str, str, str, str, float, float]
"""Model, task, metric, kind, mean bits and value."""


def tables_of(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """The cells of each table of the paper's text by its number: the rows end where its caption begins."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        caption = re.match(r"Table (\d+):", line)
        if caption:
            yield caption[1], rows
            rows = []
        elif "\t" in line:
            rows.append([re.sub("<.*?>", "", cell).strip() for cell in line.split("\t")])
        elif line.strip():
            rows = []


def numbers(model: str, task: str, metrics: tuple[str, str], method: str, bits: str, cell: str) -> Iterator[Number]:
    """Both values of a cell."""
    if cell != "-":
        for metric, value in zip(metrics, cell.split(" / "), strict=True):
            yield model, task, metric, KINDS.get(method, "static"), float(bits), float(value)


def printed(number: str, rows: list[list[str]]) -> set[Number]:
    """What a table of the paper says."""
    found: set[Number] = set()
    if number in {"1", "5"}:
        # Table 1's caption names the models of each block; Table 5's header does.
        blocks = [["vicuna-7b"] * 3, ["mobilellama-1.4b"] * 3, ["phi-1.5", "phi-1.5", "stablelm-zephyr-3b"]]
        blocks = blocks if number == "1" else [["llama-3-8b"] * 3, ["longchat-13b"] * 3]
        block = -1
        for method, *cells in rows:
            block += method == "Baseline-l"
            if method.startswith(("Baseline", "PMPD", "DNS")):
                for task, model, bits, cell in zip(TASKS, blocks[block], cells[::2], cells[1::2], strict=True):
                    found |= set(numbers(model, task, METRICS[task], method, bits, cell))
    elif number == "2":
        model = ""
        for name, method, bits, cell in rows[1:]:
            model = MODELS.get(name, model)
            found |= set(numbers(model, "mt-bench", ("fidelity_rouge_l", "fidelity_bertscore"), method, bits, cell))
    else:
        for method, bits, rouge_l, bertscore in rows[1:]:
            cell = f"{rouge_l} / {bertscore}"
            found |= set(numbers("mobilellama-1.4b", "dialogsum", METRICS["dialogsum"], method, bits, cell))
    return found


@pytest.fixture(scope="module")
def paper() -> dict[str, list[list[str]]]:
    if not PAPER.is_file():
        pytest.skip("the paper's text (shared/paper beside the checkout, or BITTAPER_SHARED) is missing")
    return dict(tables_of(PAPER.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("number", "count"), [("1", 88), ("2", 32), ("5", 36), ("9", 8)])
def test_what_is_shipped_of_a_table_is_what_the_paper_prints_and_all_of_it(paper, number, count):
    names = [f"pmpd-table{number}", *(["pmpd-dense-and-sparse"] if number in {"1", "2"} else [])]
    shipped = [
        (one.model_name, one.task, one.metric, one.scheduler, one.mean_decode_bits, one.value)
        for name in names
        for one in read_named_quality(f"published:{name}")
        if one.citation is not None and re.search(rf"Table {number}\b", one.citation)
    ]
    assert set(shipped) == printed(number, paper[number])
    assert len(shipped) == len(set(shipped)) == count


def test_only_mt_bench_relates_to_the_text_of_full_precision(records):
    for record in records:
        assert (record.reference == "full-precision") == (record.task == "mt-bench")


def test_dense_and_sparse_rows_can_be_read_and_not_explored(study_fields):
    fields = study_fields | {"quality": "published:pmpd-dense-and-sparse"}
    with pytest.raises(
        InputError, match=r"schedule = null in all 24 records \(dense-and-sparse\): what has no schedule"
    ):
        load_quality(parse_study(fields, "s"), ["vicuna-7b"])


@pytest.fixture(params=PUBLISHED_NAMES)
def records(request):
    return read_named_quality(f"published:{request.param}")


def test_every_record_is_quoted_with_its_source_and_names_a_known_shape(records):
    for record in records:
        assert (record.source, record.split, record.n, record.ci_low) == ("quoted", "test", None, None)
        assert "arXiv:2410.13461, Table" in record.citation
        assert load_shape(record.model_name).name == record.model_name


def test_a_schedule_is_the_candidate_nearest_to_the_printed_bits_and_says_so(records):
    for record in records:
        low, steps = floor(record.mean_decode_bits), TOKENS[record.task] - 1
        derived = "switch step derived" in record.citation
        if record.schedule is None:
            assert record.scheduler in {"learned", "dense-and-sparse"}
            assert (record.scheduler == "dense-and-sparse") == (record.quantizer == "dense-and-sparse")
        elif len(record.schedule.widths()) == 1:
            assert record.schedule.mean_bits(steps) == record.mean_decode_bits
        else:
            share = record.mean_decode_bits - low
            nearest = min(switch_steps(steps + 1), key=lambda step: abs(step - share * steps))
            assert record.schedule == Schedule.from_pairs(low + 1, [(0, low + 1), (nearest, low)])
            # Where the mean is the low width, no step was read at the high one: the paper itself says so.
            assert derived == (share > 0)


@pytest.mark.parametrize(
    ("model", "task", "metric", "label", "value"),
    [
        ("vicuna-7b", "cnn-dm", "rouge_l", "p3:3>2@85", 24.3),
        ("vicuna-7b", "dialogsum", "bertscore", "p3:2", 88.2),
        ("mobilellama-1.4b", "iwslt-fr-en", "sacrebleu", "p3:3", 9.83),
        ("phi-1.5", "dialogsum", "rouge_l", "p4:4>3@11", 18.1),
        ("stablelm-zephyr-3b", "iwslt-fr-en", "bleu", "p4:3", 29.7),
        ("vicuna-7b", "mt-bench", "fidelity_rouge_l", "learned", 39.6),
        ("phi-1.5", "mt-bench", "fidelity_bertscore", "p4:4", 87.8),
        ("stablelm-zephyr-3b", "iwslt-fr-en", "bleu", "dense-and-sparse", 28.2),
        ("stablelm-zephyr-3b", "mt-bench", "fidelity_rouge_l", "dense-and-sparse", 35.3),
    ],
)
def test_numbers_of_tables_1_and_2(model, task, metric, label, value):
    names = ("pmpd-table1", "pmpd-table2", "pmpd-dense-and-sparse")
    table = [record for name in names for record in read_named_quality(f"published:{name}")]
    (found,) = [
        record
        for record in table
        if (record.model_name, record.task, record.metric, record.scheduler_label) == (model, task, metric, label)
    ]
    assert found.value == value


def test_longchat_at_two_bits_scores_10_6_on_dialogsum():
    (found,) = [
        record
        for record in read_named_quality("published:pmpd-table5")
        if (record.model_name, record.task, record.metric) == ("longchat-13b", "dialogsum", "rouge_l")
        and record.scheduler_label == "p2:2"
    ]
    assert found.value == 10.6


def test_a_study_relates_a_published_table_to_its_widest_uniform_schedule():
    fields = {
        "workloads": [{"model": "vicuna-7b", "prompt_tokens": 512, "decode_tokens": 255, "task": "cnn-dm"}],
        "npu": "pmpd-16k",
        "quality": "published:pmpd-table1",
        "quality_metric": "rouge_l",
        "objectives": [{"name": "relative_quality", "direction": "maximize"}],
    }
    table = load_quality(parse_study(fields | {"quality_reference": "high-precision"}, "s"), ["vicuna-7b"])
    assert set(table.schedules) == {"p2:2", "p3:3", "p3:3>2@85"}
    assert table.metrics["p3:3>2@85"]["relative_quality"] == pytest.approx(24.3 / 24.2)
    labels = table.labels["p3:3>2@85"]
    assert (labels["quality_source"], labels["quality_reference"]) == ("quoted", "p3:3")
    assert "Table 1; switch step derived from the printed mean of 2.39 bits" in labels["quality_citation"]
    assert "quality_n" not in labels
    plain = load_quality(parse_study(fields, "s"), ["vicuna-7b"])
    with pytest.raises(InputError, match="set quality_reference: high-precision"):
        plain.require("relative_quality")


def test_an_unknown_table_is_named_with_those_that_exist():
    with pytest.raises(InputError, match=r"unknown published table 'pmpd-tabel1'; did you mean 'pmpd-table1'\?"):
        read_named_quality("published:pmpd-tabel1")
