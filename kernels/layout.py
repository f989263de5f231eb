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
:mod:`kernels.ptx_program` joins the bits of all four p at once.

Columns past K are zero bits up to the end of the last block; kernels must multiply them by zero activations. Rows are
not padded; a program whose rows run past N reads the last row again and stores nothing for it.

Beside the planes lie, for each stored width b, what turns an index into a weight::

    luts[b]       [N, groups, 2**b] float16         the codebooks themselves, for every width
    byte_luts[b]  2 x [N, groups, 2**b / 4] int32   b = 2..4: their low and their high bytes, entry 0 lowest, because
                                                    the permute looks up bytes
    grids[b]      step, zero [N, groups] float16    b = 2..8, where every codebook lies on a uniform grid:
                                                    entry q = half(step * (q - zero)), bit for bit

The last two need one codebook for all columns of a block, so B is chosen such that ``group_size`` is a whole number of
blocks (16 for groups of 128, 32 for 256, 64 for 512) where one is; where none is (groups of 32), they are left out and
weights are looked up one by one. Among the B that remain, the largest that divides K is taken, else the smallest.

Layers that read the same activations are fused by joining rows (:mod:`kernels.combine`): ``stack`` puts one matrix
after the other, ``interleave`` alternates their rows. Rows and their codebooks are independent of each other, so
neither changes anything within a row. A sparse part is kept as it is stored, in compressed sparse rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kernels.bit_order import to_kernel_order, to_storage_order
from kernels.errors import KernelError
from kernels.planes import WORD_BITS, words_per_row

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK_BYTES = (64, 32, 16)
# Widths whose codebook fits the byte permute: an index has at most 3 bits, and one more by a second selection.
PERMUTE_BITS = (2, 3, 4)
# Widths of uniform grids that are decoded by arithmetic.
GRID_BITS = (2, 3, 4, 5, 6, 7, 8)

Decoder = Literal["permute", "grid", "lookup"]


@dataclass(frozen=True)
class Grid:
    """Uniform grids: index q stands for ``half(step * (q - zero))``, rounded once.

    Attributes:
        step: ``[N, groups]`` float16, not negative.
        zero: ``[N, groups]`` float16, whole: the index of weight 0, not necessarily one that exists.
    """

    step: Tensor
    zero: Tensor


@dataclass(frozen=True)
class SparsePart:
    """Values added to a dense matrix ``[N, K]``, in compressed sparse rows; made by :meth:`from_csr`.

    Attributes:
        rows: ``[N + 1]`` int32: row n holds the values ``rows[n] .. rows[n + 1] - 1``.
        cols: ``[nnz]`` int32, in any order; values of one column add.
        vals: ``[nnz]`` float16.
        in_features: K.
        longest_row: Values of the fullest row, known here so that no kernel call has to ask the GPU.
    """

    rows: Tensor
    cols: Tensor
    vals: Tensor
    in_features: int
    longest_row: int

    @classmethod
    def from_csr(cls, rows: Tensor, cols: Tensor, vals: Tensor, in_features: int) -> SparsePart:
        """Check stored rows, columns and values.

        Raises:
            KernelError: If a dtype or shape does not fit, the rows do not rise from 0 to nnz, or a column is not
                within K.
        """
        import torch

        found = f"rows {rows.dtype} {tuple(rows.shape)}, cols {cols.dtype} {tuple(cols.shape)}, vals {vals.dtype} "
        found = f"sparse part: {found}{tuple(vals.shape)}"
        dtypes = rows.dtype == cols.dtype == torch.int32 and vals.dtype == torch.float16
        if not dtypes or rows.dim() != 1 or not len(rows) or cols.dim() != 1 or cols.shape != vals.shape:
            raise KernelError(f"{found}: must be int32 [N + 1], int32 [nnz], float16 [nnz]")
        lengths = rows.diff()
        if int(rows[0]) != 0 or int(rows[-1]) != len(vals) or bool((lengths < 0).any()):
            raise KernelError(f"{found}: rows must rise from 0 to nnz = {len(vals)}")
        if len(cols) and not 0 <= int(cols.min()) <= int(cols.max()) < in_features:
            raise KernelError(f"{found}: columns {int(cols.min())}..{int(cols.max())} must be 0..{in_features - 1}")
        longest_row = int(lengths.max()) if len(lengths) else 0
        return cls(rows.contiguous(), cols.contiguous(), vals.contiguous(), in_features, longest_row)


@dataclass(frozen=True)
class PackedWeight:
    """One weight matrix in the kernels' layout.

    Attributes:
        planes: ``[bits, N, Kp / 32]`` int32, Kp being K rounded up to whole blocks.
        luts: Per width b, ``[N, groups, 2**b]`` float16.
        byte_luts: Per width 2..4, the low and the high bytes of the codebooks, each ``[N, groups, 2**b / 4]`` int32;
            empty where a block spans more than one codebook.
        grids: Per width 2..8 whose codebooks lie on uniform grids, those; empty as above.
        sparse: What is added to the dense matrix, or None.
        in_features: K.
        group_size: Columns that share a codebook; None for one codebook per row.
        block_bytes: B, bytes of a block in one plane.
    """

    planes: Tensor
    luts: dict[int, Tensor]
    byte_luts: dict[int, tuple[Tensor, Tensor]]
    grids: dict[int, Grid]
    sparse: SparsePart | None
    in_features: int
    group_size: int | None
    block_bytes: int

    @property
    def out_features(self) -> int:
        """N."""
        return self.planes.shape[1]

    @property
    def widths(self) -> tuple[int, ...]:
        """The stored widths, rising."""
        return tuple(sorted(self.luts))

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return self.planes.shape[2] * WORD_BITS // (8 * self.block_bytes)

    @property
    def groups(self) -> int:
        """Codebooks of a row."""
        return groups_per_row(self.in_features, self.group_size)

    @property
    def blocks_per_group(self) -> int | None:
        """Consecutive blocks that share a codebook; None where a block spans more than one."""
        return _blocks_per_group(self.in_features, self.group_size, self.block_bytes)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.planes.device

    def decoder(self, weight_bits: int) -> Decoder:
        """How the kernels turn indices of a stored width into weights (:mod:`kernels.tiles`).

        A grid wins where there is one: compiled for sm_90, the GEMV's loop issues 1.0 / 1.5 / 1.5 instructions a weight
        on the integer pipe, the one that binds, and 1.5 / 1.6 / 2.9 with permutes, at 2 / 3 / 4 bits.

        Raises:
            KernelError: If the width is not stored.
        """
        if weight_bits not in self.luts:
            raise KernelError(
                f"weight_bits = {weight_bits}: not stored; stored widths: {', '.join(map(str, self.widths))}"
            )
        if weight_bits in self.grids:
            return "grid"
        return "permute" if weight_bits in self.byte_luts else "lookup"

    def tables(self, weight_bits: int) -> tuple[Tensor, Tensor]:
        """What :meth:`decoder` reads beside the planes: low and high bytes, step and zero, or the codebook, twice."""
        decoder = self.decoder(weight_bits)
        if decoder == "grid":
            return self.grids[weight_bits].step, self.grids[weight_bits].zero
        lut = self.luts[weight_bits]
        return self.byte_luts[weight_bits] if decoder == "permute" else (lut, lut)

    def tensors(self) -> list[Tensor]:
        """Every tensor it holds, for whoever counts memory."""
        halves = [half for pair in self.byte_luts.values() for half in pair]
        grids = [part for grid in self.grids.values() for part in (grid.step, grid.zero)]
        sparse = [] if self.sparse is None else [self.sparse.rows, self.sparse.cols, self.sparse.vals]
        return [self.planes, *self.luts.values(), *halves, *grids, *sparse]


def pack(
    planes: Tensor,
    luts: dict[int, Tensor],
    in_features: int,
    group_size: int | None = None,
    *,
    sparse: SparsePart | None = None,
) -> PackedWeight:
    """Bring a stored matrix into the kernels' layout.

    Args:
        planes: ``[bits, N, ceil(K / 32)]`` int32 in storage order.
        luts: Per width b, ``[N, groups, 2**b]`` float16; b at most the number of planes.
        in_features: K.
        group_size: Columns that share a codebook; None for one codebook per row.
        sparse: What is added to the matrix at every width; see :meth:`SparsePart.from_csr`.

    Raises:
        KernelError: If the planes do not match K, a codebook's shape, dtype or device does not fit or it holds infinity
            or NaN, or the sparse part is of another shape or device.
    """
    import torch

    from kernels.uniform import grid_of

    bits, N, words = planes.shape
    if planes.dtype != torch.int32 or words != words_per_row(in_features):
        raise KernelError(
            f"planes {planes.dtype} {tuple(planes.shape)}: must be int32 with {words_per_row(in_features)} words a row"
        )
    if group_size is not None and group_size < 1:
        raise KernelError(f"group_size = {group_size}: must be >= 1, or None for one codebook per row")
    groups = groups_per_row(in_features, group_size)
    for width, lut in luts.items():
        expected = (N, groups, 1 << width)
        if not 1 <= width <= bits or lut.dtype != torch.float16 or tuple(lut.shape) != expected:
            raise KernelError(
                f"codebook of width {width}: {lut.dtype} {tuple(lut.shape)}, must be float16 {expected} "
                f"and at most {bits} bits wide"
            )
        if lut.device != planes.device:
            raise KernelError(f"codebook of width {width} is on {lut.device}, the planes on {planes.device}")
        # Padding decodes to an entry and meets a zero activation, which an infinity or NaN would turn into NaN.
        if not bool(lut.isfinite().all()):
            raise KernelError(f"codebook of width {width} holds infinity or NaN: must be finite")
    if sparse is not None:
        shape = (len(sparse.rows) - 1, sparse.in_features)
        if shape != (N, in_features) or sparse.vals.device != planes.device:
            raise KernelError(
                f"sparse part of {shape} on {sparse.vals.device}: must be of {(N, in_features)} on {planes.device}"
            )
    block_bytes = _block_bytes(in_features, group_size)
    contiguous = {width: lut.contiguous() for width, lut in luts.items()}
    byte_luts, grids = {}, {}
    if _blocks_per_group(in_features, group_size, block_bytes) is not None:
        byte_luts = {b: _split_bytes(lut) for b, lut in contiguous.items() if b in PERMUTE_BITS}
        found = {b: grid_of(lut) for b, lut in contiguous.items() if b in GRID_BITS}
        grids = {b: grid for b, grid in found.items() if grid is not None}
    row_bytes = block_bytes * -(-in_features // (8 * block_bytes))
    packed = torch.empty((bits, N, row_bytes // 4), dtype=torch.int32, device=planes.device)
    for source, target in zip(planes, packed, strict=True):
        target.copy_(to_kernel_order(source, block_bytes, row_bytes))
    return PackedWeight(packed, contiguous, byte_luts, grids, sparse, in_features, group_size, block_bytes)


def unpack(packed: PackedWeight) -> Tensor:
    """The planes in storage order, ``[bits, N, ceil(K / 32)]`` int32; the exact inverse of :func:`pack`."""
    import torch

    words = words_per_row(packed.in_features)
    return torch.stack([to_storage_order(plane, packed.block_bytes, words) for plane in packed.planes])


def groups_per_row(in_features: int, group_size: int | None) -> int:
    """Codebooks of a row."""
    return -(-in_features // (group_size or in_features))


def _blocks_per_group(in_features: int, group_size: int | None, block_bytes: int) -> int | None:
    columns = 8 * block_bytes
    if group_size is None or group_size >= in_features:
        return -(-in_features // columns)
    return group_size // columns if group_size % columns == 0 else None


def _block_bytes(in_features: int, group_size: int | None) -> int:
    """The largest block that divides K, else the smallest, which wastes the least; within one group where one is."""
    fitting = [size for size in BLOCK_BYTES if _blocks_per_group(in_features, group_size, size)] or BLOCK_BYTES
    return next((size for size in fitting if in_features % (8 * size) == 0), fitting[-1])


def _split_bytes(lut: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high bytes of ``[N, groups, 2**b]`` float16 codebooks, each ``[N, groups, 2**b / 4]`` int32."""
    import torch

    data = lut.view(torch.uint8).view(*lut.shape, 2)
    low, high = (data[..., half].contiguous().view(torch.int32) for half in (0, 1))
    return low, high
