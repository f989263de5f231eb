"""A KV cache with its memory laid out in advance, which decoding can clone and thin out.

``DynamicCache`` copies the whole cache at every step to append one position. With a response's bound known
beforehand the buffer is allocated once and filled in place; a branch of the schedule tree then copies only
the filled part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, ``[B, kv_heads, capacity, head_dim]``, of which a prefix is filled."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers in the shape of the first states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._key_buffer = self._allocate(key_states)
        self._value_buffer = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: Tensor) -> Tensor:
        batch, heads, _, head_dim = like.shape
        return like.new_empty(batch, heads, self.capacity, head_dim)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append states ``[B, kv_heads, T, head_dim]`` and return views of everything filled so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[-2]
        self._key_buffer[:, :, start : self.length] = key_states
        self._value_buffer[:, :, start : self.length] = value_states
        self._expose()
        return self.keys, self.values

    def _expose(self) -> None:
        self.keys = self._key_buffer[:, :, : self.length]
        self.values = self._value_buffer[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Positions filled so far."""
        return self.length

    def take(self, rows: Tensor) -> PreallocatedLayer:
        """Copy the sequences ``rows`` (batch indices) into a new layer of equal capacity."""
        other = PreallocatedLayer(self.capacity)
        other.dtype, other.device, other.length = self.dtype, self.device, self.length
        for name in ("_key_buffer", "_value_buffer"):
            source: Tensor = getattr(self, name)
            buffer = source.new_empty(len(rows), *source.shape[1:])
            buffer[:, :, : self.length] = source[:, :, : self.length].index_select(0, rows)
            setattr(other, name, buffer)
        other.is_initialized = True
        other._expose()
        return other


def make_cache(layers: int, capacity: int) -> Cache:
    """Make an empty cache of ``layers`` decoder blocks for ``capacity`` positions."""
    return Cache(layers=[PreallocatedLayer(capacity) for _ in range(layers)])


def take_rows(cache: Cache, rows: Sequence[int]) -> Cache:
    """Copy the sequences ``rows`` of ``cache`` into a new one; the old one stays as it is."""
    index = torch.tensor(rows, dtype=torch.long, device=cache.layers[0].device)
    return Cache(layers=[layer.take(index) for layer in cache.layers])
