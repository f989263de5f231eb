"""The NPUs that ship with the simulator, as places to start from."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hwsim import NPU_NAMES, SimulationOptions, load_npu, simulate
from hwsim.assumptions import assumed_numbers
from hwsim.config import Buffers
from hwsim.trace import InputError, Schedule, synthetic_trace
from studies.architect.memory_bound import ridge_macs_per_byte
from studies.architect.settings import Finding, Settings
from studies.common.output import three_digits

QUESTION = "Which NPU to start from, and what does each do with this model?"


def template_row(settings: Settings, name: str) -> dict[str, Any]:
    """What an NPU is, and how fast the model runs on it; what stands in the way where it does not."""
    npu, (_, shape) = load_npu(name), settings.load()
    row: dict[str, Any] = {
        "npu": name,
        "clock_hz": npu.clock_hz,
        "macs": npu.matrix.macs,
        "bandwidth_bytes_per_s": npu.memory.bandwidth_bytes_per_s,
        "ridge_macs_per_byte": ridge_macs_per_byte(npu),
        "memory": npu.cost.dram,
        "capacity_bytes": npu.memory.capacity_bytes,
        "buffers_kib": sum(getattr(npu.buffers, field) for field in Buffers.model_fields),
        "node": npu.cost.node,
        "assumed_numbers": len(assumed_numbers(name)),
    }
    bits = settings.nested_bits[1]
    trace = synthetic_trace(
        shape,
        Schedule.uniform(bits),
        prompt_tokens=settings.prompt_tokens,
        decode_tokens=settings.decode_tokens,
        kv_bits=settings.kv_bits,
        lm_head_bits=settings.lm_head_bits,
    )
    row["weight_bits"] = bits
    try:
        result = simulate(npu, shape, trace, SimulationOptions(engine="fast"))
    except InputError as error:
        return row | {"cannot_run": str(error)}
    tokens = settings.decode_tokens + 1
    return row | {
        "area_mm2": result.area_mm2,
        "ttft_s": result.ttft_s,
        "decode_tokens_per_s": result.decode_tokens_per_s,
        "j_per_token": result.energy_j / tokens,
        "cannot_run": None,
    }


def compute(settings: Settings) -> Finding:
    """Run the model on every shipped NPU."""
    table = pd.DataFrame([template_row(settings, name) for name in NPU_NAMES])
    cells = [
        f"{row['npu']} ({row['macs']:,} MACs, {row['bandwidth_bytes_per_s'] / 1e9:,.4g} GB/s) "
        + (
            "cannot run it"
            if isinstance(row["cannot_run"], str)
            else f"{three_digits(row['decode_tokens_per_s'])} tokens/s"
        )
        for row in table.sort_values("bandwidth_bytes_per_s").to_dict("records")
    ]
    bits = settings.nested_bits[1]
    answer = f"{settings.model} at {bits} bits: {', '.join(cells)}. Copy the nearest file and change it."
    return Finding(
        answer,
        {"templates": table},
        "Every number of a file names its source or says assumed; assumed_numbers counts the latter.",
        "Products: sizes of the templates are round numbers. The area of an HBM PHY is taken as LPDDR's, per GB/s, "
        "which is too much.",
    )
