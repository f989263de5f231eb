"""How MACs and bandwidth share out the speed of decoding and of the prefill, at several weight widths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil, floor, isclose, log2
from typing import Any

import pandas as pd

from hwsim.load import MAX_MACS, MIN_MACS
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


def exponents(values: Sequence[float], steps_per_octave: int, own: float) -> range:
    """Steps of a geometric ladder, counted from its first value, that hold half and twice a value too.

    >>> exponents([4, 8, 16], 1, 6), exponents([4, 8, 16], 1, 1), exponents([4, 8, 16], 1, 12)
    (range(-1, 3), range(-3, 3), range(0, 4))
    """
    low, high = (steps_per_octave * log2(own * factor / values[0]) for factor in (0.5, 2))
    return range(min(0, floor(low)), max(len(values) - 1, ceil(high)) + 1)


def _macs_text(macs: int | None, sizes: Sequence[int]) -> str:
    if macs is None:
        return f"more than {sizes[-1]:,}"
    return f"{macs:,} or fewer" if macs == sizes[0] else f"{macs:,}"


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
    given, given_macs = npu.memory.bandwidth_bytes_per_s, npu.matrix.macs
    bandwidths = [MAP_BANDWIDTHS[0] * 2 ** (step / 4) for step in exponents(MAP_BANDWIDTHS, 4, given)]
    wanted = (MAP_MACS[0] * 2.0**step for step in exponents(MAP_MACS, 1, given_macs))
    sizes = [int(macs) for macs in wanted if MIN_MACS <= macs <= MAX_MACS]
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
        part = map_table(asked, settings.model, Schedule.uniform(bits), sizes, bandwidths)
        part.insert(0, "weight_bits", bits)
        parts.append(part)
    grid = pd.concat(parts, ignore_index=True).rename(columns={"prefill_s": "ttft_s"})
    balance = balance_table(grid)
    own = min(bandwidths, key=lambda bandwidth: abs(log2(bandwidth / given)))
    mine = balance[balance["bandwidth_bytes_per_s"] == own]

    def counts(phase: str) -> str:
        cells = (
            f"{_macs_text(None if pd.isna(macs) else int(macs), sizes)} at {bits} bits"
            for bits, macs in zip(mine["weight_bits"], mine[f"{phase}_memory_bound_from_macs"], strict=True)
        )
        return ", ".join(cells)

    beside = "" if isclose(own, given) else f" (the map's step next to the {given / 1e9:,.4g} of {npu.name})"
    answer = (
        f"At {own / 1e9:,.4g} GB/s{beside} memory binds decoding from these MACs on: {counts('decode')}; a prefill of "
        f"{settings.prompt_tokens} tokens from: {counts('prefill')}. MACs are bought for the time to the first token, "
        "bandwidth for the tokens after it."
    )
    itself = pd.DataFrame([{"npu": npu.name, "macs": given_macs, "bandwidth_bytes_per_s": given}])
    return Finding(
        answer,
        {"speed_map": grid, "speed_map_balance": balance, "speed_map_npu": itself},
        "Codebook look-ups grow with the array, memory channels with the bandwidth, and buffers stay as they are. "
        "MACs are powers of two, so a bound is known to a factor of two.",
        "Quality; batches; clocks other than the NPU's.",
    )
