"""Many NPUs times many schedules at once, by the fast engine: what an exact exploration needs.

Steps are separable, so a schedule's decode time is a sum over its segments of one table: cycles by NPU, width and
step. The table is computed once for all schedules, and at once for all NPUs that differ in array, lookups, lanes,
bandwidth, weight and codebook buffer only; each schedule then costs one difference of prefix sums per segment.
Where steps depend on each other (prefetches, resident codebooks) each pair is simulated on its own. The numbers equal
those of :func:`hwsim.simulate` for each pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hwsim.checks import check_fit, step_precision
from hwsim.config import NpuConfig
from hwsim.cost import area_mm2, static_power_w, work_energy_j
from hwsim.fast import run_program
from hwsim.lowering import Lowering
from hwsim.plan import DECODE, PREFILL_STEP, SCHEDULER_STEP, StepKind
from hwsim.precision import Precision
from hwsim.service import Services, build_services, stack_services, stacking_key
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, ModelShape, Schedule, Trace, TraceHeader, synthetic_trace
from hwsim.units import Amount, IntArray
from hwsim.workload import Step, decode_step, learned_scheduler_step, prefill_step

FloatArray = NDArray[np.float64]
LANES_AT_ONCE = 1 << 14  # NPUs times steps whose states stay in cache together

StepOf = Callable[[ModelShape, Precision, Amount], Step]
_STEP_OF: dict[int, StepOf] = {
    PREFILL_STEP: prefill_step,
    SCHEDULER_STEP: learned_scheduler_step,
    DECODE: decode_step,
}


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


@dataclass(frozen=True, slots=True)
class _Totals:
    """What an evaluation adds up, ``[NPUs, schedules]``."""

    prefill_cycles: IntArray
    decode_cycles: IntArray
    dram_bytes: IntArray
    work_j: FloatArray

    @classmethod
    def zeros(cls, size: tuple[int, int]) -> _Totals:
        """Nothing yet."""
        prefill, decode, moved = np.zeros((3, *size), dtype=np.int64)
        return cls(prefill, decode, moved, np.zeros(size))

    def fill(self, rows: Sequence[int], part: _Totals) -> None:
        """Put in what some NPUs make."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Prefix sums over consecutive steps, ``[NPUs, steps + 1]``; column ``i`` covers the steps before ``first + i``."""

    first: int
    cycles: IntArray
    bytes: IntArray
    work_j: FloatArray


@dataclass(frozen=True, slots=True)
class _Request:
    """What all schedules of one evaluation share.

    Attributes:
        groups: Rows of NPUs that can be stacked, with their services.
    """

    shape: ModelShape
    header: TraceHeader
    prompt_tokens: int
    npus: tuple[NpuConfig, ...]
    groups: tuple[tuple[tuple[int, Services], ...], ...]

    def totals(self, schedules: Sequence[Schedule], decode_tokens: int) -> _Totals:
        """Add up every schedule's segments."""
        ranges = _width_ranges(schedules, decode_tokens)
        prefills = {bits: self.prefill(bits) for bits in sorted({one.prefill_weight_bits for one in schedules})}
        tables = {bits: self.sums(bits, *span) for bits, span in sorted(ranges.items())}
        found = _Totals.zeros((len(self.npus), len(schedules)))
        for column, schedule in enumerate(schedules):
            cycles, moved, work_j = prefills[schedule.prefill_weight_bits]
            found.prefill_cycles[:, column] = cycles
            found.dram_bytes[:, column] = moved
            found.work_j[:, column] = work_j
            start = 0
            for bits, count in schedule.runs(decode_tokens):
                table = tables[bits]
                low, high = start - table.first, start - table.first + count
                found.decode_cycles[:, column] += table.cycles[:, high] - table.cycles[:, low]
                found.dram_bytes[:, column] += table.bytes[:, high] - table.bytes[:, low]
                found.work_j[:, column] += table.work_j[:, high] - table.work_j[:, low]
                start += count
        return found

    def sums(self, bits: int, first: int, end: int) -> _Sums:
        """Decode steps ``first`` to ``end - 1`` at one width."""
        cached = np.arange(self.prompt_tokens + first, self.prompt_tokens + end)
        cycles, sizes, energies = self.run(bits, decode_step, cached)

        def prefix(values: Amount) -> Amount:
            return np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(values, axis=1)], axis=1)

        return _Sums(first, prefix(cycles), prefix(sizes), prefix(energies))

    def prefill(self, bits: int) -> tuple[IntArray, IntArray, FloatArray]:
        """Cycles, bytes and work energy of the prefill, ``[NPUs]`` each."""
        cycles, sizes, energies = self.run(bits, prefill_step, self.prompt_tokens)
        return cycles[:, 0], sizes[:, 0], energies[:, 0]

    def run(self, bits: int, step_of: StepOf, tokens: Amount) -> tuple[IntArray, IntArray, FloatArray]:
        """Cycles, bytes and work energy ``[NPUs, steps]``, chunk by chunk of NPUs that can be stacked."""
        steps = np.size(tokens)
        cycles = np.zeros((len(self.npus), steps), dtype=np.int64)
        sizes, energies = np.zeros_like(cycles), np.zeros(cycles.shape)
        chunk = max(1, LANES_AT_ONCE // steps)
        for members in self.groups:
            for start in range(0, len(members), chunk):
                part = members[start : start + chunk]
                rows = [index for index, _ in part]
                precision = step_precision(self.npus[rows[0]], self.header, bits)
                lowering = Lowering(stack_services([one for _, one in part]), precision, self.shape.hidden_size)
                program = lowering.program(step_of(self.shape, precision, tokens))
                work = program.work()
                cycles[rows] = run_program(program, (len(rows), steps))
                sizes[rows] = work.dram_bytes
                # Stacked NPUs do the same work; its energy differs with their technology only.
                technologies = {row: (self.npus[row].cost, self.npus[row].second_memory) for row in rows}
                for technology in set(technologies.values()):
                    same = [row for row in rows if technologies[row] == technology]
                    energies[same] = sum(work_energy_j(self.npus[same[0]], work).values())
        return cycles, sizes, energies


def _group(npus: Sequence[NpuConfig]) -> tuple[tuple[tuple[int, Services], ...], ...]:
    groups: defaultdict[object, list[tuple[int, Services]]] = defaultdict(list)
    for index, npu in enumerate(npus):
        services = build_services(npu)
        groups[stacking_key(services)].append((index, services))
    return tuple(tuple(members) for members in groups.values())


def is_separable(npu: NpuConfig) -> bool:
    """Whether a step costs the same whatever the step before was."""
    return npu.control.prefetch == "none" and not npu.buffers.resident_codebook_kib


def _simulated(npu: NpuConfig, shape: ModelShape, traces: Sequence[Trace]) -> _Totals:
    """Totals ``[1, schedules]`` of an NPU whose steps depend on each other."""
    found = _Totals.zeros((1, len(traces)))
    for column, trace in enumerate(traces):
        result = simulate(npu, shape, trace, SimulationOptions(engine="fast"))
        prefill_cycles = result.columns.cycles[0]
        found.prefill_cycles[0, column] = prefill_cycles
        found.decode_cycles[0, column] = result.cycles - prefill_cycles
        found.dram_bytes[0, column] = result.dram_bytes
        found.work_j[0, column] = result.energy_j - result.energy_by_component_j["static"]
    return found


def _width_ranges(schedules: Sequence[Schedule], decode_tokens: int) -> dict[int, tuple[int, int]]:
    """First and one past the last step at which any schedule uses a width."""
    ranges: dict[int, tuple[int, int]] = {}
    for schedule in schedules:
        start = 0
        for bits, count in schedule.runs(decode_tokens):
            first, end = ranges.get(bits, (start, start))
            ranges[bits] = min(first, start), max(end, start + count)
            start += count
    return ranges


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
    request = _Request(shape, header, 0, tuple(npus), _group(npus))
    cycles = np.zeros((len(npus), len(steps)), dtype=np.int64)
    sizes, energies = np.zeros_like(cycles), np.zeros(cycles.shape)
    columns: defaultdict[tuple[StepKind, int | None], list[int]] = defaultdict(list)
    for column, (kind, tokens) in enumerate(steps):
        columns[kind, None if kind.phase == DECODE else tokens].append(column)
    for (kind, same), chosen in columns.items():
        cached: Amount = np.array([steps[column][1] for column in chosen]) if same is None else same
        found = request.run(kind.weight_bits, _STEP_OF[kind.phase], cached)
        cycles[:, chosen], sizes[:, chosen], energies[:, chosen] = found
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
    bits = {"activation_bits": activation_bits, "kv_bits": kv_bits, "lm_head_bits": lm_head_bits}
    lengths = {"prompt_tokens": prompt_tokens, "decode_tokens": decode_tokens}
    header = synthetic_trace(shape, schedules[0], **lengths, **bits).header
    for widths in {frozenset(schedule.widths()) for schedule in schedules}:
        for npu in npus:
            precision = step_precision(npu, header, max(widths))
            check_fit(npu, shape, header, set(widths), precision.cache_tokens(prompt_tokens, decode_tokens))
    totals = _Totals.zeros((len(npus), len(schedules)))
    separable = [row for row, npu in enumerate(npus) if is_separable(npu)]
    if separable:
        chosen = tuple(npus[row] for row in separable)
        request = _Request(shape, header, prompt_tokens, chosen, _group(chosen))
        totals.fill(separable, request.totals(schedules, decode_tokens))
    for row in sorted(set(range(len(npus))) - set(separable)):
        traces = [synthetic_trace(shape, schedule, **lengths, **bits) for schedule in schedules]
        totals.fill([row], _simulated(npus[row], shape, traces))
    clock_hz = np.array([[npu.clock_hz] for npu in npus])
    static_w = np.array([[static_power_w(npu)] for npu in npus])
    e2e_s = (totals.prefill_cycles + totals.decode_cycles) / clock_hz
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(totals.decode_cycles > 0, decode_tokens / (totals.decode_cycles / clock_hz), np.nan)
    return GridResult(
        npus=tuple(npus),
        schedules=tuple(schedules),
        prefill_cycles=totals.prefill_cycles,
        decode_cycles=totals.decode_cycles,
        dram_bytes=totals.dram_bytes,
        prefill_s=totals.prefill_cycles / clock_hz,
        decode_tokens_per_s=rate,
        e2e_s=e2e_s,
        energy_j=totals.work_j + static_w * e2e_s,
        area_mm2=np.array([sum(area_mm2(npu).values()) for npu in npus]),
    )
