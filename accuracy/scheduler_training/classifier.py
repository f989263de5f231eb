"""The learned scheduler's network (PMPD, Appendix A.1): one attention step with learned queries, then a small MLP.

Eq. (4), ``O = softmax(q K^T / sqrt(D_k)) V``, is written for one head. Here every KV head has its own query and its own
keys and values, and the heads' outputs are concatenated; the paper's public code averages keys and values over the
heads first, which drops what tells them apart. Eq. (5) is a LayerNorm and one hidden ReLU layer; its softmax belongs
to the loss, so that this network ends with logits.

Without positions the result does not depend on the order in which the cache lists its tokens. With them, keys and
values are extended by sinusoids of the distance from the prompt's first and from its last token, so that a query can
ask for places and the pooled value tells the prompt's length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from accuracy.scheduler_training.features import Features
from hwsim.trace import InputError, Record

WAVELENGTHS_TOKENS = (1, 4, 16, 64, 256, 1024)
"""Tokens per radian of the position signal."""
POSITION_WIDTH = 4 * len(WAVELENGTHS_TOKENS)
"""Sine and cosine, from the first and from the last token."""


class ClassifierShape(Record):
    """Sizes of the network."""

    heads: int = Field(ge=1, description="Heads H of keys and values.")
    key_dim: int = Field(ge=1, description="Width of a key, positions not counted.")
    value_dim: int = Field(ge=1, description="Width of a value, positions not counted.")
    hidden_size: int = Field(ge=1, description="Width of the MLP's hidden layer.")
    classes: int = Field(ge=2, description="Candidate schedules.")
    positions: bool = Field(False, description="Whether keys and values are extended by positions.")

    @property
    def pooled_size(self) -> int:
        """Width of the concatenated outputs of all heads."""
        return self.heads * (self.value_dim + POSITION_WIDTH * self.positions)

    @property
    def parameters(self) -> int:
        """Trainable numbers: queries, LayerNorm, and the two layers of the MLP with their biases."""
        queries = self.heads * (self.key_dim + POSITION_WIDTH * self.positions)
        hidden = (self.pooled_size + 1) * self.hidden_size
        return queries + 2 * self.pooled_size + hidden + (self.hidden_size + 1) * self.classes


class ScheduleClassifier(nn.Module):
    """Maps the features of a prompt to one logit per candidate schedule."""

    def __init__(self, shape: ClassifierShape, dropout: float = 0.0) -> None:
        """Draw initial weights from torch's generator; small queries begin as a mean over the tokens."""
        super().__init__()
        self.shape = shape
        self.query = nn.Parameter(0.02 * torch.randn(shape.heads, shape.key_dim + POSITION_WIDTH * shape.positions))
        self.norm = nn.LayerNorm(shape.pooled_size)
        self.hidden = nn.Linear(shape.pooled_size, shape.hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(shape.hidden_size, shape.classes)

    def forward(self, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            keys: ``[B, H, T, D_k]``, padded on the right.
            values: ``[B, H, T, D_v]``.
            lengths: Tokens of each prompt, ``[B]``.

        Returns:
            Logits ``[B, N]``.
        """
        keys, values = keys.to(self.query.dtype), values.to(self.query.dtype)
        places = torch.arange(keys.shape[2], device=keys.device)
        if self.shape.positions:
            signal = _position_signal(places, lengths)[:, None].expand(-1, self.shape.heads, -1, -1)
            keys, values = torch.cat([keys, signal], -1), torch.cat([values, signal], -1)
        scores = torch.einsum("hd,bhtd->bht", self.query, keys) / math.sqrt(self.query.shape[1])
        scores = scores.masked_fill(places >= lengths[:, None, None], -torch.inf)
        pooled = torch.einsum("bht,bhtd->bhd", scores.softmax(-1), values).flatten(1)
        logits: Tensor = self.output(self.dropout(self.hidden(self.norm(pooled)).relu()))
        return logits

    @torch.inference_mode()
    def classify(self, prompts: Sequence[Features], source: str) -> Tensor:
        """Logits ``[B, N]`` of prompts' features.

        Args:
            prompts: Features of any lengths.
            source: Where the network came from, for errors.

        Raises:
            InputError: If the features are of another shape than it was trained on.
        """
        trained = (self.shape.heads, self.shape.key_dim, self.shape.value_dim)
        for one in prompts:
            if one.shape != trained:
                raise InputError(
                    f"{source}: was trained for features of (heads, key width, value width) = {trained}, "
                    f"the model gives {one.shape}; train a scheduler for this model"
                )
        batch = (part.to(self.query.device) for part in pad(prompts))
        logits: Tensor = self(*batch)
        return logits


def pad(prompts: Sequence[Features]) -> tuple[Tensor, Tensor, Tensor]:
    """Batch features of different lengths, padded on the right with zeros.

    Returns:
        Keys ``[B, H, T, D_k]``, values ``[B, H, T, D_v]`` and lengths ``[B]``.
    """
    lengths = torch.tensor([one.values.shape[1] for one in prompts])
    keys, values = (
        pad_sequence([part.transpose(0, 1) for part in parts], batch_first=True).transpose(1, 2)
        for parts in ([one.keys for one in prompts], [one.values for one in prompts])
    )
    return keys, values, lengths


def choose_classes(logits: Tensor, sufficiency: float | None = None) -> Tensor:
    """The class of each prompt.

    Args:
        logits: ``[B, N]``, the class of fewest bits first.
        sufficiency: None for the most probable class; otherwise the first class at which the probability that the
            label is no later reaches this.

    Returns:
        Indices ``[B]``.
    """
    if sufficiency is None:
        return logits.argmax(-1)
    enough = logits.double().softmax(-1).cumsum(-1) >= sufficiency
    # Rounding can keep the sum of all probabilities a hair below a threshold near 1: then the last class.
    return torch.where(enough.any(-1), enough.int().argmax(-1), logits.shape[-1] - 1)


def _position_signal(places: Tensor, lengths: Tensor) -> Tensor:
    """Sinusoids of the distance from both ends, ``[B, T, POSITION_WIDTH]``."""
    distances = torch.stack([places.expand(len(lengths), -1), lengths[:, None] - 1 - places], -1)
    angles = distances[..., None] / torch.tensor(WAVELENGTHS_TOKENS, dtype=torch.float32, device=places.device)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(2)
