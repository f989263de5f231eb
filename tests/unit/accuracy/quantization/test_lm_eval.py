"""lm-eval's HFLM takes a nested model as it is, at whatever width it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from accuracy.linear import set_weight_bits
from accuracy.model import LanguageModel
from accuracy.quantization import NestedSettings, load_store, quantize

pytest.importorskip("lm_eval")

REQUESTS = [("word1 word2 word3", " word4 word5"), ("word9", " word10"), ("word7 word8", " word20 word21 word22")]
WIDTHS = (2, 4, 16)


@pytest.fixture
def store(model_folder: Callable[..., Path], tmp_path: Path) -> LanguageModel:
    quantize(model_folder("llama"), tmp_path / "store", NestedSettings(2, 4), progress=False)
    return load_store(tmp_path / "store")


@torch.no_grad()
def log_likelihood(lm: LanguageModel, context: str, continuation: str) -> tuple[float, bool]:
    """Summed log-probability of the continuation's tokens, and whether each is the likeliest."""
    ids = lm.tokenizer(context + continuation, return_tensors="pt").input_ids
    scored = len(lm.tokenizer(continuation).input_ids)
    log_p = lm.model(ids).logits[0, -scored - 1 : -1].log_softmax(-1)
    targets = ids[0, -scored:]
    return float(log_p.gather(1, targets[:, None]).sum()), bool((log_p.argmax(-1) == targets).all())


def harness(lm: LanguageModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=2)


def test_log_likelihoods_are_our_own_at_every_width(store: LanguageModel) -> None:
    from lm_eval.api.instance import Instance

    wrapped = harness(store)
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(REQUESTS)]
    found = {}
    for bits in WIDTHS:
        set_weight_bits(store.model, bits)
        found[bits] = wrapped.loglikelihood(requests, disable_tqdm=True)
        for (value, greedy), pair in zip(found[bits], REQUESTS, strict=True):
            expected, likeliest = log_likelihood(store, *pair)
            assert value == pytest.approx(expected, rel=1e-4)
            assert greedy == likeliest
    assert found[2] != found[4] != found[16]


def test_harness_generates_what_generate_does(store: LanguageModel) -> None:
    from lm_eval.api.instance import Instance

    wrapped = harness(store)
    prompt = "word1 word2 word3"
    ids = store.tokenizer(prompt, return_tensors="pt").input_ids
    options = {"until": ["word0"], "max_gen_toks": 5, "do_sample": False}
    for bits in WIDTHS:
        set_weight_bits(store.model, bits)
        (text,) = wrapped.generate_until([Instance("generate_until", {}, (prompt, options), 0)], disable_tqdm=True)
        tokens = store.model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
        expected = store.tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)
        assert text.strip() == expected.split("word0")[0].strip()


@pytest.mark.slow
def test_task_from_a_local_file_runs_offline(store: LanguageModel, tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    questions = [
        {"question": f"word{i} word{i + 1}", "choices": [f"word{j}" for j in range(i, i + 4)], "answer": i % 4}
        for i in range(12)
    ]
    (tmp_path / "task.json").write_text(json.dumps(questions))
    task = {
        "task": "own-words",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "task.json")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    manager = TaskManager(include_defaults=False)
    for bits in WIDTHS:
        set_weight_bits(store.model, bits)
        results = lm_eval.simple_evaluate(harness(store), tasks=[task], task_manager=manager, bootstrap_iters=0)
        best = [
            max(range(4), key=lambda choice: log_likelihood(store, one["question"], " " + one["choices"][choice])[0])
            for one in questions
        ]
        expected = sum(answer == one["answer"] for answer, one in zip(best, questions, strict=True)) / len(questions)
        assert results["results"]["own-words"]["acc,none"] == expected
