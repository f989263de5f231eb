"""Device functions that decode one block of packed rows into eight fp16 slabs, shared by all kernels.

A block is ``BLOCK_BYTES`` bytes of every plane and row, that is eight slabs of ``BLOCK_BYTES`` consecutive columns
(:mod:`kernels.layout`): slab s of a block starts at column ``(8 block + s) BLOCK_BYTES``. A kernel walks the blocks
of its rows and multiplies each slab by its columns of the activations:

- ``DECODER == "permute"``: widths 2..4, the byte tables of the rows in registers (:func:`load_tables`,
  :func:`permute_slabs`).
- ``DECODER == "grid"``: widths 2..8 on uniform grids, the rows' steps and zeros in registers, decoded by arithmetic
  (:func:`load_grid`, :func:`grid_slabs`).
- ``DECODER == "lookup"``: widths 1..8, entries looked up in memory (:func:`lookup_slabs`).

``PackedWeight.decoder`` names one, ``PackedWeight.tables`` gives its two tensors. :func:`load_decoder` loads what a
row keeps in registers, :func:`decode_slabs` decodes with it, and :func:`decode_block` does for all three what a kernel
needs inside its loop. Rows must be below N (clamp them), blocks below the blocks of a row; nothing else is masked.

Triton's CPU interpreter knows no inline PTX; there ``permute_slabs`` takes the same bytes from the same tables with
plain integer operations, and ``grid_slabs`` computes the same numbers index by index.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kernels.ptx import half_decoder, index_decoder
from kernels.ptx_grid import grid_decoder

# Whether these functions run in Triton's CPU interpreter (TRITON_INTERPRET=1), which is fixed when they are defined.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

# By width.
_HALF_PTX = tl.constexpr(("", "", *(half_decoder(bits)[0] for bits in range(2, 5))))
_HALF_CONSTRAINTS = tl.constexpr(("", "", *(half_decoder(bits)[1] for bits in range(2, 5))))
_INDEX_PTX = tl.constexpr(("", *(index_decoder(bits)[0] for bits in range(1, 9))))
_INDEX_CONSTRAINTS = tl.constexpr(("", *(index_decoder(bits)[1] for bits in range(1, 9))))
_GRID_PTX = tl.constexpr(("", "", *(grid_decoder(bits)[0] for bits in range(2, 9))))
_GRID_CONSTRAINTS = tl.constexpr(("", "", *(grid_decoder(bits)[1] for bits in range(2, 9))))
_EIGHT_BYTES = tl.constexpr((tl.int8,) * 8)
_EIGHT_HALVES = tl.constexpr((tl.float16,) * 8)


@triton.jit
def load_tables(low_ptr, high_ptr, table, BITS: tl.constexpr):
    """The byte tables of some rows, for :func:`permute_slabs`.

    Args:
        low_ptr: int32, the low bytes of all codebooks, ``2**BITS / 4`` words each.
        high_ptr: The high bytes.
        table: ``[ROWS]`` int32, which codebook each row reads.
        BITS: 2, 3 or 4.

    Returns:
        Tensors ``[ROWS, 1]`` int32: the 1, 2 or 4 words of low bytes, then those of high bytes.
    """
    WORDS: tl.constexpr = (1 << BITS) // 4
    low = (tl.load(low_ptr + table * WORDS)[:, None],)
    high = (tl.load(high_ptr + table * WORDS)[:, None],)
    for word in tl.static_range(1, WORDS):
        low += (tl.load(low_ptr + table * WORDS + word)[:, None],)
        high += (tl.load(high_ptr + table * WORDS + word)[:, None],)
    return low + high


@triton.jit
def permute_slabs(row_ptr, plane_bytes, tables, BITS: tl.constexpr, BLOCK_BYTES: tl.constexpr):
    """Decode one block by byte permutes.

    Args:
        row_ptr: ``[ROWS, 1]`` pointers to int8, where the block starts in the first plane of each row.
        plane_bytes: Bytes from one plane to the next.
        tables: What :func:`load_tables` gave.
        BITS: 2, 3 or 4.
        BLOCK_BYTES: 16, 32 or 64.

    Returns:
        Eight tensors ``[ROWS, BLOCK_BYTES]`` float16, slab 0 first.
    """
    if INTERPRETED:
        return _table_slabs(row_ptr, plane_bytes, tables, BITS, BLOCK_BYTES)
    return tl.inline_asm_elementwise(
        _HALF_PTX[BITS],
        _HALF_CONSTRAINTS[BITS],
        _load_planes(row_ptr, plane_bytes, BITS, BLOCK_BYTES) + tables,
        dtype=_EIGHT_HALVES,
        is_pure=True,
        pack=4,
    )


@triton.jit
def _load_planes(row_ptr, plane_bytes, BITS: tl.constexpr, BLOCK_BYTES: tl.constexpr):
    """One block of every plane, most significant first, ``[ROWS, BLOCK_BYTES]`` int8 each."""
    byte_ptr = row_ptr + tl.arange(0, BLOCK_BYTES)[None, :]
    planes = (tl.load(byte_ptr),)
    for plane in tl.static_range(1, BITS):
        planes += (tl.load(byte_ptr + plane * plane_bytes),)
    return planes


@triton.jit
def _indices(row_ptr, plane_bytes, BITS: tl.constexpr, BLOCK_BYTES: tl.constexpr):
    """Codebook indices ``[ROWS, 8 BLOCK_BYTES]`` int32 of one block, bit by bit, for the interpreter."""
    column = tl.arange(0, 8 * BLOCK_BYTES)
    slab = column // BLOCK_BYTES
    j = column % BLOCK_BYTES
    # Bit 16h + 4i + p of word u, as a byte of the row and a bit of the byte (slab = 2p + h, j = 4u + i).
    byte_ptr = row_ptr + ((j // 4) * 4 + 2 * (slab % 2) + (j % 4) // 2)[None, :]
    bit = (4 * (j % 2) + slab // 2)[None, :]
    index = (tl.load(byte_ptr).to(tl.int32) >> bit) & 1
    for plane in tl.static_range(1, BITS):
        index = (index << 1) | ((tl.load(byte_ptr + plane * plane_bytes).to(tl.int32) >> bit) & 1)
    return index


@triton.jit
def _split_slabs(block, BLOCK_BYTES: tl.constexpr):
    """Cut ``[ROWS, 8 BLOCK_BYTES]`` into eight slabs, for the interpreter."""
    cube = tl.reshape(block, [block.shape[0], 2, 2, 2, BLOCK_BYTES])
    # The last dimension is split first, so the lowest bit of the slab's number.
    even, odd = tl.split(tl.permute(cube, (0, 4, 1, 2, 3)))
    s04, s26 = tl.split(even)
    s15, s37 = tl.split(odd)
    s0, s4 = tl.split(s04)
    s1, s5 = tl.split(s15)
    s2, s6 = tl.split(s26)
    s3, s7 = tl.split(s37)
    return s0, s1, s2, s3, s4, s5, s6, s7


@triton.jit
def _table_slabs(row_ptr, plane_bytes, tables, BITS: tl.constexpr, BLOCK_BYTES: tl.constexpr):
    """:func:`permute_slabs` without inline PTX, for the interpreter."""
    WORDS: tl.constexpr = (1 << BITS) // 4
    index = _indices(row_ptr, plane_bytes, BITS, BLOCK_BYTES)
    low, high = tables[0], tables[WORDS]
    for word in tl.static_range(1, WORDS):
        low = tl.where(index // 4 == word, tables[word], low)
        high = tl.where(index // 4 == word, tables[WORDS + word], high)
    shift = 8 * (index % 4)
    half = ((low >> shift) & 255) | (((high >> shift) & 255) << 8)
    return _split_slabs(half.to(tl.int16).to(tl.float16, bitcast=True), BLOCK_BYTES)


@triton.jit
def load_grid(step_ptr, zero_ptr, table):
    """The uniform grids of some rows, for :func:`grid_slabs`: step and zero, each ``[ROWS, 1]`` float16.

    Args:
        step_ptr: float16, the steps of all grids.
        zero_ptr: float16, the zeros.
        table: ``[ROWS]`` int32, which grid each row reads.
    """
    return tl.load(step_ptr + table)[:, None], tl.load(zero_ptr + table)[:, None]


@triton.jit
def grid_slabs(row_ptr, plane_bytes, grid, BITS: tl.constexpr, BLOCK_BYTES: tl.constexpr):
    """Decode one block of indices on uniform grids.

    Args:
        row_ptr: ``[ROWS, 1]`` pointers to int8, where the block starts in the first plane of each row.
        plane_bytes: Bytes from one plane to the next.
        grid: What :func:`load_grid` gave.
        BITS: 2..8.
        BLOCK_BYTES: 16, 32 or 64.

    Returns:
        Eight tensors ``[ROWS, BLOCK_BYTES]`` float16, slab 0 first.
    """
    if INTERPRETED:
        step, zero = grid
        # The product is rounded once.
        code = _indices(row_ptr, plane_bytes, BITS, BLOCK_BYTES).to(tl.float32) - zero.to(tl.float32)
        return _split_slabs((code * step.to(tl.float32)).to(tl.float16), BLOCK_BYTES)
    return tl.inline_asm_elementwise(
        _GRID_PTX[BITS],
        _GRID_CONSTRAINTS[BITS],
        _load_planes(row_ptr, plane_bytes, BITS, BLOCK_BYTES) + grid,
        dtype=_EIGHT_HALVES,
        is_pure=True,
        pack=4,
    )


@triton.jit
def load_decoder(first_ptr, second_ptr, table, DECODER: tl.constexpr, BITS: tl.constexpr):
    """What :func:`decode_slabs` keeps in registers for some rows.

    Args:
        first_ptr: The first tensor of ``PackedWeight.tables``.
        second_ptr: The second one.
        table: ``[ROWS]`` int32, which codebook each row reads.
        DECODER: "permute" or "grid".
        BITS: The width.
    """
    if DECODER == "grid":
        return load_grid(first_ptr, second_ptr, table)
    else:  # noqa: RET505 - what follows a return is compiled as well
        return load_tables(first_ptr, second_ptr, table, BITS)


@triton.jit
def decode_slabs(row_ptr, plane_bytes, tables, DECODER: tl.constexpr, BITS: tl.constexpr, BLOCK_BYTES: tl.constexpr):
    """Decode one block into eight slabs by ``DECODER``, with what :func:`load_decoder` gave."""
    if DECODER == "grid":
        return grid_slabs(row_ptr, plane_bytes, tables, BITS, BLOCK_BYTES)
    else:  # noqa: RET505 - as above
        return permute_slabs(row_ptr, plane_bytes, tables, BITS, BLOCK_BYTES)


@triton.jit
def decode_block(
    row_ptr,
    plane_bytes,
    tables,
    first_ptr,
    second_ptr,
    row,
    block,
    groups,
    group_size,
    DECODER: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """Decode one block by any decoder.

    Args:
        row_ptr: ``[ROWS, 1]`` pointers to int8, where the block starts in the first plane of each row.
        plane_bytes: Bytes from one plane to the next.
        tables: What :func:`load_decoder` gave for the rows; anything where ``DECODER == "lookup"`` or ``GROUPED``.
        first_ptr: The first tensor of ``PackedWeight.tables``.
        second_ptr: The second one.
        row: ``[ROWS]`` int32, each below N.
        block: Which block of K.
        groups: Codebooks of a row.
        group_size: Columns that share a codebook; read only where ``GROUPED``, and then a whole number of blocks
            unless ``DECODER == "lookup"``.
        DECODER: "permute", "grid" or "lookup".
        BITS: The width.
        BLOCK_BYTES: 16, 32 or 64.
        GROUPED: Whether ``groups > 1``.

    Returns:
        Eight tensors ``[ROWS, BLOCK_BYTES]`` float16, slab 0 first. Columns past K hold some entry of the row.
    """
    if DECODER == "lookup":
        return lookup_slabs(row_ptr, plane_bytes, first_ptr, row, block, groups, group_size, BITS, BLOCK_BYTES, GROUPED)
    else:  # noqa: RET505 - what follows a return is compiled as well
        if GROUPED:
            table = row * groups + 8 * block * BLOCK_BYTES // group_size
            tables = load_decoder(first_ptr, second_ptr, table, DECODER, BITS)
        return decode_slabs(row_ptr, plane_bytes, tables, DECODER, BITS, BLOCK_BYTES)


@triton.jit
def lookup_slabs(
    row_ptr,
    plane_bytes,
    lut_ptr,
    row,
    block,
    groups,
    group_size,
    BITS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """Decode one block by looking entries up in memory.

    Args:
        row_ptr: ``[ROWS, 1]`` pointers to int8, where the block starts in the first plane of each row.
        plane_bytes: Bytes from one plane to the next.
        lut_ptr: The codebooks ``[N, groups, 2**BITS]`` float16.
        row: ``[ROWS]`` int32, each below N.
        block: Which block of K.
        groups: Codebooks of a row.
        group_size: Columns that share a codebook; read only where ``GROUPED``.
        BITS: 1..8.
        BLOCK_BYTES: 16, 32 or 64.
        GROUPED: Whether ``groups > 1``.

    Returns:
        Eight tensors ``[ROWS, BLOCK_BYTES]`` float16, slab 0 first. Columns past K hold some entry of the row.
    """
    indices = index_slabs(row_ptr, plane_bytes, BITS, BLOCK_BYTES)
    column = 8 * block * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    slabs = ()
    for slab in tl.static_range(8):
        slab_column = column + slab * BLOCK_BYTES
        slabs += (look_up(lut_ptr, indices[slab], row, slab_column, groups, group_size, BITS, GROUPED),)
    return slabs


@triton.jit
def index_slabs(row_ptr, plane_bytes, BITS: tl.constexpr, BLOCK_BYTES: tl.constexpr):
    """The codebook indices of one block, for :func:`look_up`: eight tensors ``[ROWS, BLOCK_BYTES]``, slab 0 first.

    Args:
        row_ptr: ``[ROWS, 1]`` pointers to int8, where the block starts in the first plane of each row.
        plane_bytes: Bytes from one plane to the next.
        BITS: 1..8.
        BLOCK_BYTES: 16, 32 or 64.
    """
    if INTERPRETED:
        return _split_slabs(_indices(row_ptr, plane_bytes, BITS, BLOCK_BYTES), BLOCK_BYTES)
    return tl.inline_asm_elementwise(
        _INDEX_PTX[BITS],
        _INDEX_CONSTRAINTS[BITS],
        _load_planes(row_ptr, plane_bytes, BITS, BLOCK_BYTES),
        dtype=_EIGHT_BYTES,
        # What is not pure keeps the layout its planes are loaded in; a pure one the compiler would move behind the
        # conversion to the layout of the look-ups, where four registers are not four neighbouring bytes.
        is_pure=False,
        pack=4,
    )


@triton.jit
def look_up(lut_ptr, index, row, column, groups, group_size, BITS: tl.constexpr, GROUPED: tl.constexpr):
    """The codebook entries ``[ROWS, columns]`` float16 of one slab of :func:`index_slabs`.

    Args:
        lut_ptr: The codebooks ``[N, groups, 2**BITS]`` float16.
        index: The slab.
        row: ``[ROWS]`` int32, each below N.
        column: ``[columns]`` int32, which columns of the matrix the slab holds.
        groups: Codebooks of a row.
        group_size: Columns that share a codebook; read only where ``GROUPED``.
        BITS: 1..8.
        GROUPED: Whether ``groups > 1``.
    """
    table = row[:, None] * groups
    if GROUPED:
        table = table + tl.minimum(column // group_size, groups - 1)[None, :]
    return tl.load(lut_ptr + (table << BITS) + (index.to(tl.int32) & 255))
