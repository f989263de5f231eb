"""Plain torch reference of every public operation: slow, obvious, and what the kernels are checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.errors import KernelError
from kernels.layout import unpack
from kernels.planes import unpack_planes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kernels.layout import PackedWeight, SparsePart


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


def dense_weight(packed: PackedWeight, weight_bits: int, dtype: torch.dtype | None = None) -> Tensor:
    """The matrix that a packed weight stands for at one width, the sparse part added.

    Args:
        packed: Any packed weight, however it was joined from others.
        weight_bits: A stored width.
        dtype: What the sparse part is added in, and the result's; float64 by default, in which the sum is exact.

    Returns:
        ``[N, K]``.
    """
    import torch

    dtype = dtype or torch.float64
    weight = dequantize(unpack(packed), packed.luts[weight_bits], packed.in_features, packed.group_size).to(dtype)
    return weight if packed.sparse is None else weight + dense_sparse(packed.sparse, dtype)


def dense_sparse(sparse: SparsePart, dtype: torch.dtype | None = None) -> Tensor:
    """A sparse part as ``[N, K]``; values of one column add, in ``dtype``, float64 by default."""
    import torch

    N = len(sparse.rows) - 1
    matrix = torch.zeros((N, sparse.in_features), dtype=dtype or torch.float64, device=sparse.vals.device)
    row = torch.arange(N, device=matrix.device).repeat_interleave(sparse.rows.diff())
    return matrix.index_put_((row, sparse.cols.long()), sparse.vals.to(matrix.dtype), accumulate=True)


def grid_weights(codes: Tensor, step: Tensor, zero: Tensor, group_size: int | None = None) -> Tensor:
    """Weights on uniform grids: ``half(step * (q - zero))``, each rounded once.

    Args:
        codes: ``[N, K]`` whole numbers.
        step: ``[N, groups]`` float16.
        zero: ``[N, groups]`` float16, whole.
        group_size: Columns that share a grid; None for one grid per row.

    Returns:
        ``[N, K]`` float16.
    """
    import torch

    K = codes.shape[1]
    group = torch.arange(K, device=codes.device) // (group_size or K)
    # Products of numbers of 11 significant bits are exact in float64.
    return ((codes.double() - zero.double()[:, group]) * step.double()[:, group]).half()


def sparse_product(x: Tensor, sparse: SparsePart, addend: Tensor | None = None) -> Tensor:
    """``x S^T + addend`` in float64; a column without a value in a row is not read for it.

    Args:
        x: ``[M, K]``.
        sparse: S, ``[N, K]``.
        addend: ``[M, N]`` or None.

    Returns:
        ``[M, N]`` float64.
    """
    import torch

    y = torch.zeros((x.shape[0], len(sparse.rows) - 1), dtype=torch.float64, device=x.device)
    row = torch.arange(y.shape[1], device=x.device).repeat_interleave(sparse.rows.diff())
    y.index_add_(1, row, x.double()[:, sparse.cols.long()] * sparse.vals.double())
    return y if addend is None else y + addend.double()


def linear(
    x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None = None, *, addend: Tensor | None = None
) -> Tensor:
    """``x W_b^T + bias + addend`` in float64, the sparse part included.

    Args:
        x: ``[..., K]``.
        packed: The weight.
        weight_bits: A stored width.
        bias: ``[N]`` or None.
        addend: ``[..., N]`` or None.

    Returns:
        ``[..., N]`` float64.
    """
    y = x.double() @ dense_weight(packed, weight_bits).T
    for term in (bias, addend):
        y = y if term is None else y + term.double()
    return y


def swiglu_linear(
    x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None = None, *, addend: Tensor | None = None
) -> Tensor:
    """``SiLU(gate) * up`` in float64, gate and up being the even and the odd outputs of :func:`linear`."""
    import torch

    y = linear(x, packed, weight_bits, bias, addend=addend)
    return torch.nn.functional.silu(y[..., 0::2]) * y[..., 1::2]
