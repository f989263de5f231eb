"""Uniform grids: codebooks whose entries are evenly spaced, as round-to-nearest and GPTQ make them.

A store keeps such a grid as a codebook, so that one decoder serves every quantiser. Found again here, it spares the
kernels the table: an index becomes a weight by arithmetic (:mod:`kernels.ptx_grid`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kernels.errors import KernelError
from kernels.planes import pack_planes

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.layout import Grid, PackedWeight, SparsePart

# Up to here 1024 + zero, which the decoder subtracts, is a whole fp16 number.
MAX_ZERO = 1024


def grid_of(lut: Tensor) -> Grid | None:
    """The uniform grids of codebooks, if every entry of every codebook is ``half(step * (q - zero))`` bit for bit.

    The entry +0 names ``zero`` and its neighbour is the step, so there is one candidate, and it is checked on every
    entry: a few passes over the codebooks, little beside packing the planes. A grid that does not contain the weight 0
    is not recognised (round-to-nearest and GPTQ always include it); pack such a one by :func:`pack_uniform`.

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
    # A negative step fails here too: its point of weight 0 would be -0.
    if not torch.equal(points.view(torch.int16), raw):
        return None
    return Grid(step.squeeze(-1).contiguous(), zero.squeeze(-1).half().contiguous())


def grid_points(step: Tensor, zero: Tensor, entries: int) -> Tensor:
    """The codebooks ``[N, groups, entries]`` float16 of grids ``[N, groups]``.

    The products have at most 22 significant bits, so float32 holds them exactly and they are rounded once.
    """
    import torch

    codes = torch.arange(entries, dtype=torch.float32, device=step.device)
    return ((codes - zero.float().unsqueeze(-1)) * step.float().unsqueeze(-1)).half()


def pack_uniform(
    codes: Tensor,
    step: Tensor,
    zero: Tensor,
    bits: int,
    group_size: int | None = None,
    *,
    sparse: SparsePart | None = None,
) -> PackedWeight:
    """Bring a matrix on uniform grids, ``half(step * (code - zero))``, into the kernels' layout.

    Args:
        codes: ``[N, K]`` uint8, each below ``2**bits``.
        step: ``[N, groups]`` float16, finite, not negative.
        zero: ``[N, groups]`` float16, whole, -1024..1024; need not be a code.
        bits: Width of a code, 1..8; the only width of the result.
        group_size: Columns that share a grid; None for one grid per row.
        sparse: What is added to the matrix.

    Raises:
        KernelError: If a shape, dtype or number does not fit; and as :func:`kernels.layout.pack`.
    """
    import torch

    from kernels.layout import GRID_BITS, Grid, groups_per_row, pack

    if codes.dim() != 2 or codes.dtype != torch.uint8:
        raise KernelError(f"codes {codes.dtype} {tuple(codes.shape)}: must be torch.uint8 [N, K]")
    N, K = codes.shape
    shape = (N, groups_per_row(K, group_size))
    for name, part in (("step", step), ("zero", zero)):
        if part.dtype != torch.float16 or tuple(part.shape) != shape:
            raise KernelError(f"{name} {part.dtype} {tuple(part.shape)}: must be torch.float16 {shape}")
    if not bool((step.isfinite() & ~step.signbit()).all()):
        raise KernelError("step holds numbers that are negative or not finite: must be 0..65504")
    if not bool(((zero.abs() <= MAX_ZERO) & (zero == zero.round())).all()):
        raise KernelError(f"zero holds numbers that are not whole or beyond {MAX_ZERO}: must be whole codes")
    packed = pack(pack_planes(codes, bits), {bits: grid_points(step, zero, 1 << bits)}, K, group_size, sparse=sparse)
    if packed.blocks_per_group is None or bits not in GRID_BITS:
        return packed
    return replace(packed, grids={bits: Grid(step.contiguous(), zero.contiguous())})
