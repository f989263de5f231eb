"""The shipped tables are what the paper prints, quoted, with schedules derived as they say."""

from __future__ import annotations

from math import floor

import pytest

from dse.quality import load_quality
from dse.quality_files import PUBLISHED_NAMES, read_named_quality
from dse.study import parse_study
from hwsim import load_shape
from hwsim.trace import InputError, Schedule, switch_steps

TOKENS = {"cnn-dm": 256, "dialogsum": 33, "iwslt-fr-en": 60}


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
            assert record.scheduler == "learned"
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
    ],
)
def test_numbers_of_table_1(model, task, metric, label, value):
    table = read_named_quality("published:pmpd-table1")
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
