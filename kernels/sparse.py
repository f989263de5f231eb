"""Product of activations with a weight's sparse part: outliers in compressed sparse rows, added to the dense product.

A program takes a few rows and walks them side by side, as many values at a time as the fullest row calls for, up to
``_MOST_VALUES``; it stops after the fullest of its own rows. Sums are taken in float32 in an order that depends on
nothing but the shapes, so equal inputs give equal bits. Importing this module needs triton.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.errors import KernelError
from kernels.layout import SparsePart

_DTYPES = (torch.float16, torch.bfloat16)
_ADDEND_DTYPES = (*_DTYPES, torch.float32)
# Activation vectors of a program.
_BATCH = 8
# Values that the rows of a program read at once, two for each of its threads; of one row, at least and at most.
_TILE_VALUES = 256
_FEWEST_VALUES, _MOST_VALUES = 16, 256
_WARPS = 4


@triton.jit
def _sparse_kernel(
    x_ptr,
    rows_ptr,
    cols_ptr,
    vals_ptr,
    addend_ptr,
    out_ptr,
    M,
    N,
    K,
    ROWS: tl.constexpr,
    VALUES: tl.constexpr,
    BATCH: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
):
    """``out[m, n] = addend[m, n] + sum of vals x[m, cols]`` over row n, for some rows and ``BATCH`` vectors."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m = tl.program_id(1) * BATCH + tl.arange(0, BATCH)
    start = tl.load(rows_ptr + row, mask=row < N, other=0)
    end = tl.load(rows_ptr + row + 1, mask=row < N, other=0)
    longest = tl.max(end - start, axis=0)
    accumulator = tl.full([ROWS, BATCH], 0.0, tl.float32)
    # Large batches of long vectors pass 2**31 elements.
    x_row = x_ptr + m.to(tl.int64) * K
    first = longest * 0
    while first < longest:
        place = start[:, None] + first + tl.arange(0, VALUES)[None, :]
        inside = place < end[:, None]
        column = tl.load(cols_ptr + place, mask=inside, other=0)
        value = tl.load(vals_ptr + place, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(
            x_row[None, None, :] + column[:, :, None],
            mask=inside[:, :, None] & (m < M)[None, None, :],
            other=0.0,
        )
        accumulator += tl.sum(value[:, :, None] * x.to(tl.float32), axis=1)
        first += VALUES
    target = m.to(tl.int64)[None, :] * N + row[:, None]
    stored = (row < N)[:, None] & (m < M)[None, :]
    if HAS_ADDEND:
        accumulator += tl.load(addend_ptr + target, mask=stored, other=0.0).to(tl.float32)
    tl.store(out_ptr + target, accumulator, mask=stored)


def sparse_product(x: Tensor, sparse: SparsePart, addend: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """``x S^T + addend``, S being a sparse part ``[N, K]``.

    Args:
        x: Activations ``[M, K]`` float16 or bfloat16, contiguous.
        sparse: Values in compressed sparse rows; values of one column add.
        addend: ``[M, N]`` float16, bfloat16 or float32, contiguous, or None.
        out: Where to write, ``[M, N]`` float32, contiguous; allocated by default. May be ``addend``.

    Returns:
        ``[M, N]`` float32. A column without a value in a row is not read for it: NaN there changes nothing.

    Raises:
        KernelError: If a dtype, shape, stride or device does not fit.
    """
    N, K = len(sparse.rows) - 1, sparse.in_features
    _check(x, sparse, addend)
    M = x.shape[0]
    if out is None:
        out = torch.empty((M, N), dtype=torch.float32, device=x.device)
    elif tuple(out.shape) != (M, N) or out.dtype != torch.float32 or not out.is_contiguous() or out.device != x.device:
        raise KernelError(
            f"out {out.dtype} {tuple(out.shape)} on {out.device}: must be torch.float32 {(M, N)} on {x.device}, "
            "contiguous"
        )
    if not sparse.longest_row:
        return out.zero_() if addend is None else out.copy_(addend)
    values = min(max(triton.next_power_of_2(sparse.longest_row), _FEWEST_VALUES), _MOST_VALUES)
    rows = _TILE_VALUES // values
    batch = min(triton.next_power_of_2(M), _BATCH)
    _sparse_kernel[(-(-N // rows), -(-M // batch))](
        x,
        sparse.rows,
        sparse.cols,
        sparse.vals,
        # A pointer that is not read gets some tensor.
        sparse.vals if addend is None else addend,
        out,
        M,
        N,
        K,
        ROWS=rows,
        VALUES=values,
        BATCH=batch,
        HAS_ADDEND=addend is not None,
        num_warps=_WARPS,
    )
    return out


def _check(x: Tensor, sparse: SparsePart, addend: Tensor | None) -> None:
    N, K = len(sparse.rows) - 1, sparse.in_features
    if x.dtype not in _DTYPES:
        raise KernelError(f"x is {x.dtype}: must be torch.float16 or torch.bfloat16")
    if x.dim() != 2 or x.shape[0] < 1 or x.shape[1] != K:
        raise KernelError(f"x has shape {tuple(x.shape)}: must be [M, {K}] with M >= 1")
    if not x.is_contiguous():
        raise KernelError(f"x has strides {x.stride()}: must be contiguous")
    if x.device != sparse.vals.device:
        raise KernelError(f"x is on {x.device}, the sparse part on {sparse.vals.device}: must be the same device")
    if addend is None:
        return
    shape = (x.shape[0], N)
    if tuple(addend.shape) != shape or addend.dtype not in _ADDEND_DTYPES or not addend.is_contiguous():
        raise KernelError(
            f"addend {addend.dtype} {tuple(addend.shape)}: must be float16, bfloat16 or float32 {shape}, contiguous"
        )
    if addend.device != x.device:
        raise KernelError(f"addend is on {addend.device}, x on {x.device}: must be the same device")
