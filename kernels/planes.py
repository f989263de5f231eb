"""Bit-planes as they are stored: ``[bits, N, ceil(K / 32)]`` int32, most significant plane first.

Bit ``j`` of word ``w`` in a row is column ``32 * w + j``; columns past K are zero. The top b planes of a stored
index are the index at b bits, which is what lets one store serve every width. A word's bytes are little-endian,
so byte ``w`` of a row holds columns ``8 * w`` to ``8 * w + 7``, lowest bit first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.errors import KernelError

if TYPE_CHECKING:
    from torch import Tensor

WORD_BITS = 32
MAX_BITS = 8


def words_per_row(in_features: int) -> int:
    """Number of 32-bit words that hold one row of a plane."""
    return -(-in_features // WORD_BITS)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack ``[..., 32 W]`` uint8 zeros and ones into ``[..., W]`` int32, lowest bit first."""
    import torch

    place = torch.arange(8, dtype=torch.uint8, device=bits.device)
    data = (bits.view(*bits.shape[:-1], -1, 8) << place).sum(-1, dtype=torch.uint8)
    return data.view(torch.int32)


def unpack_bits(words: Tensor) -> Tensor:
    """Unpack ``[..., W]`` int32 into ``[..., 32 W]`` uint8 zeros and ones, lowest bit first."""
    import torch

    place = torch.arange(8, dtype=torch.uint8, device=words.device)
    data = words.contiguous().view(torch.uint8)
    return ((data.unsqueeze(-1) >> place) & 1).flatten(-2)


def pack_planes(indices: Tensor, bits: int) -> Tensor:
    """Split codebook indices into bit-planes.

    Args:
        indices: ``[N, K]`` uint8, each below ``2**bits``.
        bits: Number of planes, 1..8.

    Returns:
        ``[bits, N, ceil(K / 32)]`` int32, most significant plane first.

    Raises:
        KernelError: If ``bits`` is out of range or an index needs more bits.
    """
    import torch

    if not 1 <= bits <= MAX_BITS:
        raise KernelError(f"bits = {bits}: must be 1..{MAX_BITS}")
    if indices.numel() and int(indices.max()) >> bits:
        raise KernelError(f"index {int(indices.max())} does not fit in {bits} bits")
    K = indices.shape[1]
    padded = torch.nn.functional.pad(indices.to(torch.uint8), (0, words_per_row(K) * WORD_BITS - K))
    return torch.stack([pack_bits((padded >> (bits - 1 - plane)) & 1) for plane in range(bits)])


def unpack_planes(planes: Tensor, weight_bits: int, in_features: int) -> Tensor:
    """Read codebook indices from the top ``weight_bits`` planes.

    Args:
        planes: ``[bits, N, ceil(K / 32)]`` int32.
        weight_bits: Planes to read, 1..bits.
        in_features: K.

    Returns:
        ``[N, K]`` uint8.

    Raises:
        KernelError: If more planes are asked for than stored, or K does not match the words.
    """
    import torch

    check_planes(planes, weight_bits, in_features)
    indices = torch.zeros((planes.shape[1], planes.shape[2] * WORD_BITS), dtype=torch.uint8, device=planes.device)
    for plane in planes[:weight_bits]:
        indices = (indices << 1) | unpack_bits(plane)
    return indices[:, :in_features].contiguous()


def check_planes(planes: Tensor, weight_bits: int, in_features: int) -> None:
    """Refuse planes from which a width cannot be read.

    Raises:
        KernelError: If more planes are asked for than stored, or K does not match the words.
    """
    if not 1 <= weight_bits <= planes.shape[0]:
        raise KernelError(f"weight_bits = {weight_bits}: must be 1..{planes.shape[0]}, the stored planes")
    words = words_per_row(in_features)
    if planes.shape[2] != words:
        raise KernelError(f"in_features = {in_features}: needs {words} words a row, planes have {planes.shape[2]}")
