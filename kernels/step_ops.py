"""What a decode step does between its linears, as one choice: by Triton kernels or in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.rotary import RotaryTable


@dataclass(frozen=True)
class StepOps:
    """Functions of equal meaning, documented in :mod:`kernels.norm`, ``attention`` and ``next_token``."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    layer_norm: Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
    gated_silu: Callable[[Tensor], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor, Tensor, RotaryTable], Tensor]
    choose_token: Callable[[Tensor, Tensor, Tensor, Tensor], None]


def step_ops(kernels: bool) -> StepOps:
    """The Triton kernels, or :mod:`kernels.fallback`."""
    if not kernels:
        from kernels import fallback

        return StepOps(
            fallback.rms_norm, fallback.layer_norm, fallback.gated_silu, fallback.attend, fallback.choose_token
        )
    from kernels import attention, next_token, norm

    return StepOps(norm.rms_norm, norm.layer_norm, norm.gated_silu, attention.attend, next_token.choose_token)
