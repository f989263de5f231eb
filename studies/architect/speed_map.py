"""How MACs and bandwidth share out the speed of decoding and of the prefill, at several weight widths."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from hwsim.trace import Schedule
from studies.architect.settings import Finding, Settings
from studies.bandwidth_budget.run import MAP_BANDWIDTHS, MAP_MACS, map_table
from studies.bandwidth_budget.run import Settings as MapSettings

QUESTION = "How fast are decoding and the prefill over MACs and bandwidth, and which of the two binds?"
HALF = 0.5  # elasticity to bandwidth at which memory and computation weigh the same


def least_macs(grid: pd.DataFrame, column: str) -> int | None:
    """Fewest MACs of one bandwidth's column of the map at which memory is the bound, and stays it."""
    ordered = grid.sort_values("macs", ascending=False)
    bound = None
    for macs, elasticity in zip(ordered["macs"], ordered[column], strict=True):
        if elasticity < HALF:
            break
        bound = int(macs)
    return bound


def _macs_text(macs: int | None) -> str:
    if macs is None:
        return f"more than {MAP_MACS[-1]:,}"
    return f"{macs:,} or fewer" if macs == MAP_MACS[0] else f"{macs:,}"


def balance_table(grid: pd.DataFrame) -> pd.DataFrame:
    """Fewest MACs of the map at which memory binds each phase, by width and bandwidth."""
    rows: list[dict[str, Any]] = []
    places = product(sorted(set(grid["weight_bits"])), sorted(set(grid["bandwidth_bytes_per_s"])))
    for bits, bandwidth in places:
        mine = grid[(grid["weight_bits"] == bits) & (grid["bandwidth_bytes_per_s"] == bandwidth)]
        row: dict[str, Any] = {"weight_bits": bits, "bandwidth_bytes_per_s": bandwidth}
        for phase in ("decode", "prefill"):
            row[f"{phase}_memory_bound_from_macs"] = least_macs(mine, f"{phase}_elasticity")
        rows.append(row)
    kinds = {f"{phase}_memory_bound_from_macs": "Int64" for phase in ("decode", "prefill")}
    return pd.DataFrame(rows).astype(kinds)


def compute(settings: Settings) -> Finding:
    """Map every width of the settings."""
    npu, _ = settings.load()
    asked = MapSettings(
        out=settings.out,
        npu=settings.npu,
        prompt_tokens=(settings.prompt_tokens,),
        decode_tokens=settings.decode_tokens,
        kv_bits=settings.kv_bits,
        lm_head_bits=settings.lm_head_bits,
    )
    parts = []
    for bits in sorted(settings.weight_bits):
        part = map_table(asked, settings.model, Schedule.uniform(bits))
        part.insert(0, "weight_bits", bits)
        parts.append(part)
    grid = pd.concat(parts, ignore_index=True).rename(columns={"prefill_s": "ttft_s"})
    balance = balance_table(grid)
    own = min(MAP_BANDWIDTHS, key=lambda bandwidth: abs(bandwidth - npu.memory.bandwidth_bytes_per_s))
    mine = balance[balance["bandwidth_bytes_per_s"] == own]

    def counts(phase: str) -> str:
        cells = (
            f"{_macs_text(None if pd.isna(macs) else int(macs))} at {bits} bits"
            for bits, macs in zip(mine["weight_bits"], mine[f"{phase}_memory_bound_from_macs"], strict=True)
        )
        return ", ".join(cells)

    answer = (
        f"At {own / 1e9:.3g} GB/s memory binds decoding from these MACs on: {counts('decode')}; a prefill of "
        f"{settings.prompt_tokens} tokens from: {counts('prefill')}. MACs are bought for the time to the first token, "
        "bandwidth for the tokens after it."
    )
    return Finding(
        answer,
        {"speed_map": grid, "speed_map_balance": balance},
        "Codebook look-ups grow with the array, memory channels with the bandwidth, and buffers stay as they are. "
        "MACs are powers of two, so a bound is known to a factor of two.",
        "Quality; batches; clocks other than the NPU's.",
    )
