"""Any-precision GEMV in Triton: ``y[m] = W_b x[m] + bias`` for up to eight activation vectors at once.

A program takes some output rows and a run of K blocks, decodes each block's eight slabs into fp16
(:mod:`kernels.tiles`) and feeds them to the tensor cores, accumulating in fp32. Where K is split over programs, each
leaves its partial sums in a workspace, and the last program of a row tile to arrive adds them in rising order of the
split, whoever was last: equal inputs always give equal bits, in one launch.

Activations are float16 or bfloat16. A bfloat16 vector is scaled by a power of two and multiplied as float16
(:func:`_scales`). Importing this module needs triton; :mod:`kernels.dispatch` does so lazily.

Instructions a weight in the hot loop, as compiled for sm_90 by Triton 3.6.0 (one vector, one codebook per row, blocks
of 64 bytes; pipes as in :mod:`kernels.aot`), beside what an H100 can issue at 3.0 TB/s:

==== ================ ============== ================= ==============
bits ALU, float16     ALU, bfloat16  issued, float16   at 3.0 TB/s: ALU, issued
==== ================ ============== ================= ==============
2    1.46             1.59           2.14              1.24, 2.47
3    1.57             1.72           2.33              1.85, 3.71
4    2.89             3.02           3.70              2.47, 4.94
==== ================ ============== ================= ==============

So the look-ups of exact float16 codebooks leave 85, 100 and 85% of the bandwidth at 2, 3 and 4 bits. Codebooks rounded
to 15 bits, whose digits integer tensor cores could multiply, would save the ALU a third at 2 bits and little at 4; as
the exact ones do not stand in the way of what memory can be expected to give, there is no such variant.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.config import GEMV_MAX_M, GemvConfig, default_gemv_config
from kernels.epilogue import check_offsets, check_product, finish, on_device
from kernels.errors import KernelError
from kernels.inline_layout import refuse_scattered
from kernels.layout import PackedWeight
from kernels.tiles import INTERPRETED, decode_block, index_slabs, load_decoder, look_up
from kernels.workspace import workspace

# Columns of the smallest tensor-core instruction: m16n8k16.
_BATCH = 8
# With the smallest blocks the compiler aims at 48 registers and spills; more than twice as many cost no program its
# place on a multiprocessor.
_SMALL_BLOCK_BYTES, _SMALL_BLOCK_REGISTERS = 16, 128
# With look-ups of more than four bits it aims at 128 or 168 and spills; 224 keep eight warps on a multiprocessor.
_WIDE_LOOKUP_BITS, _WIDE_LOOKUP_REGISTERS = 5, 224


@triton.jit
def _activations(x_ptr, scale, column, m, K, EVEN_K: tl.constexpr, SCALED: tl.constexpr):
    """Activations ``[columns, BATCH]`` float16, zero past K, times ``scale`` ``[BATCH]`` where ``SCALED``."""
    x_ptr = x_ptr + m[None, :] * K + column[:, None]
    x = tl.load(x_ptr) if EVEN_K else tl.load(x_ptr, mask=(column < K)[:, None], other=0.0)
    if SCALED:
        x = (x.to(tl.float32) * scale[None, :]).to(tl.float16)
    return x


@triton.jit
def _peak(peak, x_ptr, block, m, K, BLOCK_BYTES: tl.constexpr, EVEN_K: tl.constexpr):
    """The largest bit pattern of ``|x|`` as float32, so far and in one block, ``[BLOCK_BYTES, BATCH]`` int32."""
    for slab in tl.static_range(8):
        column = (8 * block + slab) * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
        x = _activations(x_ptr, 1.0, column, m, K, EVEN_K, False)
        # Magnitudes order as their bits do, infinity above all numbers and NaN above infinity.
        peak = tl.maximum(peak, x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    return peak


@triton.jit
def _scales(x_ptr, first, last, m, K, BLOCK_BYTES: tl.constexpr, BATCH: tl.constexpr, EVEN_K: tl.constexpr):
    """Powers of two that bring each vector's largest magnitude in some blocks to 2**14..2**15, and their inverses.

    Multiplied by it, bfloat16 fits float16: nothing overflows, and a value loses bits only where it is below 2**-31
    of the largest, by at most 2**-39 of it, while float32 sums lose 2**-24 of theirs. Infinity and NaN stay what they
    are. Where the largest is below 2**-112 the scale stops at 2**126, and values still are normal in float16.
    """
    peak = tl.full([BLOCK_BYTES, BATCH], 0, tl.int32)
    if INTERPRETED:
        block = first
        while block < last:
            peak = _peak(peak, x_ptr, block, m, K, BLOCK_BYTES, EVEN_K)
            block += 1
    else:
        for block in range(first, last):
            peak = _peak(peak, x_ptr, block, m, K, BLOCK_BYTES, EVEN_K)
    exponent = tl.minimum(127 + 14 + 127 - (tl.max(peak, axis=0) >> 23), 253)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    return scale, inverse


@triton.jit
def _multiply_block(
    accumulator,
    block,
    x_ptr,
    scale,
    planes_ptr,
    first_ptr,
    second_ptr,
    tables,
    row,
    m,
    K,
    groups,
    row_bytes,
    plane_bytes,
    BITS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    DECODER: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN_K: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Add one block's product to ``accumulator`` ``[ROWS, BATCH]``."""
    row_ptr = planes_ptr + row[:, None] * row_bytes + block * BLOCK_BYTES
    column = 8 * block * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    if DECODER == "lookup":
        # Slab by slab: the look-ups of a whole block at once do not fit the registers.
        indices = index_slabs(row_ptr, plane_bytes, BITS, BLOCK_BYTES)
        for slab in tl.static_range(8):
            slab_column = column + slab * BLOCK_BYTES
            if row.shape[0] == 16:
                # A single warp has no barrier of its own to keep the slabs apart.
                tl.debug_barrier()
            weight = look_up(first_ptr, indices[slab], row, slab_column, groups, GROUP_SIZE, BITS, GROUPED)
            x = _activations(x_ptr, scale, slab_column, m, K, EVEN_K, SCALED)
            accumulator = tl.dot(weight, x, acc=accumulator)
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
            GROUP_SIZE,
            DECODER,
            BITS,
            BLOCK_BYTES,
            GROUPED,
        )
        for slab in tl.static_range(8):
            x = _activations(x_ptr, scale, column + slab * BLOCK_BYTES, m, K, EVEN_K, SCALED)
            accumulator = tl.dot(slabs[slab], x, acc=accumulator)
    return accumulator


@triton.jit
def _gemv_kernel(
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
    row_bytes,
    plane_bytes,
    blocks,
    BITS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    BATCH: tl.constexpr,
    DECODER: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN_K: tl.constexpr,
    SCALED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    SWIGLU: tl.constexpr,
):
    """Multiply ``ROWS`` rows over one run of K blocks; the last of their ``SPLITS`` programs writes the result."""
    tile = tl.program_id(0)
    split = tl.program_id(1)
    first = split * blocks // SPLITS
    last = (split + 1) * blocks // SPLITS
    # Rows past the end read the last row again, columns past M the last vector; neither is stored.
    row = tl.minimum(tile * ROWS + tl.arange(0, ROWS), N - 1)
    m = tl.arange(0, BATCH)
    source = tl.minimum(m, M - 1)
    accumulator = tl.full([ROWS, BATCH], 0.0, tl.float32)
    scale = 1.0
    if SCALED:
        scale, inverse = _scales(x_ptr, first, last, source, K, BLOCK_BYTES, BATCH, EVEN_K)
    tables = row
    if DECODER != "lookup" and not GROUPED:
        tables = load_decoder(first_ptr, second_ptr, row, DECODER, BITS)
    # The interpreter knows no range of tensors, and the compiler pipelines no while loop.
    if INTERPRETED:
        block = first
        while block < last:
            accumulator = _multiply_block(
                accumulator,
                block,
                x_ptr,
                scale,
                planes_ptr,
                first_ptr,
                second_ptr,
                tables,
                row,
                source,
                K,
                groups,
                row_bytes,
                plane_bytes,
                BITS,
                BLOCK_BYTES,
                GROUP_SIZE,
                DECODER,
                GROUPED,
                EVEN_K,
                SCALED,
            )
            block += 1
    else:
        for block in range(first, last):
            accumulator = _multiply_block(
                accumulator,
                block,
                x_ptr,
                scale,
                planes_ptr,
                first_ptr,
                second_ptr,
                tables,
                row,
                source,
                K,
                groups,
                row_bytes,
                plane_bytes,
                BITS,
                BLOCK_BYTES,
                GROUP_SIZE,
                DECODER,
                GROUPED,
                EVEN_K,
                SCALED,
            )
    if SCALED:
        accumulator *= inverse[None, :]
    if SPLITS == 1:
        finish(accumulator, bias_ptr, addend_ptr, out_ptr, tile, m, M, N, ROWS, HAS_BIAS, HAS_ADDEND, SWIGLU)
    else:
        # Rows side by side: one vector's sums fill whole sectors of memory.
        part = tile * (SPLITS * ROWS * BATCH) + m[None, :] * ROWS + tl.arange(0, ROWS)[:, None]
        stored = (m < M)[None, :]
        tl.store(partial_ptr + part + split * (ROWS * BATCH), accumulator, mask=stored)
        # Every thread's stores come before the barrier, the barrier before thread 0's release, and the acquire of the
        # last program to arrive after all of them.
        tl.debug_barrier()
        arrived = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            y = tl.full([ROWS, BATCH], 0.0, tl.float32)
            for other in range(SPLITS):
                # From L2, where the other programs' sums are, past a first-level cache that may hold older ones.
                y += tl.load(partial_ptr + part + other * (ROWS * BATCH), mask=stored, other=0.0, cache_modifier=".cg")
            finish(y, bias_ptr, addend_ptr, out_ptr, tile, m, M, N, ROWS, HAS_BIAS, HAS_ADDEND, SWIGLU)
            tl.store(counter_ptr + tile, 0)


def gemv(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None = None,
    *,
    addend: Tensor | None = None,
    out: Tensor | None = None,
    config: GemvConfig | None = None,
) -> Tensor:
    """Multiply activations by any-precision weights.

    Args:
        x: Activations ``[M, K]`` float16 or bfloat16, contiguous, M <= 8.
        packed: The weight; only its top ``weight_bits`` planes are read. A sparse part is the caller's to add.
        weight_bits: The width, one with a stored codebook.
        bias: ``[N]`` or None.
        addend: ``[M, N]`` in x's dtype or float32, contiguous, added to the product (a residual, or a sparse part's
            product), or None.
        out: Where to write, ``[M, N]`` in x's dtype, contiguous; allocated by default. May be ``addend``.
        config: How the work is cut; :func:`kernels.config.default_gemv_config` by default.

    Returns:
        ``[M, N]`` in x's dtype, accumulated in float32. Infinite or NaN activations give results that are not finite,
        and so do results beyond the range of the dtype.

    Raises:
        KernelError: If the width is not stored, M is too large, or a dtype, shape, stride or device does not fit.
    """
    return _launch(x, packed, weight_bits, bias, addend, out, config, swiglu=False)


def gemv_swiglu(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None = None,
    *,
    addend: Tensor | None = None,
    out: Tensor | None = None,
    config: GemvConfig | None = None,
) -> Tensor:
    """``SiLU(gate) * up`` of two any-precision products, where the weight's rows are gate 0, up 0, gate 1, up 1, ...

    Args:
        x: As in :func:`gemv`.
        packed: The weight, as :func:`kernels.combine.interleave` makes it.
        weight_bits: As in :func:`gemv`.
        bias: ``[N]`` in the order of the rows, added before the activation, or None.
        addend: ``[M, N]`` in the order of the rows, added before the activation, or None.
        out: Where to write, ``[M, N / 2]`` in x's dtype, contiguous; allocated by default.
        config: As in :func:`gemv`.

    Returns:
        ``[M, N / 2]`` in x's dtype; product, activation and their product are computed in float32.

    Raises:
        KernelError: As :func:`gemv`, and if N is odd.
    """
    return _launch(x, packed, weight_bits, bias, addend, out, config, swiglu=True)


def _max_registers(decoder: str, weight_bits: int, block_bytes: int) -> int | None:
    """Registers of a thread where the compiler's own choice spills; None for its choice."""
    if decoder == "lookup" and weight_bits >= _WIDE_LOOKUP_BITS:
        return _WIDE_LOOKUP_REGISTERS
    return _SMALL_BLOCK_REGISTERS if block_bytes == _SMALL_BLOCK_BYTES else None


def _launch(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None,
    addend: Tensor | None,
    out: Tensor | None,
    config: GemvConfig | None,
    *,
    swiglu: bool,
) -> Tensor:
    packed.decoder(weight_bits)
    out = check_product(x, packed, bias, addend, out, swiglu=swiglu)
    M, N, K = len(x), packed.out_features, packed.in_features
    if M > GEMV_MAX_M:
        raise KernelError(f"M = {M}: must be 1..{GEMV_MAX_M}; use kernels.linear for more")
    check_offsets(packed, weight_bits)
    decoder = packed.decoder(weight_bits)
    config = config or default_gemv_config(N, K, M, weight_bits, packed.block_bytes, decoder)
    tiles = -(-N // config.rows)
    splits = min(config.splits, packed.blocks)
    partials, counters = out, out  # Not read.
    if splits > 1:
        partials, counters = workspace(x.device, tiles * splits * config.rows * _BATCH, tiles)
    first_table, second_table = packed.tables(weight_bits)
    row_bytes = packed.blocks * packed.block_bytes
    with on_device(x.device):
        launched = _gemv_kernel[(tiles, splits)](
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
            row_bytes,
            row_bytes * N,
            packed.blocks,
            BITS=weight_bits,
            BLOCK_BYTES=packed.block_bytes,
            GROUP_SIZE=packed.group_size if packed.groups > 1 else None,
            ROWS=config.rows,
            SPLITS=splits,
            BATCH=_BATCH,
            DECODER=decoder,
            GROUPED=packed.groups > 1,
            EVEN_K=packed.blocks * 8 * packed.block_bytes == K,
            SCALED=x.dtype == torch.bfloat16,
            HAS_BIAS=bias is not None,
            HAS_ADDEND=addend is not None,
            SWIGLU=swiglu,
            num_warps=config.warps,
            num_stages=config.stages,
            maxnreg=_max_registers(decoder, weight_bits, packed.block_bytes),
        )
    refuse_scattered(launched)
    return out
