"""Which kernel takes which input; without a usable GPU or without triton the caller's torch path remains."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

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

    Args:
        x: Activations ``[..., K]`` float16 or bfloat16.
        packed: The weight; its sparse part, if any, is included.
        weight_bits: Bit-planes read; the rest stay in DRAM.
        bias: ``[N]`` or None.
        addend: ``[..., N]`` of the dtype of ``x`` or float32, or None.

    Returns:
        ``[..., N]`` in the dtype of ``x``.

    Raises:
        KernelError: If the width is not stored, or a dtype, shape or device does not fit.
    """
    import torch

    from kernels.dequant import dequantize

    if x.numel() == 0:
        raise KernelError(f"x has shape {tuple(x.shape)}: needs at least one activation vector")
    y = torch.nn.functional.linear(x, dequantize(packed, weight_bits, x.dtype)).float()
    if bias is not None:
        y += bias
    if addend is not None:
        y += addend
    return y.to(x.dtype)


def swiglu_linear(
    x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None = None, *, addend: Tensor | None = None
) -> Tensor:
    """``SiLU(gate) * up`` of a weight whose rows are those of gate and up in turn (:func:`kernels.layout.interleave`).

    Args:
        x: Activations ``[..., K]`` float16 or bfloat16.
        packed: The weight, ``[N, K]`` with N even; its sparse part, if any, is included.
        weight_bits: Bit-planes read; the rest stay in DRAM.
        bias: ``[N]`` or None, added before the activation.
        addend: ``[..., N]`` of the dtype of ``x`` or float32, or None; added before the activation.

    Returns:
        ``[..., N / 2]`` in the dtype of ``x``.

    Raises:
        KernelError: As :func:`linear`; or if N is odd.
    """
    import torch

    if packed.out_features % 2:
        raise KernelError(f"N = {packed.out_features}: gate and up rows in turn make an even number")
    y = linear(x, packed, weight_bits, bias, addend=addend).float()
    return (torch.nn.functional.silu(y[..., 0::2]) * y[..., 1::2]).to(x.dtype)
