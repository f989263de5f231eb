from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from accuracy.scheduler_training.checkpoint import (
    CHECKPOINT_NAME,
    LearnedConfig,
    check_fits,
    checkpoint_sha256,
    load_checkpoint,
    read_config,
)
from accuracy.scheduler_training.features import FeatureInput
from accuracy.scheduler_training.train import TrainingData, TrainingSettings, save_trained, train_classifier
from hwsim.trace import InputError

from .conftest import HEADS, KEY_DIM, labelled

LM = SimpleNamespace(
    name="other",
    model_sha256="1" * 64,
    store_sha256="2" * 64,
    shape=SimpleNamespace(layers=2, kv_heads=HEADS, head_dim=KEY_DIM),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = TrainingData(labelled(folder / "labels", [0, 1, 1, 3] * 5), FeatureInput())
    settings = TrainingSettings(epochs=2)
    trained = train_classifier(data, settings, positions=True, seed=4)
    save_trained(folder / CHECKPOINT_NAME, trained, data, settings, seed=4, training_text="made by hand")
    return folder, trained, data


def test_a_checkpoint_comes_back_whole_from_its_file_or_folder(saved):
    folder, trained, data = saved
    for place in (folder, folder / CHECKPOINT_NAME, str(folder)):
        config, classifier = load_checkpoint(place)
        inputs, _ = data.batch(range(6))
        assert torch.equal(classifier(*inputs), trained.classifier(*inputs))
        assert not classifier.training
    assert config == read_config(folder)
    assert (config.seed, config.widths, config.points, config.training_text) == (4, (3, 2), 4, "made by hand")
    assert config.label_counts == (5, 10, 0, 5)
    assert config.label_prior == (0.25, 0.5, 0.0, 0.25)
    assert config.validation_loss == trained.best.validation_loss


def test_its_hash_is_of_what_was_learned_and_not_of_when(saved):
    folder, *_ = saved
    config, classifier = load_checkpoint(folder)
    later = config.model_copy(update={"provenance": {"created_utc": "later"}})
    assert checkpoint_sha256(config, classifier) == checkpoint_sha256(later, classifier)
    assert checkpoint_sha256(config.model_copy(update={"points": 5}), classifier) != checkpoint_sha256(
        config, classifier
    )
    with torch.no_grad():
        classifier.query[0, 0] += 1
    assert checkpoint_sha256(*load_checkpoint(folder)) != checkpoint_sha256(config, classifier)


def test_the_model_and_setting_of_the_training_fit(saved):
    check_fits(read_config(saved[0]), "here", LM, (2, 3), 4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"widths": (4, 3)}, r"here: was trained for widths = \[3, 2\], not \[4, 3\]"),
        ({"points": 5}, "trained for points = 4, not 5"),
        (
            {"lm": SimpleNamespace(**{**vars(LM), "model_sha256": "9" * 64})},
            "model_sha256 = 111111111111, not 999999999999",
        ),
        ({"lm": SimpleNamespace(**{**vars(LM), "store_sha256": None})}, "store_sha256 = 222222222222, not none"),
        (
            {"lm": SimpleNamespace(**{**vars(LM), "shape": SimpleNamespace(layers=2, kv_heads=1, head_dim=KEY_DIM)})},
            r"model shape \(blocks, KV heads, head width\) = \(2, 2, 3\), not \(2, 1, 3\) \(model tiny, here other\)",
        ),
    ],
)
def test_another_model_or_setting_is_refused_by_name(saved, options, named):
    with pytest.raises(InputError, match=named):
        check_fits(read_config(saved[0]), "here", **options)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_cut_file_is_refused(saved, tmp_path, share):
    whole = (saved[0] / CHECKPOINT_NAME).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"cut\.safetensors: is cut or no safetensors file"):
        load_checkpoint(tmp_path / "cut.safetensors")


def test_other_files_are_refused(saved, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no learned scheduler"):
        load_checkpoint(tmp_path / "other.safetensors")


def changed(saved, path, tensors=None, **fields):
    stored = load_file(saved[0] / CHECKPOINT_NAME)
    description = json.loads(read_config(saved[0]).model_dump_json()) | fields
    save_file({**stored, **(tensors or {})}, path, metadata={"learned_scheduler": json.dumps(description)})
    return path


@pytest.mark.parametrize(
    ("tensors", "fields", "named"),
    [
        ({"query": torch.zeros(1, 2)}, {}, r"weight 'query' has shape \(1, 2\), its configuration says \(2, 27\)"),
        ({"more": torch.zeros(1)}, {}, r"weight 'more' has shape \(1,\), its configuration says None"),
        (
            {"output.bias": torch.tensor([0, 0, 0, torch.nan])},
            {},
            "weight 'output.bias' holds a number that is not finite",
        ),
        ({}, {"widths": [2, 3]}, r"widths = \[2, 3\]: must fall"),
        ({}, {"label_counts": [1, 2]}, "label_counts: 2 for 4 classes"),
        ({}, {"points": 5}, "5 classes"),
        ({}, {"more": 1}, "more = 1: no such field"),
    ],
)
def test_weights_and_description_must_fit_each_other(saved, tmp_path, tensors, fields, named):
    with pytest.raises(InputError, match=named):
        load_checkpoint(changed(saved, tmp_path / "x.safetensors", tensors, **fields))


def test_loading_does_not_touch_torchs_generator(saved):
    before = torch.get_rng_state()
    load_checkpoint(saved[0])
    assert torch.equal(before, torch.get_rng_state())
    assert LearnedConfig.model_validate(read_config(saved[0]).model_dump()) == read_config(saved[0])
    assert replace(TrainingSettings(), epochs=2).epochs == read_config(saved[0]).settings["epochs"]
