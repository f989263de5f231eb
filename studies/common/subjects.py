"""What is to be known of an NPU or a model shape at a glance, for tables and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwsim import NpuConfig
from hwsim.assumptions import assumed_numbers
from hwsim.config import Buffers
from hwsim.cost import area_mm2
from hwsim.load import npu_description
from hwsim.trace import FULL_PRECISION_BITS, ModelShape
from hwsim.units import bits_to_bytes, ceil_div
from hwsim.workload import COLUMNS_PER_WORD, WORD_BYTES, kv_cache_bytes

KV_BITS = 16


def ridge_macs_per_byte(npu: NpuConfig) -> float:
    """MACs the array does while the main memory moves a byte, both at their peak."""
    return npu.matrix.macs * npu.clock_hz / npu.memory.bandwidth_bytes_per_s


def npu_facts(npu: NpuConfig, source: str | Path) -> dict[str, Any]:
    """Sizes of an NPU, where they come from, and how many of them are assumed.

    Args:
        npu: The hardware.
        source: Its name or file, whose comments say what it is and which numbers are assumed.

    Raises:
        InputError: If there is no such file.
    """
    what, validated = npu_description(source)
    buffers = {name: getattr(npu.buffers, name) for name in Buffers.model_fields}
    return {
        "name": npu.name,
        "kind": "template" if what.startswith("Template") else "published" if validated else "own",
        "macs": npu.matrix.macs,
        "clock_hz": npu.clock_hz,
        "bandwidth_bytes_per_s": npu.memory.bandwidth_bytes_per_s,
        "ridge_macs_per_byte": ridge_macs_per_byte(npu),
        "memory": npu.cost.dram,
        "capacity_bytes": npu.memory.capacity_bytes,
        "buffers_kib": sum(buffers.values()),
        "buffers": buffers,
        "weight_widths": list(npu.matrix.weight_widths),
        "node": npu.cost.node,
        "area_mm2": sum(area_mm2(npu).values()),
        "assumed": assumed_numbers(source),
        "description": what,
        "validation": validated,
    }


def shape_facts(shape: ModelShape) -> dict[str, Any]:
    """Dimensions of a model, and what one bit of its weights and one token of its cache take."""
    return {
        **shape.model_dump(mode="json"),
        "block_weights": shape.linear_weights(),
        "plane_bytes": plane_bytes(shape),
        "lm_head_bytes": bits_to_bytes(shape.vocab_size * shape.hidden_size * FULL_PRECISION_BITS),
        "kv_bytes_per_token": kv_cache_bytes(shape, KV_BITS, 1),
    }


def plane_bytes(shape: ModelShape) -> int:
    """Bytes of one bit-plane of all linear layers of the decoder blocks."""
    rows = sum(n * ceil_div(k, COLUMNS_PER_WORD) for _, n, k in shape.block_linears())
    return shape.layers * rows * WORD_BYTES
