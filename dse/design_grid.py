"""Candidates evaluated many at once by hwsim's grid, with the numbers that simulating each one gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.candidates import INACTIVE, Candidates
from dse.objective import WorkloadCost, combine
from hwsim.analytic import AnalyticSteps
from hwsim.cost import total_areas_mm2
from hwsim.npu_table import NpuTable, load_npus
from hwsim.stacked_steps import is_separable
from hwsim.trace_grid import TraceCounts, evaluate_traces

if TYPE_CHECKING:
    from dse.simulator import LoadedWorkload, Simulator
    from hwsim.trace import Trace

PAIRS_AT_ONCE = 1 << 20
"""Pairs of NPU and schedule whose numbers are held at the same time."""

Rows = NDArray[np.intp]
Metrics = dict[str, NDArray[np.float64]]


class DesignGrid:
    """What a simulator can say of many designs at once.

    Args:
        simulator: Whose NPU, workloads, mode and combination are used.
        candidates: The designs.

    Attributes:
        table: Their NPUs.
        schedule_index: Which schedule each design runs, ``[designs]``.
        area_mm2: Of each NPU, ``[NPUs]``.
        static_w: Static power of each NPU, ``[NPUs]``.
        npu: Which of them each design has, ``[designs]``.
        valid: Which designs' NPUs keep hwsim's contract, ``[designs]``.
        gridded: Which designs can be evaluated here, ``[designs]``: on the others a step depends on the step before,
            or runs several sequences.
        slow: NPUs whose every step has to be run, since their compiler searches tiles step by step, ``[NPUs]``.
    """

    def __init__(self, simulator: Simulator, candidates: Candidates) -> None:
        self._simulator = simulator
        self._candidates = candidates
        self.schedule_index = candidates.schedule_index
        first, self.npu = candidates.distinct()
        codes = {path: column[first].astype(np.int64) for path, column in candidates.codes.items()}
        self.table, valid = load_npus(simulator.npu_source, candidates.values, codes, len(first))
        self.area_mm2 = total_areas_mm2(self.table)
        self.static_w = self.table.gather(lambda npu: npu.cost.static_w_per_mm2, "cost") * self.area_mm2
        self.bandwidth_bytes_per_s = self.table.gather(lambda npu: npu.memory.bandwidth_bytes_per_s, "memory")
        self.valid = valid[self.npu]
        self._counts: dict[tuple[int, int], TraceCounts] = {}
        loads = simulator.workloads
        batched = {
            number: any(self.trace(index, number).header.execution == "batched" for index in range(len(loads)))
            for number in np.unique(candidates.schedule_index).tolist()
        }
        separable, self.slow = np.full(len(self.table), True), np.full(len(self.table), False)
        if simulator.mode == "realistic":
            self.slow = self.table.gather(lambda npu: npu.control.tiling == "search", "control")
            separable = self.table.gather(is_separable, "control", "buffers")
        alone = np.array([batched.get(number, False) for number in range(INACTIVE, max(batched) + 1)])
        self.gridded = self.valid & separable[self.npu] & ~alone[candidates.schedule_index - INACTIVE]

    def trace(self, workload: int, schedule: int) -> Trace:
        """What a workload runs under the schedule of a number."""
        candidates = self._candidates
        plan = None if schedule == INACTIVE else candidates.schedules[candidates.labels[schedule]]
        return self._simulator.workloads[workload].trace(plan)

    def exact(self, rows: Rows) -> Metrics:
        """Metrics that need no simulation, ``[rows]`` each."""
        npus = self.npu[rows]
        return {"area_mm2": self.area_mm2[npus], "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s[npus]}

    def metrics(self, rows: Rows, samples: int | None = None) -> Metrics:
        """Metrics of some designs that are ``gridded``, quality aside.

        Args:
            rows: Indices into the candidates.
            samples: Steps of each width that are run, for optimistic metrics; null: all, for exact ones.

        Returns:
            ``[rows]`` each; NaN where the NPU cannot run the design.
        """
        numbers, column = np.unique(self._candidates.schedule_index[rows], return_inverse=True)
        npus, row = np.unique(self.npu[rows], return_inverse=True)
        at_once = max(1, PAIRS_AT_ONCE // len(numbers))
        parts: list[Metrics] = []
        places: list[Rows] = []
        for start in range(0, len(npus), at_once):
            place = np.flatnonzero((row >= start) & (row < start + at_once))
            chosen = npus[start : start + at_once]
            pairs = row[place] - start, column[place]
            parts.append(self._pairs(chosen, numbers.tolist(), pairs, samples) | self.exact(rows[place]))
            places.append(place)
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate(places))
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}

    def _pairs(self, npus: Rows, numbers: Sequence[int], pairs: tuple[Rows, Rows], samples: int | None) -> Metrics:
        table = self.table.take(npus)
        costs = []
        runs = np.ones(len(pairs[0]), dtype=bool)
        clock_hz = table.gather(lambda npu: npu.clock_hz, "clock_hz")
        for index, load in enumerate(self._simulator.workloads):
            counts = [self._trace_counts(index, number) for number in numbers]
            totals = self._totals(table, load, counts, pairs, samples)
            runs &= totals.pop("runs").astype(bool)
            costs.append(_cost(load, [one.trace for one in counts], totals, pairs, (clock_hz, self.static_w[npus])))
        with np.errstate(divide="ignore", invalid="ignore"):  # what cannot run took no time
            found = combine(costs, self._simulator.aggregate)
        return {name: np.where(runs, values, np.nan) for name, values in found.items()}

    def _trace_counts(self, index: int, number: int) -> TraceCounts:
        key = index, number
        if key not in self._counts:
            self._counts[key] = TraceCounts.of(self.trace(index, number))
        return self._counts[key]

    def _totals(
        self,
        table: NpuTable,
        load: LoadedWorkload,
        counts: Sequence[TraceCounts],
        pairs: tuple[Rows, Rows],
        samples: int | None,
    ) -> dict[str, NDArray[Any]]:
        """Totals of each pair; traces that differ in the bits of anything but the weights are run apart."""
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, one in enumerate(counts):
            header = one.trace.header
            alike[header.activation_bits, header.kv_bits, header.lm_head_bits].append(place)
        found: dict[str, NDArray[Any]] = {}
        for places in alike.values():
            steps = AnalyticSteps(table, load.shape) if self._simulator.mode == "pmpd-analytic" else None
            grid = evaluate_traces(table, load.shape, [counts[place] for place in places], steps=steps, samples=samples)
            mine = np.flatnonzero(np.isin(pairs[1], places))
            column = np.searchsorted(places, pairs[1][mine])
            for name, values in vars(grid).items():
                found.setdefault(name, np.zeros(len(pairs[0]), dtype=values.dtype))[mine] = values[
                    pairs[0][mine], column
                ]
        return found


def trace_numbers(traces: Sequence[Trace]) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Sequences, decode steps and mean decode bits of each trace."""
    return (
        np.array([len(trace.sequences) for trace in traces]),
        np.array([trace.decode_steps() for trace in traces]),
        np.array([trace.mean_decode_bits() for trace in traces]),
    )


def _cost(
    load: LoadedWorkload,
    traces: Sequence[Trace],
    totals: Mapping[str, NDArray[Any]],
    pairs: tuple[Rows, Rows],
    physics: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> WorkloadCost:
    """One workload's cost for each pair, by the equations of :mod:`hwsim.metrics` and in their order."""
    clock_hz, static_w = (values[pairs[0]] for values in physics)
    sequences, steps, bits = (values[pairs[1]] for values in trace_numbers(traces))
    first_token_cycles = totals["prefill_cycles"] + totals["scheduler_cycles"]
    cycles = first_token_cycles + totals["decode_cycles"]
    energy_j = totals["work_j"] + static_w * (cycles / clock_hz)
    return WorkloadCost(
        weight=load.load.weight,
        decode_steps=steps / sequences,
        decode_s=steps / sequences * (totals["decode_cycles"] / steps / clock_hz),
        ttft_s=first_token_cycles / sequences / clock_hz,
        e2e_s=cycles / sequences / clock_hz,
        energy_j=energy_j / sequences,
        dram_bytes=totals["dram_bytes"] / sequences,
        mean_decode_bits=bits,
    )
