"""From cycles to what a user asks for: seconds, rates, utilisation, joules. The only place that knows seconds.

For n sequences with clock ``f``, prefill cycles ``p_i``, cycles until the first token ``t_i`` and until the last
``e_i`` (both from the start of the sequence's batch, or of the sequence where they run one after another), and
decode steps of ``d_j`` cycles that yield ``y_j`` tokens (1, or the sequences decoding together):

- ``prefill_s`` = mean(p_i) / f, ``ttft_s`` = mean(t_i) / f, ``e2e_s`` = mean(e_i) / f; sampling is part of a
  step, and the learned scheduler's run comes before the first token;
- ``decode_tokens_per_s`` = f sum(y_j) / sum(d_j); ``tpot_s`` = sum(d_j y_j) / sum(y_j) / f, the time between two
  tokens of one sequence; both null without a decode step;
- ``cycles``, ``dram_bytes`` and ``energy_j`` are totals over all sequences;
- utilisation of a unit = its busy cycles / cycles; its busy cycles, its stalls and the cycles in which it was
  ``drained`` (nothing left to do in the step) fill all cycles.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.cost import area_mm2, energy_j
from hwsim.execution import Execution, Part
from hwsim.plan import PHASES, PREFILL_STEP
from hwsim.program import TRAFFIC_FIELDS, Work
from hwsim.units import IntArray

if TYPE_CHECKING:
    import pandas as pd

    from hwsim.config import NpuConfig

STALLING_UNITS = ("dram", "second", "matrix", "sfu")
UNITS = (*STALLING_UNITS, "control")


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
        dram_bytes: Bytes over the memory buses.
    """

    sequence: IntArray
    step: IntArray
    tokens: IntArray
    weight_bits: IntArray
    context: IntArray
    cycles: IntArray
    dram_bytes: IntArray


@dataclass(frozen=True, slots=True)
class SwitchColumns:
    """One entry per change of weight bits within a sequence or batch: what it cost.

    Attributes:
        sequence: As in :class:`StepColumns`.
        step: First decode step at the new width.
        from_bits: Weight bits before.
        to_bits: Weight bits from here on.
        thrown_away_bytes: Prefetched planes and codebooks of the old width that nobody used.
        codebook_bytes: Codebooks read because those on chip were of the old width.
        cycles: Until the next switch, less what the same steps would take had the new width been expected, its
            first tiles prefetched and its codebooks on chip.
    """

    sequence: IntArray
    step: IntArray
    from_bits: IntArray
    to_bits: IntArray
    thrown_away_bytes: IntArray
    codebook_bytes: IntArray
    cycles: IntArray


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation found; see the module for the equations.

    Attributes:
        mode: ``realistic`` or ``pmpd-analytic``; numbers of the two are never mixed.
        model_mismatch: The trace was made with a model of another shape.
        bytes_by_kind: Bytes over the memory bus; they sum to ``dram_bytes``.
        busy_cycles: Per unit.
        stall_cycles: Per unit, cycles waited by reason (:class:`hwsim.events.Stall`), and ``drained``; null where the
            engine knows no reasons.
        switch_cycles: What all changes of weight bits cost; ``switches`` has each.
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
    stall_cycles: dict[str, dict[str, int]] | None
    switch_cycles: int
    events_simulated: int
    events_memoised: int
    columns: StepColumns
    switch_columns: SwitchColumns
    parts: tuple[Part, ...]
    places: IntArray
    met: IntArray

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per step; :class:`StepColumns` describes the columns."""
        return _table(self.columns)

    @cached_property
    def switches(self) -> pd.DataFrame:
        """One row per change of weight bits; :class:`SwitchColumns` describes the columns."""
        return _table(self.switch_columns)

    @cached_property
    def operations(self) -> pd.DataFrame:
        """One row per phase, weight bits and operation: how often it ran, and what it did in all.

        Columns: ``runs``, ``instructions``, ``<kind>_bytes`` for each kind of traffic and their sum ``dram_bytes``,
        ``macs``, and per unit ``<unit>_busy_cycles`` and ``<unit>_stall_cycles`` (missing where unknown).
        """
        import pandas as pd  # noqa: PLC0415 - heavy, and most callers want the totals only

        return pd.DataFrame(_operation_rows(self.parts, tuple(self.busy_cycles)))

    def to_json_dict(self) -> dict[str, Any]:
        """Everything but the tables, as JSON values."""
        tables = {"columns", "switch_columns", "parts", "places", "met"}
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in tables}


def _table(columns: StepColumns | SwitchColumns) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - heavy, and most callers want the totals only

    return pd.DataFrame({field.name: getattr(columns, field.name) for field in fields(columns)})


def _operation_rows(parts: tuple[Part, ...], units: tuple[str, ...]) -> list[dict[str, object]]:
    works: dict[tuple[int, int, str], Work] = {}
    runs: defaultdict[tuple[int, int, str], int] = defaultdict(int)
    stalls: defaultdict[tuple[int, int, str, str], int] = defaultdict(int)
    for part in parts:
        phase, bits = part.kind.phase, part.kind.weight_bits
        for stage, times in part.program.counted_stages():
            if not stage.opcode:
                continue  # a mark, no instruction
            key = phase, bits, stage.name
            works[key] = works.get(key, Work()) + stage.work.times(times).weighted(part.counts)
            runs[key] += times * int(part.counts.sum())
        for (operation, unit, _), cycles in (part.stalls or {}).items():
            stalls[phase, bits, operation, unit] += cycles
    known = all(part.stalls is not None for part in parts)
    rows = []
    for (phase, bits, operation), work in works.items():
        row: dict[str, object] = {"phase": PHASES[phase], "weight_bits": bits, "operation": operation}
        row |= {"runs": runs[phase, bits, operation], "instructions": work.instructions}
        row |= {f"{kind}_bytes": getattr(work, name) for kind, name in TRAFFIC_FIELDS.items()}
        row |= {"dram_bytes": work.dram_bytes, "macs": work.macs}
        for unit in units:
            row[f"{unit}_busy_cycles"] = getattr(work, f"{unit}_busy_cycles")
            if unit in STALLING_UNITS:
                row[f"{unit}_stall_cycles"] = stalls[phase, bits, operation, unit] if known else None
        rows.append(row)
    return rows


def _stall_cycles(parts: tuple[Part, ...], busy: dict[str, int], cycles: int) -> dict[str, dict[str, int]] | None:
    total: dict[str, defaultdict[str, int]] = {unit: defaultdict(int) for unit in busy if unit in STALLING_UNITS}
    for part in parts:
        if part.stalls is None:
            return None
        for (_, unit, reason), waited in part.stalls.items():
            total[unit][reason] += waited
    return {
        unit: {**reasons, "drained": cycles - busy[unit] - sum(reasons.values())} for unit, reasons in total.items()
    }


def step_columns(execution: Execution) -> StepColumns:
    """The step table of an execution."""
    steps = execution.plan.steps
    table = [(one.sequence, one.step, one.yields, one.kind.weight_bits, one.context) for one in steps]
    sequence, step, yields, bits, context = np.array(table, dtype=np.int64).T
    return StepColumns(sequence, step, yields, bits, context, execution.cycles, execution.dram_bytes)


def switch_columns(execution: Execution, expected: Execution | None) -> SwitchColumns:
    """What each switch of an execution cost.

    Args:
        execution: What ran.
        expected: The same plan with every new width expected and its codebooks on chip; null if that is no different.
    """
    plan = execution.plan
    rows = plan.switch_rows
    steps = [plan.steps[row] for row in rows]
    table = [(one.sequence, one.step, one.switched_from, one.kind.weight_bits) for one in steps]
    sequence, step, before, after = np.array(table, dtype=np.int64).reshape(len(rows), 4).T
    nothing = np.zeros(len(rows), dtype=np.int64)
    if expected is None or not rows:
        return SwitchColumns(sequence, step, before, after, nothing, nothing, nothing)
    # A switch's effect may reach beyond its own step, but not beyond the next switch or the end of its batch.
    stops = sorted({*rows, *plan.starts, len(plan.steps)})
    ends = [stops[index] for index in np.searchsorted(stops, rows, side="right")]
    late = np.concatenate([[0], np.cumsum(execution.cycles - expected.cycles)])
    codebook_bytes = (execution.codebook_bytes - expected.codebook_bytes)[rows]
    cycles = late[ends] - late[rows]
    return SwitchColumns(sequence, step, before, after, execution.thrown_away_bytes[rows], codebook_bytes, cycles)


def summarise(
    npu: NpuConfig,
    *,
    model: str,
    mode: str,
    engine: str,
    model_mismatch: bool,
    execution: Execution,
    expected: Execution | None,
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
        expected: As in :func:`switch_columns`.
        mean_decode_bits: Over all decode steps of all sequences; null without one.
        events: Simulated and memoised events.
    """
    columns, work, plan = step_columns(execution), execution.work, execution.plan
    clock = np.concatenate([[0], np.cumsum(columns.cycles)])
    began = clock[list(plan.start_rows)]
    first_token = clock[np.array(plan.first_token_rows) + 1] - began
    end = clock[np.array(plan.end_rows) + 1] - began
    switches = switch_columns(execution, expected)
    prefill, decode = columns.step == PREFILL_STEP, columns.step >= 0
    sequences, tokens = int(prefill.sum()), int(columns.tokens[decode].sum())
    decode_cycles = columns.cycles[decode]
    cycles = int(columns.cycles.sum())
    token_cycles = int((decode_cycles * columns.tokens[decode]).sum())
    units = [unit for unit in UNITS if unit != "second" or npu.second_memory is not None]
    busy = {unit: int(getattr(work, f"{unit}_busy_cycles")) for unit in units}
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
        ttft_s=float(first_token.mean()) / npu.clock_hz,
        tpot_s=token_cycles / tokens / npu.clock_hz if tokens else None,
        decode_tokens_per_s=tokens / (int(decode_cycles.sum()) / npu.clock_hz) if tokens else None,
        e2e_s=float(end.mean()) / npu.clock_hz,
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
        stall_cycles=_stall_cycles(execution.parts, busy, cycles),
        switch_cycles=int(switches.cycles.sum()),
        events_simulated=events[0],
        events_memoised=events[1],
        columns=columns,
        switch_columns=switches,
        parts=execution.parts,
        places=execution.places,
        met=execution.met,
    )
