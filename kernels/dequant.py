"""Dequantise a packed weight on the GPU into a plain ``[N, K]`` matrix, for matrix products that cuBLAS does best.

A program decodes one block of some rows into its eight slabs (:mod:`kernels.tiles`), each a run of consecutive
columns, so that stores are coalesced. A second kernel adds the sparse part.

Importing this module needs triton; :mod:`kernels.dispatch` does so lazily.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.epilogue import DTYPES, check_offsets, on_device
from kernels.errors import KernelError
from kernels.inline_layout import refuse_scattered
from kernels.layout import PackedWeight, SparsePart
from kernels.tiles import decode_block, index_slabs, load_decoder, look_up

_WARPS = 4
# Eight plane bytes of each of 128 threads decode to eight runs of eight halves: each one 16-byte store, in the layout
# they are decoded in.
_TILE_BYTES = 8 * 32 * _WARPS
# Sparse values of a row that meet each other in registers.
_SPARSE_BLOCK = 32


@triton.jit
def _store_slab(out_ptr, weight, row, column, N, K, EVEN_K: tl.constexpr):
    """Store ``[ROWS, BLOCK_BYTES]`` weights of rows below N and columns below K."""
    inside = (row < N)[:, None]
    if not EVEN_K:
        inside = inside & (column < K)[None, :]
    # A matrix may have more than 2**31 weights.
    target = out_ptr + row.to(tl.int64)[:, None] * K + column[None, :]
    tl.store(target, weight.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _dequantize_kernel(
    planes_ptr,
    first_ptr,
    second_ptr,
    out_ptr,
    N,
    K,
    groups,
    group_size,
    row_bytes,
    plane_bytes,
    blocks,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    DECODER: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """Decode one block of ``ROWS`` rows."""
    block = tl.program_id(0) % blocks
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    # Rows past the end read the last row again and are not stored.
    source = tl.minimum(row, N - 1)
    row_ptr = planes_ptr + source[:, None] * row_bytes + block * BLOCK_BYTES
    column = 8 * block * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    if DECODER == "lookup":
        # Slab by slab: the look-ups of a whole block at once do not fit the registers.
        indices = index_slabs(row_ptr, plane_bytes, BITS, BLOCK_BYTES)
        for slab in tl.static_range(8):
            slab_column = column + slab * BLOCK_BYTES
            weight = look_up(first_ptr, indices[slab], source, slab_column, groups, group_size, BITS, GROUPED)
            _store_slab(out_ptr, weight, row, slab_column, N, K, EVEN_K)
    else:
        tables = source
        if not GROUPED:
            tables = load_decoder(first_ptr, second_ptr, source, DECODER, BITS)
        slabs = decode_block(
            row_ptr,
            plane_bytes,
            tables,
            first_ptr,
            second_ptr,
            source,
            block,
            groups,
            group_size,
            DECODER,
            BITS,
            BLOCK_BYTES,
            GROUPED,
        )
        for slab in tl.static_range(8):
            _store_slab(out_ptr, slabs[slab], row, column + slab * BLOCK_BYTES, N, K, EVEN_K)


@triton.jit
def _add_sparse_kernel(rows_ptr, cols_ptr, vals_ptr, out_ptr, K, BLOCK: tl.constexpr):
    """Add ``BLOCK`` of one row's sparse values.

    The first value of a column adds all values of that column, so that no two programs write one weight, and the sum
    does not depend on which runs first.
    """
    row = tl.program_id(0)
    start = tl.load(rows_ptr + row)
    end = tl.load(rows_ptr + row + 1)
    first = start + tl.program_id(1) * BLOCK
    if first < end:
        place = first + tl.arange(0, BLOCK)
        column = tl.load(cols_ptr + place, mask=place < end, other=-1)
        added = tl.full([BLOCK], 0.0, tl.float32)
        earlier = tl.full([BLOCK], 0, tl.int32)
        # The interpreter knows no range of tensors.
        chunk = start
        while chunk < end:
            other = chunk + tl.arange(0, BLOCK)
            other_column = tl.load(cols_ptr + other, mask=other < end, other=-2)
            value = tl.load(vals_ptr + other, mask=other < end, other=0.0)
            # A value is rounded to the matrix's dtype before it is added, as adding two such matrices would do.
            value = value.to(out_ptr.dtype.element_ty).to(tl.float32)
            same = column[:, None] == other_column[None, :]
            added += tl.sum(tl.where(same, value[None, :], 0.0), axis=1)
            earlier += tl.sum((same & (other[None, :] < place[:, None])).to(tl.int32), axis=1)
            chunk += BLOCK
        writes = (place < end) & (earlier == 0)
        target = out_ptr + row.to(tl.int64) * K + column
        weight = tl.load(target, mask=writes, other=0.0).to(tl.float32)
        tl.store(target, (weight + added).to(out_ptr.dtype.element_ty), mask=writes)


def dequantize(
    packed: PackedWeight, weight_bits: int, dtype: torch.dtype = torch.float16, *, out: Tensor | None = None
) -> Tensor:
    """Look every weight up in its row's (or group's) codebook and add the sparse part.

    Args:
        packed: The weight; only its top ``weight_bits`` planes are read.
        weight_bits: The width, one with a stored codebook.
        dtype: torch.float16, bit-equal to :func:`kernels.naive.dequantize`; or torch.bfloat16, the same rounded. The
            sparse part is rounded to ``dtype``, and so is the sum.
        out: Where to write, ``[N, K]`` of ``dtype``, contiguous; allocated by default.

    Returns:
        ``[N, K]``.

    Raises:
        KernelError: If the width is not stored, or ``dtype`` or ``out`` does not fit.
    """
    N, K = packed.out_features, packed.in_features
    decoder = packed.decoder(weight_bits)
    check_offsets(packed, weight_bits)
    if dtype not in DTYPES:
        raise KernelError(f"dtype = {dtype}: must be torch.float16 or torch.bfloat16")
    if out is None:
        out = torch.empty((N, K), dtype=dtype, device=packed.device)
    elif tuple(out.shape) != (N, K) or out.dtype != dtype or not out.is_contiguous() or out.device != packed.device:
        raise KernelError(
            f"out {out.dtype} {tuple(out.shape)} on {out.device}: "
            f"must be {dtype} {(N, K)} on {packed.device}, contiguous"
        )
    first_table, second_table = packed.tables(weight_bits)
    row_bytes = packed.blocks * packed.block_bytes
    rows = _TILE_BYTES // packed.block_bytes
    with on_device(packed.device):
        launched = _dequantize_kernel[(packed.blocks * -(-N // rows),)](
            packed.planes.view(torch.int8),
            first_table,
            second_table,
            out,
            N,
            K,
            packed.groups,
            packed.group_size or K,
            row_bytes,
            row_bytes * N,
            packed.blocks,
            BITS=weight_bits,
            ROWS=rows,
            BLOCK_BYTES=packed.block_bytes,
            DECODER=decoder,
            GROUPED=packed.groups > 1,
            EVEN_K=8 * row_bytes == K,
            num_warps=_WARPS,
        )
        refuse_scattered(launched)
        if packed.sparse is not None and packed.sparse.longest_row:
            _add_sparse(packed.sparse, out)
    return out


def _add_sparse(sparse: SparsePart, out: Tensor) -> None:
    _add_sparse_kernel[(out.shape[0], -(-sparse.longest_row // _SPARSE_BLOCK))](
        sparse.rows,
        sparse.cols,
        sparse.vals,
        out,
        out.shape[1],
        BLOCK=_SPARSE_BLOCK,
        num_warps=1,
    )
