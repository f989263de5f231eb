"""The layout the kernels read, and exact conversions from and to the stored one.

Each bit-plane keeps its place (most significant first) and its rows, but the bits of a row are permuted so that
one masked shift turns a 32-bit word into the selectors of two byte permutes, that is into eight table look-ups.
A row is cut into blocks of ``8 B`` columns (B = 64, 32 or 16: the bytes of a block in one plane), and a block into
eight slabs of B consecutive columns. Word u of a block (u = 0 .. B/4 - 1) holds columns 4u .. 4u+3 of every slab::

    slab s = 2p + h,  p = 0..3, h = 0..1          column = 8B * block + B * s + 4u + i,  i = 0..3

    bit of the word   31                         16 15                          0
                     +---------------------------+---------------------------+
    half h           |           h = 1           |           h = 0           |
    nibble i         |  i=3    i=2    i=1    i=0 |  i=3    i=2    i=1    i=0 |
    bit p in nibble  | 3210   3210   3210   3210 | 3210   3210   3210   3210 |
                     +---------------------------+---------------------------+
    bit number = 16 h + 4 i + p

For a fixed p, ``(word >> p) & 0x11111111`` is one index bit in each of eight nibbles. The same bit of every plane,
shifted to its place in the nibble and joined, makes eight indices: the low half selects columns 4u .. 4u+3 of slab
2p, the high half those of slab 2p + 1. A decoded slab meets B consecutive activations.

Columns past K are zero bits up to the end of the last block; kernels must multiply them by zero activations.

A codebook of 4, 8 or 16 fp16 entries is also kept split into low and high bytes, four entries to a word, because
the permute looks up bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.errors import KernelError
from kernels.planes import WORD_BITS, pack_bits, unpack_bits, words_per_row

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK_BYTES = (64, 32, 16)
# Widths whose codebook fits the byte permute: an index has at most 3 bits, and one more by a second selection.
PERMUTE_BITS = (2, 3, 4)


@dataclass(frozen=True)
class PackedWeight:
    """One weight matrix in the kernels' layout.

    Attributes:
        planes: ``[bits, N, Kp / 32]`` int32, Kp being K rounded up to whole blocks.
        luts: Per width b, ``[N, groups, 2**b]`` float16.
        byte_luts: Per width 2..4, the low and the high bytes of the codebooks, each ``[N, 2**b / 4]`` int32; empty
            where codebooks are per group.
        in_features: K.
        group_size: Columns that share a codebook; None for one codebook per row.
        block_bytes: B, bytes of a block in one plane.
    """

    planes: Tensor
    luts: dict[int, Tensor]
    byte_luts: dict[int, tuple[Tensor, Tensor]]
    in_features: int
    group_size: int | None
    block_bytes: int

    @property
    def out_features(self) -> int:
        """N."""
        return self.planes.shape[1]

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return self.planes.shape[2] * WORD_BITS // (8 * self.block_bytes)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.planes.device


def pack(planes: Tensor, luts: dict[int, Tensor], in_features: int, group_size: int | None = None) -> PackedWeight:
    """Bring a stored matrix into the kernels' layout.

    Args:
        planes: ``[bits, N, ceil(K / 32)]`` int32 in storage order.
        luts: Per width b, ``[N, groups, 2**b]`` float16; b at most the number of planes.
        in_features: K.
        group_size: Columns that share a codebook; None for one codebook per row.

    Raises:
        KernelError: If the planes do not match K, or a codebook's shape or dtype does not fit.
    """
    import torch

    bits, N, words = planes.shape
    if planes.dtype != torch.int32 or words != words_per_row(in_features):
        raise KernelError(
            f"planes {planes.dtype} {tuple(planes.shape)}: must be int32 with {words_per_row(in_features)} words a row"
        )
    groups = -(-in_features // (group_size or in_features))
    for width, lut in luts.items():
        expected = (N, groups, 1 << width)
        if not 1 <= width <= bits or lut.dtype != torch.float16 or tuple(lut.shape) != expected:
            raise KernelError(
                f"codebook of width {width}: {lut.dtype} {tuple(lut.shape)}, must be float16 {expected} "
                f"and at most {bits} bits wide"
            )
    block_bytes = _block_bytes(in_features)
    columns = 8 * block_bytes * -(-in_features // (8 * block_bytes))
    packed_planes = torch.stack([_permute(plane, columns, block_bytes) for plane in planes])
    byte_luts = {b: _split_bytes(luts[b]) for b in PERMUTE_BITS if b in luts and groups == 1}
    contiguous = {width: lut.contiguous() for width, lut in luts.items()}
    return PackedWeight(packed_planes, contiguous, byte_luts, in_features, group_size, block_bytes)


def unpack(packed: PackedWeight) -> Tensor:
    """The planes in storage order, ``[bits, N, ceil(K / 32)]`` int32; the exact inverse of :func:`pack`."""
    import torch

    words = words_per_row(packed.in_features)
    columns = packed.planes.shape[2] * WORD_BITS
    stored = []
    for plane in packed.planes:
        bits = unpack_bits(plane).view(packed.out_features, packed.blocks, packed.block_bytes // 4, 2, 4, 4)
        natural = bits.permute(0, 1, 5, 3, 2, 4).reshape(packed.out_features, columns)
        padded = torch.nn.functional.pad(natural, (0, max(0, words * WORD_BITS - columns)))
        stored.append(pack_bits(padded[:, : words * WORD_BITS].contiguous()))
    return torch.stack(stored)


def _block_bytes(in_features: int) -> int:
    """The largest block that divides K, else the smallest, which wastes the least."""
    return next((size for size in BLOCK_BYTES if in_features % (8 * size) == 0), BLOCK_BYTES[-1])


def _permute(plane: Tensor, columns: int, block_bytes: int) -> Tensor:
    """Reorder one plane's bits from (block, p, h, u, i) to (block, u, h, i, p)."""
    import torch

    N = plane.shape[0]
    bits = unpack_bits(plane)
    bits = torch.nn.functional.pad(bits, (0, max(0, columns - bits.shape[1])))[:, :columns]
    slabs = bits.reshape(N, -1, 4, 2, block_bytes // 4, 4)
    return pack_bits(slabs.permute(0, 1, 4, 3, 5, 2).reshape(N, columns))


def _split_bytes(lut: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high bytes of ``[N, 1, 2**b]`` float16 codebooks, each ``[N, 2**b / 4]`` int32, entry 0 lowest."""
    import torch

    data = lut.contiguous().view(torch.uint8).view(lut.shape[0], -1, 2)
    low, high = (data[..., half].contiguous().view(torch.int32) for half in (0, 1))
    return low, high
