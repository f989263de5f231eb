"""What the kernels that multiply share: the check of their operands, and the end of a product.

A product ends with bias, addend, SiLU(gate) * up and the store, all on the float32 sums.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.errors import KernelError
from kernels.layout import PackedWeight

DTYPES = (torch.float16, torch.bfloat16)
# A tile of finish_product: 256 bytes of each of eight vectors.
_ROWS, _VECTORS = 128, 8
# Offsets into planes and codebooks are int32.
_MAX_OFFSET = (1 << 31) - 1


@triton.jit
def finish(
    y,
    bias_ptr,
    addend_ptr,
    out_ptr,
    tile,
    m,
    M,
    N,
    ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    SWIGLU: tl.constexpr,
):
    """Bias, addend, SiLU(gate) * up of neighbouring rows, and the store of ``y``.

    Args:
        y: ``[ROWS, len(m)]`` float32, rows ``tile * ROWS`` on.
        bias_ptr: ``[N]``; read where ``HAS_BIAS``.
        addend_ptr: ``[M, N]``; read where ``HAS_ADDEND``.
        out_ptr: ``[M, N]``, or ``[M, N / 2]`` where ``SWIGLU``.
        tile: Which tile of rows.
        m: The activation vectors; those from M on are not stored.
        M: Activation vectors.
        N: Rows of the weight.
        ROWS: Rows of a tile, even.
        HAS_BIAS: Whether there is a bias.
        HAS_ADDEND: Whether there is an addend.
        SWIGLU: Whether the rows are those of gate and up in turn.
    """
    row = tile * ROWS + tl.arange(0, ROWS)
    inside = (row < N)[:, None] & (m < M)[None, :]
    if HAS_BIAS:
        y += tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
    if HAS_ADDEND:
        y += tl.load(addend_ptr + m[None, :] * N + row[:, None], mask=inside, other=0.0).to(tl.float32)
    if SWIGLU:
        pairs = tl.permute(tl.reshape(y, [ROWS // 2, 2, y.shape[1]]), (0, 2, 1))
        gate, up = tl.split(pairs)
        y = gate / (1.0 + tl.exp(-gate)) * up
        row = tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
        N = N // 2
        inside = (row < N)[:, None] & (m < M)[None, :]
    tl.store(out_ptr + m[None, :] * N + row[:, None], y.to(out_ptr.dtype.element_ty), mask=inside)


# A kernel for every M: not another one where M is a multiple of 16.
@triton.jit(do_not_specialize=["M"])
def _finish_kernel(
    product_ptr,
    bias_ptr,
    addend_ptr,
    out_ptr,
    M,
    N,
    ROWS: tl.constexpr,
    VECTORS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    SWIGLU: tl.constexpr,
):
    """End a product ``[M, N]`` that another library computed."""
    tiles = tl.cdiv(N, ROWS)
    tile = tl.program_id(0) % tiles
    row = tile * ROWS + tl.arange(0, ROWS)
    m = (tl.program_id(0) // tiles * VECTORS + tl.arange(0, VECTORS)).to(tl.int64)
    inside = (row < N)[:, None] & (m < M)[None, :]
    y = tl.load(product_ptr + m[None, :] * N + row[:, None], mask=inside, other=0.0).to(tl.float32)
    finish(y, bias_ptr, addend_ptr, out_ptr, tile, m, M, N, ROWS, HAS_BIAS, HAS_ADDEND, SWIGLU)


def finish_product(product: Tensor, bias: Tensor | None, addend: Tensor | None, out: Tensor, *, swiglu: bool) -> None:
    """Add bias and addend to a product, apply SwiGLU, and write the result.

    Args:
        product: ``[M, N]`` float16 or bfloat16, contiguous.
        bias: As :func:`check_product` takes it.
        addend: Likewise.
        out: Likewise; may be ``product`` without ``swiglu``.
        swiglu: Whether columns are those of gate and up in turn.
    """
    M, N = product.shape
    _finish_kernel[(-(-N // _ROWS) * -(-M // _VECTORS),)](
        product,
        # Pointers that are not read get some tensor.
        product if bias is None else bias,
        product if addend is None else addend,
        out,
        M,
        N,
        ROWS=_ROWS,
        VECTORS=_VECTORS,
        HAS_BIAS=bias is not None,
        HAS_ADDEND=addend is not None,
        SWIGLU=swiglu,
        num_warps=4,
    )


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a tensor's GPU the current one, on which triton launches; nothing to do for a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def check_product(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None,
    addend: Tensor | None,
    out: Tensor | None,
    *,
    swiglu: bool,
) -> Tensor:
    """Refuse operands that do not fit each other.

    Args:
        x: Activations ``[M, K]``.
        packed: The weight, ``[N, K]``.
        bias: ``[N]`` or None.
        addend: ``[M, N]`` or None.
        out: ``[M, N]``, or ``[M, N / 2]`` with ``swiglu``, or None.
        swiglu: Whether the weight's rows are those of gate and up in turn.

    Returns:
        ``out``, allocated where it is None.

    Raises:
        KernelError: If a dtype, shape, stride or device does not fit.
    """
    N = packed.out_features
    if x.dim() != 2 or x.shape[1] != packed.in_features or not len(x):
        raise KernelError(f"x has shape {tuple(x.shape)}: must be [M, {packed.in_features}] with M >= 1")
    if x.dtype not in DTYPES:
        raise KernelError(f"x is {x.dtype}: must be torch.float16 or torch.bfloat16")
    if not x.is_contiguous():
        raise KernelError(f"x has strides {x.stride()}: must be contiguous")
    if x.device != packed.device:
        raise KernelError(f"x is on {x.device}, the weight on {packed.device}: must be the same device")
    if swiglu and N % 2:
        raise KernelError(f"N = {N}: must be even, rows of gate and up by turns")
    M = len(x)
    if bias is not None:
        _check_operand("bias", bias, (N,), x.device)
    if addend is not None:
        if addend.dtype not in (x.dtype, torch.float32):
            raise KernelError(f"addend is {addend.dtype}: must be {x.dtype} or torch.float32")
        _check_operand("addend", addend, (M, N), x.device)
    shape = (M, N // 2 if swiglu else N)
    if out is None:
        return torch.empty(shape, dtype=x.dtype, device=x.device)
    if out.dtype != x.dtype:
        raise KernelError(f"out is {out.dtype}: must be {x.dtype}")
    _check_operand("out", out, shape, x.device)
    return out


def check_offsets(packed: PackedWeight, weight_bits: int) -> None:
    """Refuse a weight of more bytes or entries than the kernels can count.

    Raises:
        KernelError: If it is.
    """
    largest = max(packed.planes.nbytes, packed.luts[weight_bits].numel())
    if largest > _MAX_OFFSET:
        raise KernelError(f"the weight needs offsets up to {largest}: must be at most {_MAX_OFFSET}; split its rows")


def _check_operand(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    if tuple(tensor.shape) != shape or tensor.device != device or not tensor.is_contiguous():
        raise KernelError(
            f"{name} has shape {tuple(tensor.shape)}, strides {tensor.stride()} on {tensor.device}: "
            f"must be {shape} on {device}, contiguous"
        )
