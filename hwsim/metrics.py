"""From cycles to what a user asks for: seconds, rates, utilisation, joules. The only place that knows seconds.

For n sequences with prefill cycles ``p_i``, decode cycles ``d_ij`` over ``S_i`` steps and clock ``f``:

- ``prefill_s`` = mean(p_i) / f; ``ttft_s`` is the same plus what runs before the first token is given out
  (sampling is part of the prefill);
- ``tpot_s`` = sum(d_ij) / sum(S_i) / f and ``decode_tokens_per_s`` its inverse; both null without a decode step;
- ``e2e_s`` = (sum(p_i) + sum(d_ij)) / n / f;
- ``cycles``, ``dram_bytes`` and ``energy_j`` are totals over all sequences;
- utilisation of a unit = its busy cycles / cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.cost import area_mm2, energy_j
from hwsim.program import TRAFFIC_FIELDS, Work
from hwsim.units import IntArray

if TYPE_CHECKING:
    import pandas as pd

    from hwsim.config import NpuConfig

UNITS = ("dram", "matrix", "sfu", "control")
PREFILL_STEP = -1


@dataclass(frozen=True, slots=True)
class StepColumns:
    """One entry per step in execution order; ``step`` is -1 for a prefill."""

    sequence: IntArray
    step: IntArray
    weight_bits: IntArray
    context: IntArray
    cycles: IntArray
    dram_bytes: IntArray


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation found; see the module for the equations.

    Attributes:
        mode: ``realistic`` or ``pmpd-analytic``; numbers of the two are never mixed.
        model_mismatch: The trace was made with a model of another shape.
        bytes_by_kind: Bytes over the memory bus; they sum to ``dram_bytes``.
        busy_cycles: Per unit.
        events_simulated: SimPy events processed (0 where no event engine ran).
        events_memoised: Events whose result was taken from an equal earlier run.
    """

    npu: str
    model: str
    mode: str
    engine: str
    model_mismatch: bool
    sequences: int
    decode_steps: int
    mean_decode_bits: float | None
    prefill_s: float
    ttft_s: float
    tpot_s: float | None
    decode_tokens_per_s: float | None
    e2e_s: float
    cycles: int
    dram_bytes: int
    bytes_by_kind: dict[str, int]
    macs: int
    energy_j: float
    energy_by_component_j: dict[str, float]
    area_mm2: float
    area_by_component_mm2: dict[str, float]
    busy_cycles: dict[str, int]
    utilisation: dict[str, float]
    events_simulated: int
    events_memoised: int
    columns: StepColumns

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per step: sequence, step (-1: prefill), weight_bits, context, cycles, dram_bytes."""
        import pandas as pd  # noqa: PLC0415 - heavy, and most callers want the totals only

        return pd.DataFrame({name: getattr(self.columns, name) for name in StepColumns.__slots__})

    def to_json_dict(self) -> dict[str, Any]:
        """Everything but the per-step table, as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "columns"}


def summarise(
    npu: NpuConfig,
    *,
    model: str,
    mode: str,
    engine: str,
    model_mismatch: bool,
    columns: StepColumns,
    work: Work,
    events: tuple[int, int],
) -> SimulationResult:
    """Turn cycles per step and total work into a result.

    Args:
        npu: The hardware.
        model: Name of the simulated shape.
        mode: Modelling mode.
        engine: Engine that found the cycles.
        model_mismatch: Whether the trace belongs to another shape.
        columns: One entry per step.
        work: Total work of all steps, integer fields only.
        events: Simulated and memoised events.
    """
    prefill = columns.step == PREFILL_STEP
    sequences, steps = int(prefill.sum()), int((~prefill).sum())
    cycles = int(columns.cycles.sum())
    prefill_s = int(columns.cycles[prefill].sum()) / sequences / npu.clock_hz
    decode_s = int(columns.cycles[~prefill].sum()) / npu.clock_hz
    busy = {unit: int(getattr(work, f"{unit}_busy_cycles")) for unit in UNITS}
    energy, area = energy_j(npu, work, cycles / npu.clock_hz), area_mm2(npu)
    return SimulationResult(
        npu=npu.name,
        model=model,
        mode=mode,
        engine=engine,
        model_mismatch=model_mismatch,
        sequences=sequences,
        decode_steps=steps,
        mean_decode_bits=float(np.mean(columns.weight_bits[~prefill])) if steps else None,
        prefill_s=prefill_s,
        ttft_s=prefill_s,
        tpot_s=decode_s / steps if steps else None,
        decode_tokens_per_s=steps / decode_s if steps else None,
        e2e_s=cycles / sequences / npu.clock_hz,
        cycles=cycles,
        dram_bytes=int(work.dram_bytes),
        bytes_by_kind={kind: int(getattr(work, name)) for kind, name in TRAFFIC_FIELDS.items()},
        macs=int(work.macs),
        energy_j=sum(energy.values()),
        energy_by_component_j=energy,
        area_mm2=sum(area.values()),
        area_by_component_mm2=area,
        busy_cycles=busy,
        utilisation={unit: value / cycles if cycles else 0.0 for unit, value in busy.items()},
        events_simulated=events[0],
        events_memoised=events[1],
        columns=columns,
    )
