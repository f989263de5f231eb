"""Sets of weight widths and the units that read them: area of look-up tables, energy of either unit."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pandas as pd

from hwsim import NpuConfig, SimulationOptions, load_npu, simulate
from hwsim.cost import area_mm2
from hwsim.trace import InputError, Schedule, synthetic_trace
from studies.architect.settings import Settings

SETS: tuple[tuple[int, ...], ...] = (
    (2,),
    (3,),
    (4,),
    (8,),
    (2, 3),
    (3, 4),
    (2, 3, 4),
    (2, 3, 4, 8),
    (2, 3, 4, 5, 6, 7, 8),
)
UNITS = {"look-up": False, "bit-serial": True}


def set_name(widths: tuple[int, ...]) -> str:
    """A set of widths in a cell: ``2+3+4``."""
    return "+".join(map(str, widths))


def sets_of(npu: NpuConfig) -> list[tuple[int, ...]]:
    """The sets that the NPU can be built for: with a rate of look-ups for each width."""
    rates = npu.matrix.lookups_per_cycle or dict.fromkeys(npu.matrix.weight_widths)
    return [widths for widths in SETS if set(widths) <= rates.keys()]


def units_of(npu: NpuConfig) -> dict[str, bool]:
    """Ways to multiply with few bits, and whether bit by bit: only an MPE can, and only rates make look-ups."""
    possible = {"look-up": bool(npu.matrix.lookups_per_cycle), "bit-serial": npu.matrix.kind == "mpe"}
    return {unit: serial for unit, serial in UNITS.items() if possible[unit]}


def unit_table(settings: Settings) -> pd.DataFrame:
    """Area of the array with its look-up tables for every set, and as a bit-serial array, which needs none."""
    given, _ = settings.load()
    rows: list[dict[str, Any]] = []
    for unit, serial in units_of(given).items():
        for widths in sets_of(given):
            npu = load_npu(settings.npu, {"matrix.bit_serial": serial, "matrix.weight_widths": list(widths)})
            area = area_mm2(npu)
            rows.append(
                {
                    "unit": unit,
                    "widths": set_name(widths),
                    "array_mm2": area["matrix"],
                    "lookup_mm2": area["codebook_lookup"],
                    "npu_mm2": sum(area.values()),
                }
            )
    return pd.DataFrame(rows)


def _token(settings: Settings, npu: NpuConfig, bits: int) -> dict[str, float]:
    """Speed and energy by component of one decoded token behind the settings' prompt."""
    _, shape = settings.load()
    energies: list[dict[str, float]] = []
    rate = 0.0
    for steps in (0, settings.decode_tokens):
        trace = synthetic_trace(
            shape,
            Schedule.uniform(bits),
            prompt_tokens=settings.prompt_tokens,
            decode_tokens=steps,
            kv_bits=settings.kv_bits,
            lm_head_bits=settings.lm_head_bits,
        )
        result = simulate(npu, shape, trace, SimulationOptions(engine="fast"))
        energies.append(result.energy_by_component_j)
        rate = result.decode_tokens_per_s or rate
    prefill, both = energies
    parts = {name: (both[name] - prefill[name]) / settings.decode_tokens for name in both}
    return {
        "decode_tokens_per_s": rate,
        "array_j": parts["matrix"],
        "lookup_j": parts["codebook_lookup"],
        "token_j": sum(parts.values()),
    }


def energy_table(settings: Settings) -> pd.DataFrame:
    """What a decoded token costs on either unit at each width at which the model runs."""
    given, _ = settings.load()
    widths = sorted({bits for one in sets_of(given) for bits in one})
    rows: list[dict[str, Any]] = []
    for unit, serial in units_of(given).items():
        npu = load_npu(settings.npu, {"matrix.bit_serial": serial, "matrix.weight_widths": widths})
        for bits in widths:
            with suppress(InputError):  # the memory may be too small for the wider ones
                rows.append({"unit": unit, "weight_bits": bits, **_token(settings, npu, bits)})
    return pd.DataFrame(rows)


def units_text(units: pd.DataFrame) -> str:
    """Area of the tables for some sets, and of the arrays."""
    parts = []
    arrays = units.drop_duplicates("unit").set_index("unit")["array_mm2"]
    if "look-up" in arrays:
        tables = units[units["unit"] == "look-up"].set_index("widths")["lookup_mm2"]
        known = [name for name in ("2", "2+3", "2+3+4", "2+3+4+8") if name in tables] or list(tables.index)
        shown = [f"{tables[name]:.2f} for {name}" for name in known]
        parts.append(f"look-up tables take {', '.join(shown)} mm2 on an array of {arrays['look-up']:.2f} mm2")
    if "bit-serial" in arrays:
        parts.append(f"a bit-serial array takes {arrays['bit-serial']:.2f} mm2 and no tables")
    return "; ".join(parts)
