"""Uniform grids: codebooks whose entries are evenly spaced, as round-to-nearest and GPTQ make them.

A store keeps such a grid as a codebook, so that one decoder serves every quantiser. Found again here, it spares the
kernels the table: an index becomes a weight by arithmetic (:mod:`kernels.ptx_grid`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.layout import Grid


def grid_of(lut: Tensor) -> Grid | None:
    """The uniform grids of codebooks, if every entry of every codebook is ``half(step * (q - zero))`` bit for bit.

    The entry +0 names ``zero`` and its neighbour is the step, so there is one candidate, and it is checked on every
    entry. A grid that does not contain the weight 0 is not recognised; no quantiser here makes one.

    Args:
        lut: ``[N, groups, 2**b]`` float16, contiguous, b >= 1.

    Returns:
        None if any codebook is anything else.
    """
    import torch

    from kernels.layout import Grid

    raw = lut.view(torch.int16)
    is_zero = raw == 0
    if not lut.numel() or not bool(is_zero.any(-1).all()):
        return None
    # The first +0: a grid of step 0 has nothing else, and any zero before it would give -0 there.
    zero = is_zero.int().argmax(-1, keepdim=True)
    last = lut.shape[-1] - 1
    step = torch.where(
        zero < last, lut.gather(-1, (zero + 1).clamp(max=last)), -lut.gather(-1, (zero - 1).clamp(min=0))
    )
    points = grid_points(step.squeeze(-1), zero.squeeze(-1), lut.shape[-1])
    if bool((step.signbit()).any()) or not torch.equal(points.view(torch.int16), raw):
        return None
    return Grid(step.squeeze(-1).contiguous(), zero.squeeze(-1).half().contiguous())


def grid_points(step: Tensor, zero: Tensor, entries: int) -> Tensor:
    """The codebooks ``[N, groups, entries]`` float16 of grids ``[N, groups]``.

    Source: the products have at most 22 significant bits, so float32 holds them exactly and they are rounded once.
    """
    import torch

    codes = torch.arange(entries, dtype=torch.float32, device=step.device)
    return ((codes - zero.float().unsqueeze(-1)) * step.float().unsqueeze(-1)).half()
