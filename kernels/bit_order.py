"""Reorder the bits of a plane from storage order (:mod:`kernels.planes`) to the kernels' (:mod:`kernels.layout`)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def to_kernel_order(plane: Tensor, block_bytes: int, row_bytes: int) -> Tensor:
    """Reorder the bits of one plane ``[N, W]`` int32 from storage order; ``[N, row_bytes / 4]`` int32.

    A stored byte holds two nibbles of one slab, those of words u = 2v and 2v + 1. Its bits are spread to the places of
    p = 0 in the halves of an int32, word 2v in the lower; shifting by p and joining makes half h of both words.
    """
    import torch

    N = len(plane)
    stored = torch.nn.functional.pad(plane.contiguous().view(torch.uint8), (0, row_bytes - 4 * plane.shape[1]))
    slabs = stored.view(N, -1, 4, 2, block_bytes // 8)
    table = _spread_table(plane.device)
    joined = torch.zeros((N, slabs.shape[1], 2, block_bytes // 8), dtype=torch.int32, device=plane.device)
    for p in range(4):
        spread = torch.index_select(table, 0, slabs[:, :, p].reshape(-1).int())
        joined |= (spread << p).view(joined.shape)
    # From (block, h, v, word) to (block, v, word, h).
    halves = joined.view(torch.int16).view(N, -1, 2, block_bytes // 4)
    return halves.transpose(2, 3).contiguous().view(N, -1).view(torch.int32)


def to_storage_order(plane: Tensor, block_bytes: int, words: int) -> Tensor:
    """The inverse of :func:`to_kernel_order`: ``[N, words]`` int32 in storage order."""
    import torch

    N = len(plane)
    halves = plane.contiguous().view(torch.int16).view(N, -1, block_bytes // 4, 2)
    joined = halves.transpose(2, 3).contiguous().view(torch.int32)
    slabs = torch.empty((N, joined.shape[1], 4, 2, block_bytes // 8), dtype=torch.uint8, device=plane.device)
    for p in range(4):
        bits = (joined >> p) & 0x11111111
        # Each step brings neighbours together: 2, 4 and 8 bits.
        for shift, mask in ((3, 0x03030303), (6, 0x000F000F), (12, 0x000000FF)):
            bits = (bits | (bits >> shift)) & mask
        slabs[:, :, p] = bits.to(torch.uint8)
    return slabs.view(N, -1)[:, : 4 * words].contiguous().view(torch.int32)


@cache
def _spread_table(device: torch.device) -> Tensor:
    """``[256]`` int32: bit i of a byte's low nibble at bit 4i, of its high nibble at bit 16 + 4i."""
    import torch

    values = torch.arange(256, device=device).unsqueeze(1)
    places = torch.arange(8, device=device)
    return (((values >> places) & 1) << (4 * places)).sum(1).int()
