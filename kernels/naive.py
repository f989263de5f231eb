"""Plain torch reference of every public operation: slow, obvious, and what the kernels are checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.errors import KernelError
from kernels.planes import unpack_planes

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def dequantize(planes: Tensor, lut: Tensor, in_features: int, group_size: int | None = None) -> Tensor:
    """Look every weight up in its row's (or group's) codebook.

    Args:
        planes: ``[>= b, N, ceil(K / 32)]`` int32 in storage order; only the top b planes are read.
        lut: ``[N, groups, 2**b]``, the codebooks of width b; its last dimension decides b.
        in_features: K.
        group_size: Columns that share a codebook; None for one codebook per row.

    Returns:
        ``[N, K]`` in the dtype of ``lut``.

    Raises:
        KernelError: If the codebook's shape does not fit the planes, K or the group size.
    """
    import torch

    weight_bits = check_lut(lut, planes, in_features, group_size)
    N, groups, entries = lut.shape
    indices = unpack_planes(planes, weight_bits, in_features).long()
    if groups > 1:
        group = torch.arange(in_features, device=planes.device) // (group_size or in_features)
        indices += group << weight_bits
    return torch.gather(lut.reshape(N, groups * entries), 1, indices)


def check_lut(lut: Tensor, planes: Tensor, in_features: int, group_size: int | None) -> int:
    """The width that the codebooks ``lut`` belong to.

    Raises:
        KernelError: If their shape does not fit the planes, K or the group size.
    """
    weight_bits = lut.shape[-1].bit_length() - 1
    expected = (planes.shape[1], -(-in_features // (group_size or in_features)), 1 << weight_bits)
    if tuple(lut.shape) != expected:
        raise KernelError(f"lut has shape {tuple(lut.shape)}, must be [N, groups, 2**bits] = {expected}")
    return weight_bits


def matmul(
    x: Tensor,
    planes: Tensor,
    lut: Tensor,
    bias: Tensor | None = None,
    group_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply activations by any-precision weights: ``x @ W.T + bias``.

    Args:
        x: ``[M, K]``.
        planes: See :func:`dequantize`.
        lut: See :func:`dequantize`.
        bias: ``[N]`` or None.
        group_size: See :func:`dequantize`.
        dtype: What to compute in; float64 by default.

    Returns:
        ``[M, N]`` in ``dtype``.
    """
    import torch

    dtype = dtype or torch.float64
    weight = dequantize(planes, lut, x.shape[1], group_size).to(dtype)
    y = x.to(dtype) @ weight.T
    return y if bias is None else y + bias.to(dtype)
