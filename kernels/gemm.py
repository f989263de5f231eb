"""Fused decode and matrix product in Triton, for more activation vectors than the GEMV takes.

A program takes a tile of output rows and of activation vectors and a run of K blocks: every decoded slab meets all
vectors of the tile, on the tensor cores, accumulated in fp32. Each tile of vectors decodes the weight anew, so the
kernel wins over dequantising once only where tiles are few; :mod:`kernels.dispatch` chooses. Where K is split over
programs, the last one to arrive adds the partial sums in rising order of the split, as in :mod:`kernels.gemv`.

bfloat16 activations meet weights rounded to bfloat16, as they do after :func:`kernels.dequant.dequantize`, so that
the choice between the two changes nothing but the order of a sum.

Importing this module needs triton; :mod:`kernels.dispatch` does so lazily.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.config import GemmConfig, default_gemm_config
from kernels.dequant import dequantize
from kernels.epilogue import check_offsets, check_product, finish, on_device
from kernels.inline_layout import refuse_scattered
from kernels.layout import PackedWeight
from kernels.tiles import INTERPRETED, decode_block, index_slabs, load_decoder, look_up
from kernels.workspace import workspace

__all__ = ["dequantize", "gemm", "gemm_swiglu"]


# Decoding grids, the compiler aims at 72 registers and spills; six programs fit a multiprocessor with these.
_GRID_REGISTERS = 168


@triton.jit
def _multiply(accumulator, weight, x_ptr, m, column, K, EVEN_K: tl.constexpr):
    """Add the product of ``weight`` ``[ROWS, BLOCK_BYTES]`` and its columns of the activations."""
    x_ptr = x_ptr + m[None, :] * K + column[:, None]
    x = tl.load(x_ptr) if EVEN_K else tl.load(x_ptr, mask=(column < K)[:, None], other=0.0)
    if x_ptr.dtype.element_ty == tl.bfloat16:
        weight = weight.to(tl.bfloat16)
        if INTERPRETED:
            # The interpreter's tl.dot gives garbage for bfloat16.
            weight = weight.to(tl.float32)
            x = x.to(tl.float32)
    return tl.dot(weight, x, acc=accumulator)


@triton.jit
def _multiply_block(
    accumulator,
    block,
    x_ptr,
    planes_ptr,
    first_ptr,
    second_ptr,
    tables,
    row,
    m,
    K,
    groups,
    group_size,
    row_bytes,
    plane_bytes,
    BITS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    DECODER: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """Add one block's product to ``accumulator`` ``[ROWS, COLUMNS]``."""
    row_ptr = planes_ptr + row[:, None] * row_bytes + block * BLOCK_BYTES
    column = 8 * block * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    if DECODER == "lookup":
        # Slab by slab: the look-ups of a whole block at once do not fit the registers.
        indices = index_slabs(row_ptr, plane_bytes, BITS, BLOCK_BYTES)
        for slab in tl.static_range(8):
            slab_column = column + slab * BLOCK_BYTES
            weight = look_up(first_ptr, indices[slab], row, slab_column, groups, group_size, BITS, GROUPED)
            accumulator = _multiply(accumulator, weight, x_ptr, m, slab_column, K, EVEN_K)
    else:
        slabs = decode_block(
            row_ptr,
            plane_bytes,
            tables,
            first_ptr,
            second_ptr,
            row,
            block,
            groups,
            group_size,
            DECODER,
            BITS,
            BLOCK_BYTES,
            GROUPED,
        )
        for slab in tl.static_range(8):
            accumulator = _multiply(accumulator, slabs[slab], x_ptr, m, column + slab * BLOCK_BYTES, K, EVEN_K)
    return accumulator


# A kernel for every M: not another one where M is a multiple of 16.
@triton.jit(do_not_specialize=["M"])
def _gemm_kernel(
    x_ptr,
    planes_ptr,
    first_ptr,
    second_ptr,
    bias_ptr,
    addend_ptr,
    out_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    K,
    groups,
    group_size,
    row_bytes,
    plane_bytes,
    blocks,
    BITS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
    DECODER: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    SWIGLU: tl.constexpr,
):
    """The product of a tile over one run of K blocks; the last of the tile's ``SPLITS`` programs writes the result."""
    # Vectors first: programs that decode the same weights run side by side and share them in the L2 cache.
    column_tiles = tl.cdiv(M, COLUMNS)
    tile = tl.program_id(0) // column_tiles
    split = tl.program_id(1)
    first_block = split * blocks // SPLITS
    last_block = (split + 1) * blocks // SPLITS
    # Rows past the end read the last row again, vectors past M the last vector; neither is stored.
    row = tl.minimum(tile * ROWS + tl.arange(0, ROWS), N - 1)
    # 64 bits wide: activations and results may have more than 2**31 elements.
    m = (tl.program_id(0) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    source = tl.minimum(m, M - 1)
    accumulator = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    tables = row
    if DECODER != "lookup" and not GROUPED:
        tables = load_decoder(first_ptr, second_ptr, row, DECODER, BITS)
    # The interpreter knows no range of tensors, and the compiler pipelines no while loop.
    if INTERPRETED:
        block = first_block
        while block < last_block:
            accumulator = _multiply_block(
                accumulator,
                block,
                x_ptr,
                planes_ptr,
                first_ptr,
                second_ptr,
                tables,
                row,
                source,
                K,
                groups,
                group_size,
                row_bytes,
                plane_bytes,
                BITS,
                BLOCK_BYTES,
                DECODER,
                GROUPED,
                EVEN_K,
            )
            block += 1
    else:
        for block in range(first_block, last_block):
            accumulator = _multiply_block(
                accumulator,
                block,
                x_ptr,
                planes_ptr,
                first_ptr,
                second_ptr,
                tables,
                row,
                source,
                K,
                groups,
                group_size,
                row_bytes,
                plane_bytes,
                BITS,
                BLOCK_BYTES,
                DECODER,
                GROUPED,
                EVEN_K,
            )
    if SPLITS == 1:
        finish(accumulator, bias_ptr, addend_ptr, out_ptr, tile, m, M, N, ROWS, HAS_BIAS, HAS_ADDEND, SWIGLU)
    else:
        place = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        part = partial_ptr + tl.program_id(0).to(tl.int64) * (SPLITS * ROWS * COLUMNS) + place
        tl.store(part + split * (ROWS * COLUMNS), accumulator)
        # Every thread's stores come before the barrier, the barrier before thread 0's release, and the acquire of the
        # last program to arrive after all of them.
        tl.debug_barrier()
        arrived = tl.atomic_add(counter_ptr + tl.program_id(0), 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            y = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            for other in range(SPLITS):
                # From L2, where the other programs' sums are, past a first-level cache that may hold older ones.
                y += tl.load(part + other * (ROWS * COLUMNS), cache_modifier=".cg")
            finish(y, bias_ptr, addend_ptr, out_ptr, tile, m, M, N, ROWS, HAS_BIAS, HAS_ADDEND, SWIGLU)
            tl.store(counter_ptr + tl.program_id(0), 0)


def gemm(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None = None,
    *,
    addend: Tensor | None = None,
    out: Tensor | None = None,
    config: GemmConfig | None = None,
) -> Tensor:
    """Multiply activations by any-precision weights, decoding them on the way.

    Args:
        x: Activations ``[M, K]`` float16 or bfloat16, contiguous, any M >= 1; made for 9 and more.
        packed: The weight; only its top ``weight_bits`` planes are read. A sparse part is the caller's to add.
        weight_bits: The width, one with a stored codebook.
        bias: ``[N]`` or None.
        addend: ``[M, N]`` in x's dtype or float32, contiguous, added to the product, or None.
        out: Where to write, ``[M, N]`` in x's dtype, contiguous; allocated by default. May be ``addend``.
        config: How the work is cut; :func:`kernels.config.default_gemm_config` by default.

    Returns:
        ``[M, N]`` in x's dtype, accumulated in float32; equal inputs give equal bits.

    Raises:
        KernelError: If the width is not stored, or a dtype, shape, stride or device does not fit.
    """
    return _launch(x, packed, weight_bits, bias, addend, out, config, swiglu=False)


def gemm_swiglu(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None = None,
    *,
    addend: Tensor | None = None,
    out: Tensor | None = None,
    config: GemmConfig | None = None,
) -> Tensor:
    """``SiLU(gate) * up`` of two any-precision products, where the weight's rows are gate 0, up 0, gate 1, up 1, ...

    Args:
        x: As in :func:`gemm`.
        packed: The weight, as :func:`kernels.combine.interleave` makes it.
        weight_bits: As in :func:`gemm`.
        bias: ``[N]`` in the order of the rows, added before the activation, or None.
        addend: ``[M, N]`` in the order of the rows, added before the activation, or None.
        out: Where to write, ``[M, N / 2]`` in x's dtype, contiguous; allocated by default.
        config: As in :func:`gemm`.

    Returns:
        ``[M, N / 2]`` in x's dtype; product, activation and their product are computed in float32.

    Raises:
        KernelError: As :func:`gemm`, and if N is odd.
    """
    return _launch(x, packed, weight_bits, bias, addend, out, config, swiglu=True)


def _launch(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None,
    addend: Tensor | None,
    out: Tensor | None,
    config: GemmConfig | None,
    *,
    swiglu: bool,
) -> Tensor:
    decoder = packed.decoder(weight_bits)
    out = check_product(x, packed, bias, addend, out, swiglu=swiglu)
    check_offsets(packed, weight_bits)
    M, K = x.shape
    N = packed.out_features
    config = config or default_gemm_config(N, K, M, weight_bits, packed.block_bytes)
    tiles = -(-N // config.rows) * -(-M // config.columns)
    splits = min(config.splits, packed.blocks)
    partials, counters = out, out
    if splits > 1:
        partials, counters = workspace(x.device, tiles * splits * config.rows * config.columns, tiles)
    first_table, second_table = packed.tables(weight_bits)
    row_bytes = packed.blocks * packed.block_bytes
    with on_device(x.device):
        launched = _gemm_kernel[(tiles, splits)](
            x,
            packed.planes.view(torch.int8),
            first_table,
            second_table,
            # Pointers that are not read get some tensor.
            x if bias is None else bias,
            x if addend is None else addend,
            out,
            partials,
            counters,
            M,
            N,
            K,
            packed.groups,
            packed.group_size or K,
            row_bytes,
            row_bytes * N,
            packed.blocks,
            BITS=weight_bits,
            BLOCK_BYTES=packed.block_bytes,
            ROWS=config.rows,
            COLUMNS=config.columns,
            SPLITS=splits,
            DECODER=decoder,
            GROUPED=packed.groups > 1,
            EVEN_K=8 * row_bytes == K,
            HAS_BIAS=bias is not None,
            HAS_ADDEND=addend is not None,
            SWIGLU=swiglu,
            num_warps=config.warps,
            num_stages=config.stages,
            maxnreg=_GRID_REGISTERS if decoder == "grid" else None,
        )
    refuse_scattered(launched)
    return out
