"""What a model's numbers were computed with, since that decides how near-ties are resolved."""

from __future__ import annotations

from typing import Any

import torch

from accuracy.model import LanguageModel


def device_name(lm: LanguageModel) -> str:
    """The device that a model runs on, by the name its maker gives it."""
    device = next(lm.model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def arithmetic(lm: LanguageModel, threads: int) -> dict[str, Any]:
    """Everything outside the weights that decides the last bits of a logit, as JSON.

    Two threads add up a matrix product in another order than one, and so does another vector unit or library version.
    Where two tokens lie closer than the rounding error, that decides (:mod:`accuracy.decoding` on near-ties), so
    responses are kept, and runs continued, only for the same arithmetic.

    Args:
        lm: The model.
        threads: Threads of one product; they count on a CPU only.
    """
    parameter = next(lm.model.parameters())
    found: dict[str, Any] = {"device": device_name(lm), "dtype": str(parameter.dtype), "torch": torch.__version__}
    if parameter.device.type == "cpu":
        found |= {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": threads}
    return found
