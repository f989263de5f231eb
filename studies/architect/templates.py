"""The NPUs that ship with the simulator, as places to start from."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hwsim import NPU_NAMES, NpuConfig, SimulationOptions, load_npu, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace
from studies.architect.settings import Finding, Settings
from studies.common.output import three_digits
from studies.common.subjects import npu_facts

QUESTION = "Which NPU to start from, and what does each do with this model?"
SHOWN = (
    *("kind", "clock_hz", "macs", "bandwidth_bytes_per_s", "ridge_macs_per_byte", "memory", "capacity_bytes"),
    *("buffers_kib", "node"),
)


def template_row(settings: Settings, npu: NpuConfig, source: str) -> dict[str, Any]:
    """What an NPU is, and how fast the model runs on it; what stands in the way where it does not.

    Args:
        settings: Give the model and the run.
        npu: The hardware.
        source: Its name or file, whose comments say which numbers are assumed.
    """
    _, shape = settings.load()
    facts = npu_facts(npu, source)
    row: dict[str, Any] = {"npu": npu.name, **{name: facts[name] for name in SHOWN}}
    row |= {"assumed_numbers": len(facts["assumed"]), "area_mm2": facts["area_mm2"]}
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
        "ttft_s": result.ttft_s,
        "decode_tokens_per_s": result.decode_tokens_per_s,
        "j_per_token": result.energy_j / tokens,
        "cannot_run": None,
    }


def compute(settings: Settings) -> Finding:
    """Run the model on every shipped NPU, and on the one that was given."""
    given, shape = settings.load()
    sources = {name: (load_npu(name), name) for name in NPU_NAMES} | {given.name: (given, settings.npu)}
    table = pd.DataFrame([template_row(settings, npu, source) for npu, source in sources.values()])
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
    answer = (
        f"{shape.name} at {bits} bits: {', '.join(cells)}. `bittaper npus NAME --write FILE` copies the nearest, to be "
        "changed."
    )
    return Finding(
        answer,
        {"templates": table},
        "Every number of a file names its source or says assumed; assumed_numbers counts the latter.",
        "Products: sizes of the templates are round numbers. The area of an HBM PHY is taken as LPDDR's, per GB/s, "
        "which is too much.",
    )
