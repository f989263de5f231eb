"""Training of the learned scheduler's network: cross-entropy on logits, early stopping, one checkpoint a seed.

The paper's public code applies cross-entropy to the output of a softmax, which flattens the gradient; here the loss
sees logits. A run follows from the labels, the settings and the seed alone (on one kind of processor and one version
of torch).
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from accuracy.scheduler_training.checkpoint import LearnedConfig, count_labels, save_checkpoint
from accuracy.scheduler_training.classifier import ClassifierShape, ScheduleClassifier, pad
from accuracy.scheduler_training.features import FeatureInput
from accuracy.scheduler_training.label_store import LabelledPrompts, LabelRule
from hwsim.trace import InputError, atomic_writer, canonical_sha256, collect_provenance

SPLIT_SEED = 20241017
"""Which prompts stop the training is the same for all seeds and settings, so that their losses can be compared."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; the paper tunes most of these (A.1.2 and its code).

    Attributes:
        hidden_size: Width of the hidden layer; that of the concatenated heads where None, as in the public code.
        learning_rate: Of AdamW, constant.
        weight_decay: Of AdamW.
        dropout: Before the last layer.
        batch_prompts: Prompts a step, which the public code reaches by accumulation.
        epochs: At most.
        patience: Epochs without a lower validation loss after which training stops.
        validation_share: Of the prompts, held out to stop on.
        class_weights: Weigh classes by the inverse of how often they occur.
    """

    hidden_size: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    batch_prompts: int = 32
    epochs: int = 60
    patience: int = 10
    validation_share: float = 0.1
    class_weights: bool = False

    def __post_init__(self) -> None:
        bounds = {
            "hidden_size": self.hidden_size is None or self.hidden_size >= 1,
            "learning_rate": self.learning_rate > 0,
            "weight_decay": self.weight_decay >= 0,
            "dropout": 0 <= self.dropout < 1,
            "batch_prompts": self.batch_prompts >= 1,
            "epochs": self.epochs >= 1,
            "patience": self.patience >= 1,
            "validation_share": 0 < self.validation_share < 1,
        }
        for name, fits in bounds.items():
            if not fits:
                raise InputError(f"{name} = {getattr(self, name)}: out of bounds for training a scheduler")


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curve; losses are mean cross-entropies in nats."""

    epoch: int
    training_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        classifier: With the weights of the best epoch.
        curve: Every epoch that ran.
        best: The epoch kept, the one of least validation loss.
    """

    classifier: ScheduleClassifier
    curve: tuple[Epoch, ...]
    best: Epoch


class TrainingData:
    """Features and labels of one input, in memory, parted into training and validation."""

    def __init__(
        self,
        labelled: LabelledPrompts,
        chosen: FeatureInput,
        rule: LabelRule = "high-precision",
        validation_share: float = 0.1,
    ) -> None:
        """Read the features.

        Raises:
            InputError: If there are fewer than two prompts, or the input was not recorded.
        """
        count = len(labelled.records)
        if count < 2:
            raise InputError(f"{labelled.folder}: {count} labelled prompts; training needs at least 2")
        self.labelled, self.input, self.rule = labelled, chosen, rule
        self.features = labelled.features(chosen)
        self.labels = torch.tensor(labelled.labels(rule))
        self.classes = labelled.settings.candidates.classes
        self._held = min(max(round(validation_share * count), 1), count - 1)
        self._order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
        self.validation, self.training = sorted(self._order[: self._held]), sorted(self._order[self._held :])

    def partition(self, number: int) -> TrainingData:
        """The same prompts with the ``number``-th stretch of them as validation, 0 being this one's."""
        start = number * self._held % len(self._order)
        turned = self._order[start:] + self._order[:start]
        other = copy.copy(self)
        other.validation, other.training = sorted(turned[: self._held]), sorted(turned[self._held :])
        return other

    def identity(self) -> dict[str, Any]:
        """Everything that decides what is learned from it, as JSON."""
        settings = self.labelled.settings.model_dump(mode="json", exclude={"inputs"})
        records = [record.id for record in self.labelled.records]
        chosen = {"input": self.input.name, "label_rule": self.rule, "validation_prompts": self._held}
        return {"labels": settings, "records_sha256": canonical_sha256(records), **chosen}

    def batch(self, places: Sequence[int]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Padded features and labels of some prompts."""
        return pad([self.features[place] for place in places]), self.labels[list(places)]

    def shape(self, hidden_size: int | None, positions: bool) -> ClassifierShape:
        """Sizes of a network for this input."""
        heads, key_dim, value_dim = self.features[0].shape
        sizes = {"heads": heads, "key_dim": key_dim, "value_dim": value_dim, "positions": positions}
        pooled = ClassifierShape(hidden_size=1, classes=self.classes, **sizes).pooled_size
        return ClassifierShape(hidden_size=hidden_size or pooled, classes=self.classes, **sizes)


def train_classifier(
    data: TrainingData, settings: TrainingSettings, *, positions: bool = False, seed: int = 0
) -> Trained:
    """Train one network; equal arguments give equal weights.

    Args:
        data: What to train on.
        settings: How.
        positions: Whether the network knows positions.
        seed: Of initial weights, order of prompts and dropout.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = ScheduleClassifier(data.shape(settings.hidden_size, positions), settings.dropout)
        optimizer = torch.optim.AdamW(
            classifier.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        weight = _class_weights(data) if settings.class_weights else None
        curve: list[Epoch] = []
        best_weights: dict[str, Tensor] = {}
        for epoch in range(1, settings.epochs + 1):
            training_loss = _train_epoch(classifier, optimizer, data, settings.batch_prompts, weight)
            loss, accuracy = _validate(classifier, data, settings.batch_prompts)
            curve.append(Epoch(epoch, training_loss, loss, accuracy))
            best = min(curve, key=lambda one: one.validation_loss)
            if best.epoch == epoch:
                best_weights = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
            if epoch - best.epoch >= settings.patience:
                break
    classifier.load_state_dict(best_weights)
    return Trained(classifier.eval(), tuple(curve), best)


def save_trained(
    path: Path | str,
    trained: Trained,
    data: TrainingData,
    settings: TrainingSettings,
    *,
    seed: int,
    training_text: str,
) -> LearnedConfig:
    """Write a network with everything it belongs to.

    Args:
        path: The checkpoint.
        trained: The network.
        data: What it was trained on.
        settings: How.
        seed: Of the run.
        training_text: What the prompts were made of, for readers.
    """
    labels = data.labelled.settings
    config = LearnedConfig(
        model_name=labels.model_name,
        model_sha256=labels.model_sha256,
        store_sha256=labels.store_sha256,
        layers=labels.layers,
        source=data.input.source,
        block=data.input.block,
        classifier=trained.classifier.shape,
        widths=labels.widths,
        prefill_weight_bits=labels.prefill_weight_bits,
        points=labels.points,
        max_new_tokens=labels.max_new_tokens,
        label_rule=data.rule,
        label_counts=count_labels(data.labels.tolist(), data.classes),
        training_text=training_text,
        training_prompts_sha256=labels.prompts_sha256,
        settings=asdict(settings),
        seed=seed,
        epoch=trained.best.epoch,
        validation_loss=trained.best.validation_loss,
        validation_accuracy=trained.best.validation_accuracy,
        provenance=collect_provenance(),
    )
    save_checkpoint(path, trained.classifier, config)
    return config


def write_curve(path: Path | str, curve: Sequence[Epoch]) -> None:
    """Write a learning curve as CSV."""
    with atomic_writer(path) as file:
        writer = csv.DictWriter(file, list(asdict(curve[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in curve)


def _train_epoch(
    classifier: ScheduleClassifier,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    batch_prompts: int,
    weight: Tensor | None,
) -> float:
    """One pass over the training prompts in random order; returns the mean loss a prompt."""
    classifier.train()
    order = [data.training[place] for place in torch.randperm(len(data.training)).tolist()]
    total = 0.0
    for start in range(0, len(order), batch_prompts):
        places = order[start : start + batch_prompts]
        inputs, labels = data.batch(places)
        loss = functional.cross_entropy(classifier(*inputs), labels, weight)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.item() * len(places)
    return total / len(order)


@torch.inference_mode()
def _validate(classifier: ScheduleClassifier, data: TrainingData, batch_prompts: int) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the validation prompts."""
    classifier.eval()
    loss, right = 0.0, 0
    for start in range(0, len(data.validation), batch_prompts):
        inputs, labels = data.batch(data.validation[start : start + batch_prompts])
        logits = classifier(*inputs)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(-1) == labels).sum())
    return loss / len(data.validation), right / len(data.validation)


def _class_weights(data: TrainingData) -> Tensor:
    """Inverse frequency of each class, 1 on average over the training prompts; 0 for a class that never occurs."""
    counts = torch.bincount(data.labels[data.training], minlength=data.classes)
    present = counts > 0
    weights = torch.zeros(data.classes)
    weights[present] = len(data.training) / (present.sum() * counts[present])
    return weights
