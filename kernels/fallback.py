"""What a decode step does between its linears, in plain torch: for a CPU, and for GPUs without the kernels.

Like the kernels these read the position from the device and look at no value, so that the same step runs without a
host sync anywhere (and may be captured in a CUDA graph).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.rotary import RotaryTable, rotate

if TYPE_CHECKING:
    from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As :func:`kernels.norm.rms_norm`."""
    import torch

    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """As :func:`kernels.norm.layer_norm`."""
    import torch

    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def gated_silu(pairs: Tensor) -> Tensor:
    """``silu(gate) * up`` of ``[M, 2 F]``, gate and up in turn, as ``[M, F]``."""
    import torch

    gate, up = pairs.view(pairs.shape[0], -1, 2).unbind(-1)
    return torch.nn.functional.silu(gate) * up


def attend(qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, rotary: RotaryTable) -> Tensor:
    """As :func:`kernels.attention.attend`: append keys and values, then attend; over the whole cache, masked."""
    import torch

    B, kv_heads, capacity, D = keys.shape
    heads = qkv.shape[1] // D - 2 * kv_heads
    cos, sin = rotary.rows(position)
    by_head = qkv.view(B, -1, D)
    turned, value = rotate(by_head[:, : heads + kv_heads], cos, sin), by_head[:, heads + kv_heads :]
    query, key = turned[:, :heads], turned[:, heads:]
    place = position.view(B, 1, 1, 1).expand(B, kv_heads, 1, D)
    keys.scatter_(2, place, key.unsqueeze(2))
    values.scatter_(2, place, value.unsqueeze(2))
    filled = torch.arange(capacity, device=keys.device) <= position[:, None]
    grouped = query.reshape(B, kv_heads, heads // kv_heads, D).float()
    scores = grouped @ keys.float().transpose(2, 3) * D**-0.5
    weights = scores.masked_fill(~filled[:, None, None], -torch.inf).softmax(-1)
    # Weights of zero do not silence what was never written: it may be NaN.
    seen = values.float().masked_fill(~filled[:, None, :, None], 0.0)
    joined: Tensor = weights @ seen
    return joined.to(qkv.dtype).reshape(B, heads * D)


def choose_token(logits: Tensor, token: Tensor, position: Tensor, tokens: Tensor) -> None:
    """As :func:`kernels.next_token.choose_token`."""
    chosen = logits.argmax(-1)
    token.copy_(chosen)
    position.add_(1)
    tokens.scatter_(1, position[:, None], chosen[:, None])
