from __future__ import annotations

import csv
import math
from dataclasses import replace

import pytest
import torch

from accuracy.scheduler_training.features import FeatureInput
from accuracy.scheduler_training.train import (
    TrainingData,
    TrainingSettings,
    _class_weights,
    train_classifier,
    write_curve,
)
from hwsim.trace import InputError

from .conftest import labelled

SETTINGS = TrainingSettings(epochs=40, learning_rate=1e-2, batch_prompts=16, dropout=0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TrainingData:
    labels = [number % 4 for number in range(120)]
    return TrainingData(labelled(tmp_path_factory.mktemp("labels"), labels), FeatureInput(), validation_share=0.2)


def test_labels_that_the_features_tell_are_learned(data):
    trained = train_classifier(data, SETTINGS)
    assert trained.best.validation_accuracy > 0.9
    assert trained.best.validation_loss < 0.3


def test_the_loss_is_cross_entropy_on_logits(data):
    """An untrained network knows nothing: ln 4 nats. A softmax too many would keep the loss above ln(1 + 3/e)."""
    first = train_classifier(data, replace(SETTINGS, epochs=1, learning_rate=1e-9)).best
    assert first.validation_loss == pytest.approx(math.log(4), abs=0.1)
    assert train_classifier(data, SETTINGS).best.validation_loss < math.log(1 + 3 / math.e)


def test_equal_seeds_give_equal_weights_and_leave_torchs_generator_alone(data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (train_classifier(data, replace(SETTINGS, epochs=3), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one.curve == two.curve
    assert all(torch.equal(a, b) for a, b in zip(one.classifier.parameters(), two.classifier.parameters(), strict=True))
    assert one.curve != other.curve


def test_the_best_epoch_is_kept_and_patience_ends_the_training(data):
    trained = train_classifier(data, replace(SETTINGS, learning_rate=0.3, patience=2))
    losses = [epoch.validation_loss for epoch in trained.curve]
    assert trained.best.validation_loss == min(losses)
    assert len(trained.curve) == trained.best.epoch + 2 or len(trained.curve) == SETTINGS.epochs
    keys, _ = data.batch(data.validation)
    accuracy = (trained.classifier(*keys).argmax(-1) == data.labels[data.validation]).float().mean()
    assert float(accuracy) == pytest.approx(trained.best.validation_accuracy)


def test_partitions_hold_out_every_prompt_once(data):
    parts = [data.partition(number) for number in range(5)]
    assert sorted(place for part in parts for place in part.validation) == list(range(120))
    for part in parts:
        assert sorted(part.training + part.validation) == list(range(120))
    assert parts[0].validation == data.validation


def test_class_weights_are_inverse_frequencies_of_mean_one(tmp_path):
    counted = TrainingData(labelled(tmp_path, [0] * 60 + [2] * 20), FeatureInput(), validation_share=0.01)
    weights = _class_weights(counted)
    labels = counted.labels[counted.training]
    assert weights[1] == weights[3] == 0
    assert float(weights[2] / weights[0]) == pytest.approx(float((labels == 0).sum() / (labels == 2).sum()))
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_training_with_class_weights_and_a_class_that_never_occurs_runs(tmp_path):
    data = TrainingData(labelled(tmp_path, [0, 2] * 20), FeatureInput())
    trained = train_classifier(data, replace(SETTINGS, epochs=3, class_weights=True, hidden_size=7))
    assert trained.classifier.shape.hidden_size == 7
    assert math.isfinite(trained.best.validation_loss)


def test_the_curve_is_written_as_csv(data, tmp_path):
    trained = train_classifier(data, replace(SETTINGS, epochs=2))
    write_curve(tmp_path / "curve.csv", trained.curve)
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_loss"]) for row in rows] == [epoch.validation_loss for epoch in trained.curve]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"epochs": 0}, "epochs = 0"),
        ({"validation_share": 0}, "validation_share = 0"),
        ({"hidden_size": 0}, "hidden_size = 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(change, named):
    with pytest.raises(InputError, match=named):
        TrainingSettings(**change)


def test_one_prompt_is_too_few(tmp_path):
    with pytest.raises(InputError, match="1 labelled prompts; training needs at least 2"):
        TrainingData(labelled(tmp_path, [0]), FeatureInput())
