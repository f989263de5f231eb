from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accuracy.reference import examples
from accuracy.reference import train as training
from accuracy.reference.tokenization import special_id, train_tokenizer
from accuracy.reference.train import IGNORED_LABEL, TrainingConfig, build_model, learning_rate, stream_batches
from hwsim.trace import InputError

TINY = TrainingConfig(
    steps=6, batch_examples=4, warmup_steps=2, hidden_size=32, layers=1, intermediate_size=32, heads=2, kv_heads=1
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(text for example in examples("train", 200) for text in (example.prompt, example.reference))


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TOKENIZER_EXAMPLES", 200)
    torch.set_num_threads(1)


def test_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate_share=0.1)
    assert [learning_rate(config, step) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert math.isclose(learning_rate(config, 10), 1.0)
    assert math.isclose(learning_rate(config, 60), 0.55)
    assert math.isclose(learning_rate(config, 110), 0.1)


def test_only_the_reference_and_its_end_are_labelled(tokenizer: Any) -> None:
    expected = {example.reference for example in examples("train", 64)}
    for inputs, labels in islice(stream_batches(tokenizer, TINY), 16):
        for row_inputs, row_labels in zip(inputs, labels, strict=True):
            kept = row_labels[row_labels != IGNORED_LABEL].tolist()
            assert kept[-1] == special_id("</s>")
            assert tokenizer.decode(kept) in expected
            first = int((row_labels != IGNORED_LABEL).nonzero()[0])
            assert row_inputs[first] == special_id("<sep>")
            assert row_inputs[0] == special_id("<s>")


def test_padding_does_not_change_the_loss(tokenizer: Any) -> None:
    model = build_model(tokenizer, TINY)
    inputs, labels = next(stream_batches(tokenizer, TINY))
    padded = torch.nn.functional.pad(inputs, (0, 7), value=special_id("<pad>"))
    unlabelled = torch.nn.functional.pad(labels, (0, 7), value=IGNORED_LABEL)
    loss = training.target_loss(model, inputs, labels)
    torch.testing.assert_close(training.target_loss(model, padded, unlabelled), loss)


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training.train(tmp_path / "whole", TINY)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    calls = 0

    def killed_at_the_fourth_step(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return loss(*arguments)

    loss = training.target_loss
    with monkeypatch.context() as patch:
        patch.setattr(training, "target_loss", killed_at_the_fourth_step)
        with pytest.raises(KeyboardInterrupt):
            training.train(tmp_path / "parts", TINY)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    training.train(tmp_path / "parts", TINY)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not (tmp_path / "parts" / "checkpoint.pt").exists()


def test_training_may_start_from_the_weights_of_another_model(tmp_path: Path) -> None:
    training.train(tmp_path / "first", TINY)
    training.train(tmp_path / "second", replace(TINY, steps=1, learning_rate=0.0, seed=9), start=tmp_path / "first")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_start_at_the_example_asked_for(tokenizer: Any) -> None:
    later = replace(TINY, first_example=64)
    batches = list(islice(stream_batches(tokenizer, later), 16))
    written = {tokenizer.decode(row[row != IGNORED_LABEL].tolist()) for _, labels in batches for row in labels}
    assert written == {example.reference for example in examples("train", 128)[64:]}


def test_a_run_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="steps = 0: must be at least 1"):
        training.train(tmp_path, replace(TINY, steps=0))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(training.Path, "unlink", lambda *_, **__: None)
        training.train(tmp_path, TINY)
    with pytest.raises(InputError, match=r"checkpoint\.pt: made with other settings"):
        training.train(tmp_path, replace(TINY, seed=1))
