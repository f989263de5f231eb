"""From cycles to what a user asks for: seconds, rates, utilisation, joules. The only place that knows seconds.

For n sequences with clock ``f``, prefill cycles ``p_i``, cycles until the first token ``t_i`` and until the last
``e_i`` (both from the start of the sequence's batch, or of the sequence where they run one after another), and
decode steps of ``d_j`` cycles that yield ``y_j`` tokens (1, or the sequences decoding together):

- ``prefill_s`` = mean(p_i) / f, ``ttft_s`` = mean(t_i) / f, ``e2e_s`` = mean(e_i) / f; sampling is part of a
  step, and the learned scheduler's run comes before the first token;
- ``decode_tokens_per_s`` = f sum(y_j) / sum(d_j); ``tpot_s`` = sum(d_j y_j) / sum(y_j) / f, the time between two
  tokens of one sequence; both null without a decode step;
- ``cycles``, ``dram_bytes`` and ``energy_j`` are totals over all sequences;
- utilisation of a unit = its busy cycles / cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hwsim.cost import area_mm2, energy_j
from hwsim.program import TRAFFIC_FIELDS, Work
from hwsim.units import IntArray

if TYPE_CHECKING:
    import pandas as pd

    from hwsim.config import NpuConfig

UNITS = ("dram", "matrix", "sfu", "control")
PREFILL_STEP = -1
SCHEDULER_STEP = -2


@dataclass(frozen=True, slots=True)
class StepColumns:
    """One entry per step in execution order.

    Attributes:
        sequence: Index in the trace; for a batch, of its first sequence still decoding.
        step: Decode step, -1 for a prefill, or -2 for the learned scheduler's run behind it.
        tokens: Tokens the step yields: 1, or the sequences decoding together, or none (the scheduler).
        weight_bits: Highest width read.
        context: Prompt tokens of a prefill or the scheduler; cached tokens of a decode step, summed over a batch.
        cycles: From start until all units are drained.
        dram_bytes: Bytes over the memory bus.
    """

    sequence: IntArray
    step: IntArray
    tokens: IntArray
    weight_bits: IntArray
    context: IntArray
    cycles: IntArray
    dram_bytes: IntArray


@dataclass(frozen=True, slots=True)
class Execution:
    """What ran: steps, their total work, and when each sequence had its first and its last token."""

    columns: StepColumns
    work: Work
    first_token_cycles: IntArray
    end_cycles: IntArray


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
        """One row per step; :class:`StepColumns` describes the columns."""
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
    execution: Execution,
    mean_decode_bits: float | None,
    events: tuple[int, int],
) -> SimulationResult:
    """Turn cycles per step and total work into a result.

    Args:
        npu: The hardware.
        model: Name of the simulated shape.
        mode: Modelling mode.
        engine: Engine that found the cycles.
        model_mismatch: Whether the trace belongs to another shape.
        execution: What ran.
        mean_decode_bits: Over all decode steps of all sequences; null without one.
        events: Simulated and memoised events.
    """
    columns, work = execution.columns, execution.work
    prefill, decode = columns.step == PREFILL_STEP, columns.step >= 0
    sequences, tokens = int(prefill.sum()), int(columns.tokens[decode].sum())
    decode_cycles = columns.cycles[decode]
    cycles = int(columns.cycles.sum())
    token_cycles = int((decode_cycles * columns.tokens[decode]).sum())
    busy = {unit: int(getattr(work, f"{unit}_busy_cycles")) for unit in UNITS}
    energy, area = energy_j(npu, work, cycles / npu.clock_hz), area_mm2(npu)
    return SimulationResult(
        npu=npu.name,
        model=model,
        mode=mode,
        engine=engine,
        model_mismatch=model_mismatch,
        sequences=sequences,
        decode_steps=tokens,
        mean_decode_bits=mean_decode_bits,
        prefill_s=float(columns.cycles[prefill].mean()) / npu.clock_hz,
        ttft_s=float(execution.first_token_cycles.mean()) / npu.clock_hz,
        tpot_s=token_cycles / tokens / npu.clock_hz if tokens else None,
        decode_tokens_per_s=tokens / (int(decode_cycles.sum()) / npu.clock_hz) if tokens else None,
        e2e_s=float(execution.end_cycles.mean()) / npu.clock_hz,
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
