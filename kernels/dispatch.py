"""Which kernel takes which input; without a usable GPU or without triton the caller's torch path remains."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kernels.layout import PackedWeight

# The tensor-core instructions and asynchronous copies the kernels compile to.
MIN_CAPABILITY = (8, 0)
GEMV_MAX_M = 8


def gemv_obstacle(x: Tensor) -> str | None:
    """Why the GEMV kernel cannot take ``x`` (``[..., K]``), in words; None if it can."""
    import torch

    rows = x.numel() // max(x.shape[-1], 1)
    if not 1 <= rows <= GEMV_MAX_M:
        return f"{rows} activation vectors; the GEMV takes 1..{GEMV_MAX_M}"
    if x.dtype != torch.float16:
        return f"activations are {x.dtype}; the GEMV takes torch.float16"
    if x.requires_grad:
        return "the GEMV has no backward pass"
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


def linear(x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None = None) -> Tensor:
    """``y = x W_b^T + bias`` by the GEMV kernel, for an ``x`` without a :func:`gemv_obstacle`.

    Args:
        x: Activations ``[..., K]`` float16, at most eight vectors.
        packed: The weight.
        weight_bits: Bit-planes read; the rest stay in DRAM.
        bias: ``[N]`` or None.

    Returns:
        ``[..., N]`` float16.

    Raises:
        KernelError: As :func:`kernels.gemv.gemv`.
    """
    from kernels.gemv import gemv

    y = gemv(x.reshape(-1, x.shape[-1]).contiguous(), packed, weight_bits, bias)
    return y.view(*x.shape[:-1], packed.out_features)
