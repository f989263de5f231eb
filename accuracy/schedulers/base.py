"""What a precision scheduler is: it plans from the prefill and may refine step by step (design decision 6)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwsim.trace import Schedule

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.cache_utils import Cache


@dataclass(frozen=True)
class KVCacheView:
    """One sequence's keys and values, padding left out; valid only during the call it is passed to.

    Attributes:
        cache: The cache of the whole batch.
        row: The sequence's place in the batch.
        padding: Positions to skip on the left.
    """

    cache: Cache
    row: int
    padding: int

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.cache.layers)

    def keys(self, layer: int) -> Tensor:
        """Keys of a block, ``[kv_heads, T, head_dim]``; ``layer`` may count from the end."""
        keys: Tensor = self.cache.layers[layer].keys[self.row, :, self.padding :]
        return keys

    def values(self, layer: int) -> Tensor:
        """Values of a block, ``[kv_heads, T, head_dim]``."""
        values: Tensor = self.cache.layers[layer].values[self.row, :, self.padding :]
        return values


@dataclass(frozen=True)
class Prefill:
    """What a scheduler may look at before decoding begins.

    Attributes:
        prompt_id: Which prompt this is.
        prompt_tokens: Prompt length P.
        max_new_tokens: Bound M on the response, so that at most M - 1 decode steps follow.
        logits: Scores of token 0, ``[vocab]``.
        kv_cache: Keys and values of the prompt.
        activations: Inputs of the attention's output projection, ``[T, heads * head_dim]`` by block, of the blocks
            that the scheduler names in :attr:`Scheduler.captured_blocks`.
    """

    prompt_id: str
    prompt_tokens: int
    max_new_tokens: int
    logits: Tensor
    kv_cache: KVCacheView
    activations: Mapping[int, Tensor] = field(default_factory=dict)


class Scheduler(ABC):
    """Chooses the weight precision of a response.

    Attributes:
        name: Registered name, for trace headers.
        prefill_weight_bits: Width of the prefill, which runs before anything can be planned.
        captured_blocks: Decoder blocks (0-based, from the front) whose activations :class:`Prefill` must carry.
    """

    name: str
    prefill_weight_bits: int
    captured_blocks: frozenset[int] = frozenset()

    @property
    def schedule(self) -> Schedule | None:
        """What it plans, where that is the same for every prompt."""
        return None

    @property
    @abstractmethod
    def label(self) -> str:
        """Short text that tells this scheduler from others of its kind in tables and file names."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides its plans, as JSON: results are kept under its hash."""

    @abstractmethod
    def widths(self) -> frozenset[int]:
        """Every width it may ask for, so that a width that is not stored is refused before the run."""

    @abstractmethod
    def plan(self, prefill: Prefill) -> Schedule:
        """Plan a response; the schedule's ``prefill_weight_bits`` is this scheduler's."""


class StepScheduler(Scheduler):
    """A scheduler that decides each step after seeing the one before.

    It may keep state: decoding runs one prompt at a time, calls :meth:`plan` once, then
    :meth:`next_bits` in order of steps.
    """

    @abstractmethod
    def next_bits(self, step: int, logits: Tensor, kv_cache: KVCacheView) -> int:
        """Choose the width of decode step ``step`` (0-based).

        Args:
            step: The step about to run.
            logits: Scores that chose its input token, ``[vocab]``.
            kv_cache: Keys and values of everything before that token.
        """
