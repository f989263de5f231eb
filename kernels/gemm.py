"""Products of many activation vectors with any-precision weights."""

from __future__ import annotations

from kernels.dequant import dequantize

__all__ = ["dequantize"]
