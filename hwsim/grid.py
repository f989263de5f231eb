"""Many NPUs times many schedules at once, for one prompt and response length, and single steps on many NPUs.

The numbers equal those of :func:`hwsim.simulate` for each pair; where steps depend on each other (prefetches, resident
codebooks) each pair is simulated on its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.checks import check_widths
from hwsim.config import NpuConfig
from hwsim.cost import area_mm2, static_power_w, work_energy_j
from hwsim.npu_table import NpuTable
from hwsim.plan import DECODE, StepKind
from hwsim.simulation import SimulationOptions, simulate
from hwsim.stacked_steps import NpuStacks, StackedSteps, StepKey, is_separable
from hwsim.trace import InputError, ModelShape, Schedule, TraceHeader, synthetic_trace
from hwsim.trace_grid import TraceCounts, evaluate_traces
from hwsim.units import IntArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class GridResult:
    """One row per NPU, one column per schedule; :mod:`hwsim.metrics` gives the equations.

    ``decode_tokens_per_s`` is NaN without a decode step. ``energy_j`` is work plus static energy.
    """

    npus: tuple[NpuConfig, ...]
    schedules: tuple[Schedule, ...]
    prefill_cycles: IntArray
    decode_cycles: IntArray
    dram_bytes: IntArray
    prefill_s: FloatArray
    decode_tokens_per_s: FloatArray
    e2e_s: FloatArray
    energy_j: FloatArray
    area_mm2: FloatArray


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What single steps cost, ``[NPUs, steps]`` each; ``work_j`` is energy but for the static part."""

    cycles: IntArray
    dram_bytes: IntArray
    work_j: FloatArray


def evaluate_steps(
    npus: Sequence[NpuConfig], shape: ModelShape, header: TraceHeader, steps: Sequence[tuple[StepKind, int]]
) -> StepCosts:
    """Run single steps on many NPUs, each step from a drained NPU.

    Args:
        npus: Each :func:`is_separable`.
        shape: The model.
        header: Bits of everything but the weights.
        steps: Kind of each step, of one sequence and with no codebook on chip, and its prompt or cached tokens.

    Raises:
        InputError: If a buffer of any of the NPUs is too small for one tile.
    """
    table = NpuTable.of(npus)
    stacked = StackedSteps(NpuStacks(table), shape, header)
    cycles = np.zeros((len(npus), len(steps)), dtype=np.int64)
    sizes, energies = np.zeros_like(cycles), np.zeros(cycles.shape)
    columns: defaultdict[StepKey, list[int]] = defaultdict(list)
    for column, (kind, tokens) in enumerate(steps):
        columns[StepKey(kind.phase, kind.weight_bits, 0 if kind.phase == DECODE else tokens)].append(column)
    for rows in stacked.stacks:
        for key, chosen in columns.items():
            tokens_of = np.array([steps[column][1] for column in chosen])
            tokens_of = tokens_of if key.phase == DECODE else tokens_of[:1]
            taken = stacked.cycles(key, tokens_of, rows)
            # Where a step cannot run, asking for its work says why.
            work = stacked.work(key, tokens_of, int(rows[np.argmin(taken[:, 0])]))
            place = np.ix_(rows, np.array(chosen))
            cycles[place], sizes[place] = taken, work.dram_bytes
            for row in rows.tolist():
                energies[row, chosen] = sum(work_energy_j(npus[row], work).values())
    return StepCosts(cycles, sizes, energies)


def evaluate_grid(
    npus: Sequence[NpuConfig],
    shape: ModelShape,
    schedules: Sequence[Schedule],
    *,
    prompt_tokens: int,
    decode_tokens: int,
    activation_bits: int = 8,
    kv_bits: int = 16,
    lm_head_bits: int = 16,
) -> GridResult:
    """Evaluate every schedule on every NPU for one prompt and response length.

    Args:
        npus: Any NPUs; fastest where they differ in array, lookups, lanes, bandwidth, weight and codebook buffer.
        shape: The model.
        schedules: Any schedules.
        prompt_tokens: Prompt length.
        decode_tokens: Decode steps.
        activation_bits: Bits of an activation.
        kv_bits: Bits of a stored key or value.
        lm_head_bits: Bits of an lm_head weight.

    Raises:
        InputError: As :func:`hwsim.simulate` does, for the first pair that cannot run.
    """
    if not npus or not schedules:
        raise InputError(f"grid of {len(npus)} NPUs and {len(schedules)} schedules: both must be >= 1")
    widths = {bits for schedule in schedules for bits in schedule.widths()}
    for npu in npus:
        check_widths(npu, widths)  # an array without a width need not say how fast it would look it up
    traces = [
        synthetic_trace(
            shape,
            schedule,
            prompt_tokens=prompt_tokens,
            decode_tokens=decode_tokens,
            activation_bits=activation_bits,
            kv_bits=kv_bits,
            lm_head_bits=lm_head_bits,
        )
        for schedule in schedules
    ]
    prefill_cycles, decode_cycles, dram_bytes = np.zeros((3, len(npus), len(schedules)), dtype=np.int64)
    work_j = np.zeros(prefill_cycles.shape)
    stacked = [row for row, npu in enumerate(npus) if is_separable(npu)]
    alone = {(row, column) for row in range(len(npus)) for column in range(len(schedules))}
    if stacked:
        found = evaluate_traces(
            NpuTable.of([npus[row] for row in stacked]), shape, [TraceCounts.of(trace) for trace in traces]
        )
        prefill_cycles[stacked], decode_cycles[stacked] = found.prefill_cycles, found.decode_cycles
        dram_bytes[stacked], work_j[stacked] = found.dram_bytes, found.work_j
        alone -= {(stacked[row], column) for row, column in np.argwhere(found.runs).tolist()}
    # Pairs whose steps depend on each other, and those that cannot run: simulating one says why.
    for row, column in sorted(alone):
        result = simulate(npus[row], shape, traces[column], SimulationOptions(engine="fast"))
        prefill_cycles[row, column] = result.columns.cycles[0]
        decode_cycles[row, column] = result.cycles - result.columns.cycles[0]
        dram_bytes[row, column] = result.dram_bytes
        work_j[row, column] = result.energy_j - result.energy_by_component_j["static"]
    clock_hz = np.array([[npu.clock_hz] for npu in npus])
    static_w = np.array([[static_power_w(npu)] for npu in npus])
    e2e_s = (prefill_cycles + decode_cycles) / clock_hz
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(decode_cycles > 0, decode_tokens / (decode_cycles / clock_hz), np.nan)
    return GridResult(
        npus=tuple(npus),
        schedules=tuple(schedules),
        prefill_cycles=prefill_cycles,
        decode_cycles=decode_cycles,
        dram_bytes=dram_bytes,
        prefill_s=prefill_cycles / clock_hz,
        decode_tokens_per_s=rate,
        e2e_s=e2e_s,
        energy_j=work_j + static_w * e2e_s,
        area_mm2=np.array([sum(area_mm2(npu).values()) for npu in npus]),
    )
