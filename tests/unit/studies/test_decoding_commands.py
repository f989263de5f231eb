"""``bittaper evaluate`` and ``bittaper trace`` with schedulers of every kind."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accuracy.quantization import NestedSettings, quantize
from accuracy.reference import MODEL_FOLDER
from hwsim.trace import Interpolation, read_quality, read_quality_table, read_trace
from studies import cli
from studies.common.decoding import SchedulerChoice

PLUGIN = """
from accuracy.schedulers import StaticScheduler
from hwsim.trace import Schedule


class Falling(StaticScheduler):
    name = "falling"

    def __init__(self, at):
        super().__init__(Schedule.from_pairs(4, [(0, 4), (at, 2)]))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A tiny random Llama, whose widths differ much, with the shipped tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    vocabulary = json.loads((MODEL_FOLDER / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            initializer_range=0.4,
        )
    )
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((MODEL_FOLDER / name).read_bytes())
    quantize(folder, folder.parent / "store", NestedSettings(2, 4), progress=False)
    return folder.parent / "store"


@pytest.fixture
def evaluate(store, tmp_path, capsys):
    def evaluate(*argv, out="out"):
        base = ["evaluate", "--model", str(store), "--limit", "6", "--max-new-tokens", "8", "--quiet"]
        assert cli.main([*base, "--out", str(tmp_path / out), *argv]) == 0
        return capsys.readouterr().out, tmp_path / out

    return evaluate


@pytest.fixture
def trace(store, tmp_path, capsys):
    def trace(*argv, out="t.jsonl"):
        base = ["trace", "--model", str(store), "--limit", "4", "--max-new-tokens", "8", "--quiet"]
        assert cli.main([*base, "--out", str(tmp_path / out), *argv]) == 0
        return capsys.readouterr().out, read_trace(tmp_path / out)

    return trace


def rows(out):
    return [json.loads(line) for line in (out / "per_prompt.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("uniform:weight_bits=4", "uniform", {"weight_bits": 4}),
        ("confidence:widths=[4,3],thresholds=[0.9]", "confidence", {"widths": [4, 3], "thresholds": [0.9]}),
        ("my.module:Class", "my.module:Class", {}),
        ("my.module:Class:text=a, b,n=1", "my.module:Class", {"text": "a, b", "n": 1}),
        ("learned:checkpoint=C:/a=b", "learned", {"checkpoint": "C:/a=b"}),
        ("static:schedule=p4:4>3@20", "static", {"schedule": "p4:4>3@20"}),
    ],
)
def test_options_of_a_scheduler_are_yaml(text, name, options):
    choice = SchedulerChoice.parse(text)
    assert (choice.name, choice.options) == (name, options)


def test_every_kind_of_scheduler_is_measured_and_compared_with_the_first(evaluate):
    given = ["--schedule", "4", "--scheduler", "confidence:widths=[4,2],thresholds=[0.1]", "--schedule", "p4:4>2@3"]
    text, out = evaluate(*given, "--scheduler", "random-uniform:widths=[4,2]", "--metric", "fidelity_rouge_l")
    records = read_quality(out / "quality.json")
    assert [record.scheduler for record in records] == ["static", "confidence", "static", "random-uniform"]
    assert [record.schedule is None for record in records] == [False, True, False, True]
    assert "less p4:4" in text
    assert "fidelity_rouge_l: Rouge-L F1 x 100" in text
    assert "n = 6, greedy; paired bootstrap, seed 0" in text


def test_json_holds_the_records_and_their_paired_differences(evaluate):
    given = ["--schedule", "4", "--schedule", "2", "--metric", "bleu", "--baseline", "p2:2", "--json"]
    text, out = evaluate(*given, "--interpolation", "linear-in-bits")
    found = json.loads(text)
    assert read_quality_table(out / "quality.json").interpolation == Interpolation(method="linear-in-bits")
    values = {record["scheduler_label"]: record["value"] for record in found["records"]}
    differences = {one["scheduler_label"]: one["value"] for one in found["paired_differences"]}
    assert found["baseline"] == "p2:2"
    assert differences == {"p4:4": pytest.approx(values["p4:4"] - values["p2:2"]), "p2:2": 0.0}


def test_patterns_get_the_lengths_of_their_high_width(evaluate):
    patterns = [f"pattern:pattern={name},high_bits=4,low_bits=2" for name in ("first-half", "last-half", "all-high")]
    _, free = evaluate("--schedule", "4", "--metric", "bleu", out="free")
    wanted = {row["id"]: row["generated_tokens"] for row in rows(free)}
    argv = [word for pattern in patterns for word in ("--scheduler", pattern)]
    _, out = evaluate(*argv, "--metric", "bleu", out="patterns")
    for row in rows(out):
        steps = wanted[row["id"]] - 1
        assert row["generated_tokens"] == wanted[row["id"]]
        bits = [width for width, count in row["decode_weight_bits"] for _ in range(count)]
        high = (steps + 1) // 2
        by_pattern = {
            "p4:first-half 4/2": [4] * high + [2] * (steps - high),
            "p4:last-half 4/2": [2] * (steps - high) + [4] * high,
            "p4:all-high 4/2": [4] * steps,
        }
        assert bits == by_pattern[row["scheduler"]]
    texts = {row["id"]: row["text"] for row in rows(free)}
    assert {row["id"]: row["text"] for row in rows(out) if row["scheduler"] == "p4:all-high 4/2"} == texts


def test_a_scheduler_of_another_package_is_named_by_its_class(evaluate, tmp_path, monkeypatch):
    (tmp_path / "somebodys_schedulers.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    _, out = evaluate("--scheduler", "somebodys_schedulers:Falling:at=2", "--metric", "bleu")
    (record,) = read_quality(out / "quality.json")
    assert (record.scheduler, record.scheduler_label) == ("falling", "p4:4>2@2")


def test_a_trace_is_timed_one_prompt_at_a_time_only(trace):
    text, alone = trace("--scheduler", "confidence:widths=[4,2],thresholds=[0.1]")
    assert (alone.header.scheduler, alone.header.schedule) == ("confidence", None)
    assert all(len(sequence.step_ns) == sequence.decode_steps for sequence in alone.sequences)
    assert "measured on cpu" in text
    text, together = trace("--schedule", "4", "--batch-size", "4", out="batch.jsonl")
    assert together.header.schedule.label() == "p4:4"
    assert all(sequence.step_ns is None for sequence in together.sequences)
    assert "measured" not in text


def test_captured_steps_can_be_asked_for_and_the_trace_says_so(trace):
    schedule = ("--schedule", "p4:4>2@3")
    _, captured = trace(*schedule, "--graphs", out="captured.jsonl")
    _, ordinary = trace(*schedule, "--no-graphs", out="ordinary.jsonl")
    assert captured.header.provenance["execution"] == "fused steps, without graphs"
    assert "execution" not in ordinary.header.provenance
    assert [one.expand() for one in captured.sequences] == [one.expand() for one in ordinary.sequences]


def test_a_sampled_trace_repeats_itself_by_its_seed(trace):
    argv = ["--schedule", "4", "--temperature", "2", "--prompt", "the baker sells bread"]
    first, _ = trace(*argv)
    again, _ = trace(*argv)
    other, found = trace(*argv, "--sampling-seed", "1")
    first, again, other = (text.splitlines()[0] for text in (first, again, other))  # the others tell of times
    assert first == again != other
    assert found.header.provenance["decoding"] == "sampled: temperature 2, seed 1"
