"""Where a run stands under the roofline: operations per byte, and the share of the bound that was reached.

With M multiply-accumulates, B bytes over the memory buses and t seconds of a phase, peak P MACs/s and W bytes/s:

- arithmetic intensity = M / B; the ridge point, where both peaks take equally long, = P / W;
- the roof at an intensity = min(P, W M / B); attained = M / t, and its share of the roof counts the bytes that
  were moved;
- the share of the bound = bound / cycles counts the bytes that had to be moved (:mod:`hwsim.roofline`), so that
  reading something twice shows.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hwsim.config import NpuConfig
from hwsim.metrics import SimulationResult
from hwsim.plan import DECODE, PHASES, PREFILL_STEP
from hwsim.roofline import phase_bounds
from hwsim.trace import ModelShape, Trace

GB = 1e9


@dataclass(frozen=True, slots=True)
class PhasePosition:
    """One phase under the roof; the module gives the equations.

    Attributes:
        bound_cycles: Null, as its share, in ``pmpd-analytic``, which leaves out bytes that the bound counts.
        side: ``memory`` left of the ridge point, ``matrix`` right of it.
    """

    phase: str
    cycles: int
    macs: int
    dram_bytes: int
    macs_per_byte: float
    macs_per_s: float
    roof_macs_per_s: float
    share_of_roof: float
    bound_cycles: int | None
    share_of_bound: float | None
    side: str


@dataclass(frozen=True, slots=True)
class RooflinePosition:
    """A run under the roof of its NPU.

    Attributes:
        peak_bytes_per_s: Of all memories.
        tokens_per_s_per_gb_per_s: Decoding speed per GB/s of that peak; null without a decode step.
        phases: Prefill and decode, as far as they moved anything.
    """

    clock_hz: float
    peak_macs_per_s: float
    peak_bytes_per_s: float
    ridge_macs_per_byte: float
    tokens_per_s_per_gb_per_s: float | None
    phases: tuple[PhasePosition, ...]

    def to_json_dict(self) -> dict[str, Any]:
        """As JSON values, phases by name."""
        numbers = asdict(self)
        numbers["phases"] = {phase.pop("phase"): phase for phase in numbers["phases"]}
        return numbers


def peak_bytes_per_s(npu: NpuConfig) -> float:
    """Peak bandwidth of all memories."""
    second = npu.second_memory.bandwidth_bytes_per_s if npu.second_memory is not None else 0.0
    return npu.memory.bandwidth_bytes_per_s + second


def roofline_position(npu: NpuConfig, shape: ModelShape, trace: Trace, result: SimulationResult) -> RooflinePosition:
    """Place ``result`` under the roof.

    Args:
        npu: The hardware it was simulated on.
        shape: The model.
        trace: What ran.
        result: Its simulation.
    """
    bandwidth, macs_per_s = peak_bytes_per_s(npu), npu.matrix.macs * npu.clock_hz
    bounds = phase_bounds(npu, shape, trace) if result.mode == "realistic" else {}
    steps, operations = result.columns, result.operations
    phases = []
    for phase, rows in ((PREFILL_STEP, steps.step == PREFILL_STEP), (DECODE, steps.step >= 0)):
        mine = operations[operations["phase"] == PHASES[phase]] if len(operations) else operations
        cycles, size = int(steps.cycles[rows].sum()), int(steps.dram_bytes[rows].sum())
        if not cycles or not size:
            continue
        macs = int(mine["macs"].sum())
        intensity, attained = macs / size, macs * npu.clock_hz / cycles
        roof, bound = min(macs_per_s, bandwidth * intensity), bounds.get(phase)
        phases.append(
            PhasePosition(
                phase=PHASES[phase],
                cycles=cycles,
                macs=macs,
                dram_bytes=size,
                macs_per_byte=intensity,
                macs_per_s=attained,
                roof_macs_per_s=roof,
                share_of_roof=attained / roof,
                bound_cycles=bound,
                share_of_bound=None if bound is None else bound / cycles,
                side="memory" if intensity < macs_per_s / bandwidth else "matrix",
            )
        )
    rate = result.decode_tokens_per_s
    return RooflinePosition(
        clock_hz=npu.clock_hz,
        peak_macs_per_s=macs_per_s,
        peak_bytes_per_s=bandwidth,
        ridge_macs_per_byte=macs_per_s / bandwidth,
        tokens_per_s_per_gb_per_s=None if rate is None else rate / (bandwidth / GB),
        phases=tuple(phases),
    )
