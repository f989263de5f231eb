"""Energy of a decoded token by component, weight bits and context, and every constant behind it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pandas as pd

from hwsim import NpuConfig, SimulationOptions, simulate
from hwsim.checks import check_trace
from hwsim.cost import DRAM_PJ_PER_BIT, NODES
from hwsim.trace import InputError, ModelShape, Schedule, synthetic_trace
from studies.architect.settings import Finding, Settings
from studies.common.output import three_digits

QUESTION = "What does a decoded token cost in energy, by component, weight bits and context?"
CONTEXTS = (128, 512, 1024, 2048, 4000, 8000)
STEPS = 16  # decode steps behind each context

# Unit and source of each constant of hwsim.cost; the comments there say more.
LOGIC_SOURCES = {
    "mac_pj": ("pJ per int8 multiply-accumulate", "quoted at 45 nm: Horowitz, ISSCC 2014; scaled to the node"),
    "fp16_op_pj": ("pJ per fp16 SFU operation", "quoted at 45 nm: Horowitz, ISSCC 2014; scaled to the node"),
    "mux_pj": ("pJ per switch of a 2:1 multiplexer", "assumed at 45 nm: two NAND2 gates; scaled to the node"),
}
SRAM_SOURCES = {
    "45nm": "quoted: 8 KB SRAM, 10 pJ per 64 bits (PMC8934428, Table 3)",
    "14nm": "assumed: twice the 7 nm value",
    "7nm": "quoted: bank of 2 Mb (comment in public code)",
}
DRAM_SOURCES = {
    "lpddr3": "quoted: T-REX, ISSCC 2025",
    "lpddr4": "quoted: Ha, Stanford thesis 2018 (simulated, single die package)",
    "lpddr5x": "computed from Micron Y52P currents: read core only, no I/O",
    "ddr4": "quoted: Vogelsang, MICRO 2010; device only",
    "gddr5": "quoted: O'Connor et al., MICRO 2017",
    "hbm2": "quoted: O'Connor et al., MICRO 2017",
    "hbm2e": "quoted: SK hynix, IEDM 2023",
    "hbm3e": "quoted: SK hynix, IEDM 2023",
}


def constant_table(npu: NpuConfig) -> pd.DataFrame:
    """Constants that the NPU's energy is made of, each with unit and source or the word assumed."""
    node = NODES[npu.cost.node]
    rows: list[dict[str, Any]] = [
        {"constant": f"{name} ({npu.cost.node})", "value": getattr(node, name), "unit": unit, "source": source}
        for name, (unit, source) in LOGIC_SOURCES.items()
    ]
    rows.append(
        {
            "constant": f"sram_pj_per_byte ({npu.cost.node})",
            "value": node.sram_pj_per_byte,
            "unit": "pJ per byte read or written",
            "source": SRAM_SOURCES[npu.cost.node],
        }
    )
    technologies = [npu.cost.dram, *([npu.second_memory.technology] if npu.second_memory else [])]
    rows += [
        {
            "constant": f"dram_pj_per_bit ({name})",
            "value": DRAM_PJ_PER_BIT[name],
            "unit": "pJ per bit moved",
            "source": DRAM_SOURCES[name],
        }
        for name in technologies
    ]
    rows.append(
        {
            "constant": "static_w_per_mm2",
            "value": npu.cost.static_w_per_mm2,
            "unit": "W per mm2 of area",
            "source": "the NPU file; assumed in all shipped ones",
        }
    )
    return pd.DataFrame(rows)


def token_energy_j(settings: Settings, npu: NpuConfig, shape: ModelShape, bits: int, context: int) -> dict[str, float]:
    """Energy by component of one decoded token: that of a run with decode steps less that of its prefill alone.

    Steps are separate (design: all units drain at the end of one), so the difference is the decode steps'.
    """
    last = min(STEPS, shape.max_context - context)
    parts = []
    for steps in (0, last):
        trace = synthetic_trace(
            shape,
            Schedule.uniform(bits),
            prompt_tokens=context,
            decode_tokens=steps,
            kv_bits=settings.kv_bits,
            lm_head_bits=settings.lm_head_bits,
        )
        parts.append(simulate(npu, shape, trace, SimulationOptions(engine="fast")).energy_by_component_j)
    prefill, both = parts
    return {name: (both[name] - prefill[name]) / last for name in both}


def fitting_contexts(settings: Settings, npu: NpuConfig, shape: ModelShape) -> list[int]:
    """Contexts that the memory holds beside the weights of the widest width; the prompt's, if it holds none."""
    fitting = []
    for context in settings.contexts_within(CONTEXTS, shape):
        trace = synthetic_trace(
            shape,
            Schedule.uniform(max(settings.weight_bits)),
            prompt_tokens=context,
            decode_tokens=min(STEPS, shape.max_context - context),
            kv_bits=settings.kv_bits,
            lm_head_bits=settings.lm_head_bits,
        )
        with suppress(InputError):
            check_trace(npu, shape, trace)
            fitting.append(context)
    return fitting or [settings.prompt_tokens]


def compute(settings: Settings) -> Finding:
    """Simulate a token at every width and context."""
    npu, shape = settings.load()
    contexts = fitting_contexts(settings, npu, shape)
    rows = [
        {"weight_bits": bits, "context": context, "component": name, "j_per_token": joules}
        for bits in sorted(settings.weight_bits)
        for context in contexts
        for name, joules in token_energy_j(settings, npu, shape, bits, context).items()
        if joules
    ]
    table = pd.DataFrame(rows)
    totals: Any = table.pivot_table(index="weight_bits", columns="context", values="j_per_token", aggfunc="sum")
    near = min(contexts, key=lambda context: abs(context - settings.prompt_tokens))
    low, high = settings.nested_bits[:2]
    first, last = contexts[0], contexts[-1]
    here = table[(table["weight_bits"] == high) & (table["context"] == near)].set_index("component")["j_per_token"]
    shares = (here / here.sum()).sort_values(ascending=False)
    costs = ", ".join(f"{three_digits(1e3 * totals.loc[bits, near])} mJ at {bits} bits" for bits in totals.index)
    answer = (
        f"At {near} tokens of context a token costs {costs}; at {high} bits "
        f"{', '.join(f'{share:.1%} {name}' for name, share in shares.head(3).items())}. Reading {low} bits instead of "
        f"{high} saves {1 - totals.loc[low, near] / totals.loc[high, near]:.0%}"
    )
    if last > first:
        more = three_digits(1e3 * (totals.loc[high, last] - totals.loc[high, first]))
        answer += f", and {last - first:,} more tokens of context add {more} mJ"
    return Finding(
        f"{answer}.",
        {"energy": table, "energy_constants": constant_table(npu)},
        "Each constant is listed with its source or 'assumed' in energy_constants.csv; static power is "
        f"{npu.cost.static_w_per_mm2:g} W per mm2, assumed in all shipped NPUs.",
        "Energy of the host, of idle time between requests, and of DRAM beside its accesses (refresh, termination).",
    )
