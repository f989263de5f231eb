"""Which kernel takes which input; without a usable GPU or without triton the caller's torch path remains."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from kernels.config import GemmConfig, GemvConfig, fitting
from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kernels.layout import PackedWeight

# The tensor-core instructions and asynchronous copies the kernels compile to.
MIN_CAPABILITY = (8, 0)


def obstacle(x: Tensor) -> str | None:
    """Why the kernels cannot take activations ``x`` (``[..., K]``), in words; None if they can."""
    import torch

    if x.numel() == 0:
        return "0 activation vectors; the kernels take at least 1"
    if x.dtype not in (torch.float16, torch.bfloat16):
        return f"activations are {x.dtype}; the kernels take torch.float16 and torch.bfloat16"
    if x.requires_grad:
        return "the kernels have no backward pass"
    return device_obstacle(x.device)


@cache
def device_obstacle(device: torch.device) -> str | None:
    """Why no kernel can run on a device, in words; None if one can."""
    import torch

    if device.type != "cuda":
        return f"device is {device.type}; the kernels need an NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"GPU has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0 (sm_80) or newer"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    return None


def linear(
    x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None = None, *, addend: Tensor | None = None
) -> Tensor:
    """``y = x W_b^T + bias + addend`` by whichever kernel was measured to be fastest here.

    Up to eight vectors by the GEMV, more by the fused GEMM or by dequantising the weight for cuBLAS, as
    :func:`kernels.tuning.choose` says. The dequantised weight, ``2 N K`` bytes, lives as long as the call; torch's
    allocator hands the same memory to the next call on the stream, so that of all layers the largest counts once,
    and inside a CUDA graph it comes out of the graph's pool. Before a graph is captured the same call must have run
    once on the stream of the capture (:mod:`kernels.workspace`).

    bfloat16 activations of more than eight vectors meet weights rounded to bfloat16. The order of sums, and so the
    last bits of a result, may differ between devices and numbers of vectors.

    Args:
        x: Activations ``[..., K]`` float16 or bfloat16.
        packed: The weight; its sparse part, if any, is included.
        weight_bits: Bit-planes read; the rest stay in DRAM.
        bias: ``[N]`` or None.
        addend: ``[..., N]`` of the dtype of ``x`` or float32 (a residual), or None.

    Returns:
        ``[..., N]`` in the dtype of ``x``. There is no backward pass.

    Raises:
        KernelError: If the width is not stored, a dtype, shape or device does not fit, there is no vector, or no
            kernel runs on the device (:func:`device_obstacle`).
    """
    return _product(x, packed, weight_bits, bias, addend, swiglu=False)


def swiglu_linear(
    x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None = None, *, addend: Tensor | None = None
) -> Tensor:
    """``SiLU(gate) * up`` of a weight whose rows are those of gate and up in turn (:func:`kernels.combine.interleave`).

    Args:
        x: Activations ``[..., K]`` float16 or bfloat16.
        packed: The weight, ``[N, K]`` with N even; its sparse part, if any, is included.
        weight_bits: Bit-planes read; the rest stay in DRAM.
        bias: ``[N]`` or None, added before the activation.
        addend: ``[..., N]`` of the dtype of ``x`` or float32, or None; added before the activation.

    Returns:
        ``[..., N / 2]`` in the dtype of ``x``. There is no backward pass.

    Raises:
        KernelError: As :func:`linear`; or if N is odd.
    """
    return _product(x, packed, weight_bits, bias, addend, swiglu=True)


def _product(
    x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None, addend: Tensor | None, *, swiglu: bool
) -> Tensor:
    _check_device(x.device)
    from kernels.epilogue import check_product, on_device
    from kernels.gemm import gemm, gemm_swiglu
    from kernels.gemv import gemv, gemv_swiglu
    from kernels.sparse import sparse_product
    from kernels.tuning import choose

    N, K = packed.out_features, packed.in_features
    decoder = packed.decoder(weight_bits)
    if x.dim() < 1 or x.shape[-1] != K or not x.numel():
        raise KernelError(f"x has shape {tuple(x.shape)}: must be [..., {K}] with at least one vector")
    vectors = x.reshape(-1, K).contiguous()
    if addend is not None:
        if addend.shape != (*x.shape[:-1], N):
            raise KernelError(f"addend has shape {tuple(addend.shape)}: must be {(*x.shape[:-1], N)}")
        addend = addend.reshape(-1, N).contiguous()
    out = check_product(vectors, packed, bias, addend, None, swiglu=swiglu)
    choice = choose(x.device, "swiglu" if swiglu else "linear", N, K, weight_bits, decoder, len(vectors))
    # What was measured for another shape must not ask for more memory here.
    config = None if choice.config is None else fitting(choice.config, weight_bits, packed.block_bytes, decoder)
    with on_device(x.device):
        if choice.path == "dequantize":
            dequantized_product(vectors, packed, weight_bits, bias, addend, out, swiglu=swiglu)
        else:
            if packed.sparse is not None:
                addend = sparse_product(vectors, packed.sparse, addend)
            if choice.path == "gemv":
                gemv_config = config if isinstance(config, GemvConfig) else None
                multiply = gemv_swiglu if swiglu else gemv
                multiply(vectors, packed, weight_bits, bias, addend=addend, out=out, config=gemv_config)
            else:
                gemm_config = config if isinstance(config, GemmConfig) else None
                multiply_many = gemm_swiglu if swiglu else gemm
                multiply_many(vectors, packed, weight_bits, bias, addend=addend, out=out, config=gemm_config)
    return out.view(*x.shape[:-1], out.shape[1])


def dequantized_product(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None,
    addend: Tensor | None,
    out: Tensor,
    *,
    swiglu: bool,
) -> None:
    """The product of checked operands by cuBLAS, whose result is rounded before anything else is added to it."""
    import torch

    from kernels.dequant import dequantize
    from kernels.epilogue import finish_product

    weight = dequantize(packed, weight_bits, x.dtype)
    if swiglu:
        finish_product(torch.mm(x, weight.t()), bias, addend, out, swiglu=True)
    elif addend is None and bias is not None and bias.dtype == x.dtype:
        torch.addmm(bias, x, weight.t(), out=out)
    else:
        torch.mm(x, weight.t(), out=out)
        if bias is not None or addend is not None:
            finish_product(out, bias, addend, out, swiglu=False)


def _check_device(device: torch.device) -> None:
    obstacle = device_obstacle(device)
    # Tests run on the CPU, in Triton's interpreter.
    if obstacle is not None and not (device.type == "cpu" and _interpreted()):
        raise KernelError(f"{obstacle}; dequantise the weight and use torch instead")


def _interpreted() -> bool:
    try:
        from kernels.tiles import INTERPRETED
    except ImportError:
        return False
    return bool(INTERPRETED.value)
