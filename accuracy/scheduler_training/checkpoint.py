"""The file of a trained scheduler: weights as safetensors, and everything that must fit in its metadata as JSON."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from accuracy.scheduler_training.classifier import ClassifierShape, ScheduleClassifier
from accuracy.scheduler_training.features import Block, FeatureInput, Source
from accuracy.scheduler_training.label_store import LabelRule
from hwsim.trace import (
    InputError,
    Record,
    WeightBits,
    atomic_writer,
    candidate_count,
    canonical_sha256,
    from_validation,
)
from hwsim.trace.files import reading

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

CHECKPOINT_NAME = "scheduler.safetensors"
_METADATA_KEY = "learned_scheduler"


class LearnedConfig(Record):
    """What a trained scheduler belongs to, how it plans, and how it came about."""

    schema_version: Literal["1.0"] = "1.0"
    model_name: str
    model_sha256: str = Field(description="Hash of the unquantised weights.")
    store_sha256: str | None = Field(description="Hash of the nested store whose responses made the labels.")
    layers: int = Field(ge=1, description="Decoder blocks of the model.")
    source: Source
    block: Block
    classifier: ClassifierShape
    widths: tuple[WeightBits, ...] = Field(min_length=2, description="Decode widths, falling.")
    prefill_weight_bits: WeightBits
    points: int = Field(ge=2, description="Candidate switch points N over a response.")
    max_new_tokens: int = Field(ge=2, description="Bound M of the training responses.")
    label_rule: LabelRule
    label_counts: tuple[int, ...] = Field(description="Training prompts by label, fewest high bits first.")
    training_text: str = Field(description="What the training prompts were made of.")
    training_prompts_sha256: str
    settings: dict[str, float | int | str | bool | None] = Field(description="Of the training.")
    seed: int
    epoch: int = Field(ge=1, description="Epoch whose weights were kept.")
    validation_loss: float = Field(ge=0, description="Cross-entropy in nats on the prompts held out to stop on.")
    validation_accuracy: float = Field(ge=0, le=1)
    provenance: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.widths) != sorted(set(self.widths), reverse=True):
            raise ValueError(f"widths = {list(self.widths)}: must fall")
        if len(self.label_counts) != self.classifier.classes:
            raise ValueError(f"label_counts: {len(self.label_counts)} for {self.classifier.classes} classes")
        classes = candidate_count(self.points, len(self.widths))
        if classes != self.classifier.classes:
            raise ValueError(f"{len(self.widths)} widths and {self.points} points make {classes} classes")
        return self

    @property
    def input(self) -> FeatureInput:
        """What it reads of a prefill."""
        return FeatureInput(self.source, self.block)

    @property
    def label_prior(self) -> tuple[float, ...]:
        """Share of the training prompts of each class: what the random-prior scheduler draws from."""
        total = sum(self.label_counts)
        return tuple(count / total for count in self.label_counts)


def save_checkpoint(path: Path | str, classifier: ScheduleClassifier, config: LearnedConfig) -> None:
    """Write weights and configuration into one file, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    content = save(tensors, metadata={_METADATA_KEY: config.model_dump_json()})
    with atomic_writer(path, "wb") as file:
        file.write(content)


def checkpoint_sha256(config: LearnedConfig, classifier: ScheduleClassifier) -> str:
    """Hash of a scheduler; equal for equal trainings, whenever and from whichever commit they ran."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    description = config.model_dump(mode="json", exclude={"provenance"})
    return canonical_sha256([description, hashlib.sha256(save(weights)).hexdigest()])


def find_checkpoint(path: Path | str) -> Path:
    """The file itself, or the one in a training's folder."""
    given = Path(path)
    return given / CHECKPOINT_NAME if given.is_dir() else given


def read_config(path: Path | str) -> LearnedConfig:
    """Read what a checkpoint says about itself.

    Raises:
        InputError: If the file is missing, cut, or holds no learned scheduler.
    """
    return _read(find_checkpoint(path))[0]


def load_checkpoint(path: Path | str) -> tuple[LearnedConfig, ScheduleClassifier]:
    """Read a checkpoint; the classifier is in evaluation mode.

    Raises:
        InputError: If the file is missing, cut, holds no learned scheduler, or its weights do not fit what it says.
    """
    source = find_checkpoint(path)
    config, tensors = _read(source)
    with torch.random.fork_rng(devices=[]):
        classifier = ScheduleClassifier(config.classifier)
    wanted = {name: tuple(tensor.shape) for name, tensor in classifier.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{source}: weight '{name}' has shape {found.get(name)}, its configuration says {wanted.get(name)}; "
                "train again"
            )
        if not tensors[name].isfinite().all():
            raise InputError(f"{source}: weight '{name}' holds a number that is not finite; train again")
    classifier.load_state_dict(tensors)
    return config, classifier.eval()


def check_fits(
    config: LearnedConfig,
    source: str,
    lm: LanguageModel | None = None,
    widths: Sequence[int] | None = None,
    points: int | None = None,
) -> None:
    """Refuse a checkpoint that was trained for something else.

    Args:
        config: What the checkpoint says.
        source: Its name in errors.
        lm: The model it is to plan for.
        widths: The decode widths it is to use.
        points: The number of candidate points it is to use.

    Raises:
        InputError: Naming what differs.
    """
    pairs: list[tuple[str, Any, Any]] = []
    if widths is not None:
        pairs.append(("widths", list(config.widths), sorted(widths, reverse=True)))
    if points is not None:
        pairs.append(("points", config.points, points))
    if lm is not None:
        shape = (lm.shape.layers, lm.shape.kv_heads, lm.shape.head_dim)
        classifier = config.classifier
        trained = (config.layers, classifier.heads, classifier.key_dim)
        if config.source == "kv":
            pairs.append(("model shape (blocks, KV heads, head width)", trained, shape))
        pairs += [
            ("layers", config.layers, lm.shape.layers),
            ("model_sha256", config.model_sha256[:12], lm.model_sha256[:12]),
            ("store_sha256", (config.store_sha256 or "none")[:12], (lm.store_sha256 or "none")[:12]),
        ]
    for name, trained_for, wanted in pairs:
        if trained_for != wanted:
            used = f" (model {config.model_name}, here {lm.name})" if lm is not None else ""
            raise InputError(
                f"{source}: was trained for {name} = {trained_for}, not {wanted}{used}; "
                "train a scheduler for this setting"
            )


def count_labels(labels: Sequence[int], classes: int) -> tuple[int, ...]:
    """How often each class occurs.

    >>> count_labels([0, 2, 2], 3)
    (1, 0, 2)
    """
    counts = Counter(labels)
    return tuple(counts[label] for label in range(classes))


def _read(source: Path) -> tuple[LearnedConfig, dict[str, torch.Tensor]]:
    try:
        with reading(source), safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise InputError(f"{source}: is cut or no safetensors file ({error}); train again") from None
    if _METADATA_KEY not in metadata:
        raise InputError(f"{source}: holds no learned scheduler; give the folder of bittaper train-scheduler")
    try:
        return LearnedConfig.model_validate_json(metadata[_METADATA_KEY]), tensors
    except ValidationError as error:
        raise from_validation(error, str(source)) from None
