"""Decoding and evaluation on real trained models, quantised here; skipped where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accuracy.decoding import Decoder, Prompt
from accuracy.decoding.generate_plugin import generate_with_schedule
from accuracy.evaluation import evaluate
from accuracy.model import LanguageModel, load_model
from accuracy.perplexity import perplexity
from accuracy.quantization import quantize
from accuracy.schedulers import StaticScheduler
from accuracy.tasks import Task, make_task
from hwsim.trace import Schedule

pytestmark = pytest.mark.slow
SCHEDULES = [
    Schedule.uniform(16),
    Schedule.uniform(8),
    Schedule.uniform(3),
    Schedule.uniform(2, prefill_weight_bits=3),
    Schedule.from_pairs(3, [(0, 3), (20, 2)]),
    Schedule.uniform(2),
]


@pytest.fixture(scope="module")
def lm(shared_data: Path, tmp_path_factory) -> LanguageModel:
    out = tmp_path_factory.mktemp("store") / "fren"
    quantize(shared_data / "models" / "fren-paragraphs-4M", out, progress=False)
    return load_model(out)


@pytest.fixture(scope="module")
def task(shared_data: Path) -> Task:
    path = shared_data / "models" / "fren-paragraphs-4M" / "heldout_paragraphs.json"
    return make_task("file", path=path, prompt_field="source", template="<s>{prompt}<sep>", max_new_tokens=110)


def prompts(lm: LanguageModel, task: Task, count: int) -> list[Prompt]:
    return [
        Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), task.max_new_tokens)
        for example in task.examples("val", count)
    ]


def test_shared_prefixes_and_the_plug_in_reproduce_the_naive_tokens(lm, task):
    asked = prompts(lm, task, 12)
    decoder = Decoder(lm)
    schedulers = [StaticScheduler(schedule) for schedule in SCHEDULES]
    shared = decoder.decode_grid(asked, schedulers, batch_size=8)
    for scheduler, responses in zip(schedulers, shared.responses, strict=True):
        assert responses == decoder.decode(asked, scheduler, batch_size=8)
    (single,) = decoder.decode(asked[:1], schedulers[4])
    plugged = generate_with_schedule(
        lm, torch.tensor([asked[0].token_ids]), SCHEDULES[4], max_new_tokens=110, do_sample=False
    )
    assert tuple(plugged[0, len(asked[0].token_ids) :].tolist()) == single.tokens


def test_quality_falls_with_the_width_and_a_high_prefill_helps_a_low_decode(lm, task, tmp_path):
    records = evaluate(lm, task, SCHEDULES, split="test", limit=48, out=tmp_path, metrics=["bleu"], progress=False)
    bleu = {record.schedule.label(): record.value for record in records}
    assert abs(bleu["p8:8"] - bleu["p16:16"]) < 1
    assert bleu["p16:16"] > bleu["p3:3"] > bleu["p3:3>2@20"] > bleu["p3:2"] > bleu["p2:2"]


def test_perplexity_falls_with_more_bits(lm, task):
    text = " ".join(example.reference for example in task.examples("val"))
    found = [perplexity(lm, text, bits).per_token.value for bits in (2, 3, 4, 16)]
    assert found == sorted(found, reverse=True)


def test_stories_are_completed_more_faithfully_at_more_bits(shared_data, tmp_path):
    quantize(shared_data / "models" / "stories260K", tmp_path / "store", progress=False)
    lm = load_model(tmp_path / "store")
    completion = make_task("self-completion", lm=lm, max_new_tokens=64)
    schedules = [Schedule.uniform(bits) for bits in (16, 4, 2)]
    records = evaluate(
        lm,
        completion,
        schedules,
        split="val",
        limit=24,
        out=tmp_path / "out",
        metrics=["fidelity_rouge_l"],
        progress=False,
    )
    full, four, two = (record.value for record in records)
    assert full == 100 > four > two


def test_parallel_text_is_translated(shared_data, tmp_path):
    lm = load_model(shared_data / "models" / "m30k-fren-2M")
    captions = make_task("parallel-text", folder=shared_data / "text" / "multi30k")
    (record,) = evaluate(
        lm, captions, [Schedule.uniform(16)], split="test", limit=200, out=tmp_path, metrics=["bleu"], progress=False
    )
    assert 25 < record.value < 40
