"""Round-to-nearest on a uniform grid: the baseline every other quantiser must beat."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from accuracy.model import LanguageModel, decoder_linears
from accuracy.quantization.nested import check_weights
from hwsim.trace import MAX_PLANES, InputError

# The smallest positive fp16 number: a scale must not vanish.
_MIN_SCALE = 2.0**-24


@dataclass(frozen=True)
class UniformMatrix:
    """One matrix on uniform grids: ``weight = (code - zero) * scale``.

    Attributes:
        codes: ``[N, K]`` uint8.
        scale: ``[N, groups]`` float16, positive.
        zero: ``[N, groups]`` uint8, the code of weight 0.
        bits: Width of a code.
        group_size: Columns that share a grid; None for one grid per row.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    group_size: int | None

    def dequantize(self) -> Tensor:
        """The matrix ``[N, K]``, float32."""
        group = torch.arange(self.codes.shape[1]) // (self.group_size or self.codes.shape[1])
        steps = self.codes.float() - self.zero.float()[:, group]
        return steps * self.scale.float()[:, group]

    def bits_per_weight(self) -> float:
        """Stored bits per weight: the code, and its share of scale (16 bits) and zero (as wide as a code)."""
        return self.bits + self.scale.numel() * (16 + self.bits) / self.codes.numel()


def round_to_nearest(
    weight: Tensor, bits: int, *, group_size: int | None = None, symmetric: bool = False
) -> UniformMatrix:
    """Round every weight to the nearest point of its row's (or group's) grid of ``2**bits`` points.

    An asymmetric grid spans the smallest to the largest weight, zero included. A symmetric one is centred on zero,
    whose code is ``2**(bits - 1)``; having an even number of points, it reaches one step less far up than down, so
    the largest weights on the positive side are cut (at 2 bits to two thirds).

    Args:
        weight: ``[N, K]``, finite.
        bits: Width of a code, 1..8; at least 2 if symmetric.
        group_size: Columns that share a grid; None for one grid per row.
        symmetric: Centre the grid on zero.

    Raises:
        InputError: If the width or group size is out of bounds.

    Source: the grids of Frantar et al., "GPTQ", arXiv:2210.17323.
    """
    if not 1 + symmetric <= bits <= MAX_PLANES:
        raise InputError(f"bits = {bits}: must be {1 + symmetric}..{MAX_PLANES}")
    if group_size is not None and group_size < 1:
        raise InputError(f"group_size = {group_size}: must be >= 1, or none for one grid per row")
    N, K = weight.shape
    columns = group_size or K
    top = (1 << bits) - 1
    codes = torch.empty((N, K), dtype=torch.uint8)
    scales, zeros = [], []
    for start in range(0, K, columns):
        part = weight[:, start : start + columns].float()
        low, high = part.amin(1, keepdim=True).clamp(max=0), part.amax(1, keepdim=True).clamp(min=0)
        if symmetric:
            high = torch.maximum(high, -low)
            low = -high
        # Codes are found on the grid that is stored, so the scale is rounded first.
        scale = ((high - low) / top).half().clamp(min=_MIN_SCALE)
        step = scale.float()
        zero = torch.full_like(step, (top + 1) / 2) if symmetric else (-low / step).round().clamp(0, top)
        codes[:, start : start + columns] = ((part / step).round() + zero).clamp(0, top).to(torch.uint8)
        scales.append(scale)
        zeros.append(zero.to(torch.uint8))
    return UniformMatrix(codes, torch.cat(scales, 1), torch.cat(zeros, 1), bits, group_size)


@torch.no_grad()
def rtn_model(
    source: LanguageModel, bits: int, *, group_size: int | None = None, symmetric: bool = False
) -> LanguageModel:
    """Copy a model with every decoder linear rounded to nearest; it runs as an ordinary model (width 16).

    Raises:
        InputError: As :func:`round_to_nearest`, and for weights that are not finite fp16 numbers.
    """
    model = copy.deepcopy(source.model)
    for name, linear in decoder_linears(model).items():
        check_weights(name, linear.weight.float().cpu().numpy())
        rounded = round_to_nearest(linear.weight.cpu(), bits, group_size=group_size, symmetric=symmetric)
        linear.weight.copy_(rounded.dequantize())
    return replace(source, model=model)
