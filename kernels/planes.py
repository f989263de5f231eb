"""Bit-planes as they are stored: ``[bits, N, ceil(K / 32)]`` int32, most significant plane first.

Bit ``j`` of word ``w`` in a row is column ``32 * w + j``; columns past K are zero. The top b planes of a stored
index are the index at b bits, which is what lets one store serve every width. A word's bytes are little-endian,
so byte ``w`` of a row holds columns ``8 * w`` to ``8 * w + 7``, lowest bit first.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WORD_BITS = 32
MAX_BITS = 8
# Eight bits are handled as the bytes of one 64-bit word, which is many times faster than byte by byte.
_EVERY_BYTE = 0x0101010101010101
_GATHER = 0x0102040810204080


def words_per_row(in_features: int) -> int:
    """Number of 32-bit words that hold one row of a plane."""
    return -(-in_features // WORD_BITS)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack ``[..., 32 W]`` uint8 zeros and ones into ``[..., W]`` int32, lowest bit first."""
    import torch

    return _pack_octets(bits.contiguous().view(torch.int64))


def _pack_octets(octets: Tensor) -> Tensor:
    """Pack ``[..., 4 W]`` int64, eight zeros and ones in each, into ``[..., W]`` int32."""
    import torch

    # The product brings bit 0 of byte i to bit 56 + i; no two partial products meet in one place.
    return ((octets * _GATHER) >> 56).to(torch.uint8).view(torch.int32)


def unpack_bits(words: Tensor) -> Tensor:
    """Unpack ``[..., W]`` int32 into ``[..., 32 W]`` uint8 zeros and ones, lowest bit first."""
    import torch

    return _unpack_octets(words).view(torch.uint8)


def _unpack_octets(words: Tensor) -> Tensor:
    """Unpack ``[..., W]`` int32 into ``[..., 4 W]`` int64, eight zeros and ones in each."""
    import torch

    octets = words.contiguous().view(torch.uint8)
    found = torch.index_select(_octet_table(words.device), 0, octets.reshape(-1).int())
    return found.view(octets.shape)


@cache
def _octet_table(device: torch.device) -> Tensor:
    """``[256]`` int64: byte i of entry v is bit i of v. Twice as fast as computing it."""
    import torch

    values = torch.arange(256, device=device).unsqueeze(1)
    places = torch.arange(8, device=device)
    return (((values >> places) & 1) << (8 * places)).sum(1)


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
    octets = padded.contiguous().view(torch.int64)
    return torch.stack([_pack_octets((octets >> (bits - 1 - plane)) & _EVERY_BYTE) for plane in range(bits)])


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

    if not 1 <= weight_bits <= planes.shape[0]:
        raise KernelError(f"weight_bits = {weight_bits}: must be 1..{planes.shape[0]}, the stored planes")
    words = words_per_row(in_features)
    if planes.shape[2] != words:
        raise KernelError(f"in_features = {in_features}: needs {words} words a row, planes have {planes.shape[2]}")
    indices = _unpack_octets(planes[0])
    for plane in planes[1:weight_bits]:
        # A byte holds at most eight planes, so that nothing is carried into the next.
        indices = indices.bitwise_left_shift_(1).bitwise_or_(_unpack_octets(plane))
    return indices.view(torch.uint8)[:, :in_features].contiguous()
