"""Optimistic metrics of a design without simulating it: bytes over peak bandwidth, MACs over the array.

Every number here is at least as good as the simulator's, which hwsim's roofline property guarantees: steps
take at least max(bytes / peak bandwidth, MACs / array), move at least the bytes of their weights,
codebooks and cache, and spend at least their energy and the leakage of that time. Area, bandwidth and
mean bits are exact. A design that is beaten even with these numbers need not be simulated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dse.objective import METRICS, QUALITY_METRICS, WorkloadCost, combine
from dse.study import Constraint, Objective

if TYPE_CHECKING:
    from dse.candidates import Candidates
    from dse.design_grid import DesignGrid
    from dse.simulator import LoadedWorkload, Simulator
    from dse.space import Design
    from hwsim import NpuConfig
    from hwsim.precision import Precision
    from hwsim.trace import Trace

EXACT_METRICS = frozenset({"area_mm2", "bandwidth_bytes_per_s", "mean_decode_bits"})
"""Metrics whose bound is their value."""

_WANTED = {">=": "maximize", "<=": "minimize"}


def is_optimistic(item: Objective | Constraint) -> bool:
    """Whether a bound says the best that can come of an objective or a constraint.

    It does for exact metrics, and for others where what is wanted is what is better: there is a fastest
    possible speed, but no slowest.
    """
    name = item.name
    if name not in METRICS or name in EXACT_METRICS or name in QUALITY_METRICS:
        return True
    wanted = item.direction if isinstance(item, Objective) else _WANTED[item.op]
    return wanted == METRICS[name].better


ROUNDING = 1e-9
"""Share by which a bound gives way, since it is computed in floating point and the simulator in integers."""


FloatArray = NDArray[np.float64]

_AMOUNTS = ("steps", "main_bytes", "second_bytes", "macs")

Group = tuple[int, int, int]
"""Steps that are bound by the same thing: phase, weight bits, and for prefills the prompt's length in powers of two.

What all of them move takes at least what it takes at the peak together, so nothing is kept for single steps.
"""

_CLASS_FIELDS = ("matrix", "control", "second_memory", "buffers")


def _npu_class(npu: NpuConfig) -> Hashable:
    """All of an NPU that the least bytes and MACs of a step depend on."""
    matrix, control = npu.matrix, npu.control
    return (
        () if npu.second_memory is None else npu.second_memory.holds,
        npu.buffers.resident_codebook_kib > 0,
        (matrix.codebook_entry_bits, matrix.bit_serial),
        None if matrix.sparsity is None else matrix.sparsity.model_dump_json(),
        (control.prefill_bucket_tokens, control.decode_bucket_tokens),
    )


def _second_bandwidth(npu: NpuConfig) -> float:
    return np.inf if npu.second_memory is None else npu.second_memory.bandwidth_bytes_per_s


class Roofline:
    """Bounds of one study's designs.

    Args:
        simulator: Whose NPU, workloads and combination are used; it must run in mode ``realistic``, since
            the idealised mode leaves out bytes that are counted here.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._sums: dict[tuple[int, Hashable], dict[Group, FloatArray]] = {}
        self._decode: dict[tuple[Precision, Hashable, int], FloatArray] = {}

    def __call__(self, design: Design) -> dict[str, float]:
        """Optimistic metrics of a design, by the names the simulator gives.

        Raises:
            InputError: If the NPU itself is not valid.
        """
        from dse.candidates import Candidates  # noqa: PLC0415 - importing dse does not load the simulator

        self._simulator.npu(design)
        return {name: float(values[0]) for name, values in self.many(Candidates.of(None, [design])).items()}

    def many(self, candidates: Candidates) -> dict[str, FloatArray]:
        """Optimistic metrics of many designs, ``[designs]`` each; NaN for those whose NPU is not valid."""
        from dse.design_grid import DesignGrid  # noqa: PLC0415 - importing dse does not load the simulator

        return self.of_grid(DesignGrid(self._simulator, candidates))

    def of_grid(self, grid: DesignGrid) -> dict[str, FloatArray]:
        """:meth:`many` of designs that are arranged already."""
        costs = [self._cost(grid, index, load) for index, load in enumerate(self._simulator.workloads)]
        exact = grid.exact(np.arange(len(grid.npu)))
        found = {**combine(costs, self._simulator.aggregate), **exact}
        return {name: np.where(grid.valid, values, np.nan) for name, values in found.items()}

    def _cost(self, grid: DesignGrid, index: int, load: LoadedWorkload) -> WorkloadCost:
        from dse.design_grid import trace_numbers  # noqa: PLC0415
        from hwsim.cost import work_energy_j  # noqa: PLC0415
        from hwsim.plan import DECODE  # noqa: PLC0415
        from hwsim.program import Work  # noqa: PLC0415
        from hwsim.roofline import prefetchable_bytes  # noqa: PLC0415
        from hwsim.trace_grid import technologies  # noqa: PLC0415

        table, npu = grid.table, grid.npu
        numbers, schedule = np.unique(grid.schedule_index, return_inverse=True)
        traces = [grid.trace(index, number) for number in numbers.tolist()]
        kinds, kind = table.classify(_npu_class, *_CLASS_FIELDS)
        examples = [table.npu(int(np.argmax(kind == number))) for number in range(len(kinds))]
        amounts: dict[Group, FloatArray] = {}
        for row, (example, name) in enumerate(zip(examples, kinds, strict=True)):
            for column, trace in enumerate(traces):
                for group, values in self._trace_sums(load, trace, example, name).items():
                    shape = len(_AMOUNTS), len(kinds), len(traces)
                    amounts.setdefault(group, np.zeros(shape))[:, row, column] = values

        peak = table.gather(lambda npu: npu.memory.bandwidth_bytes_per_s, "memory")[npu]
        second_peak = table.gather(_second_bandwidth, "second_memory")[npu]
        rate = table.gather(lambda npu: npu.matrix.macs * npu.clock_hz, "matrix", "clock_hz")[npu]
        ready = table.gather(prefetchable_bytes, "control", "buffers")[npu]
        place = kind[npu] * len(traces) + schedule

        prefill_s, decode_s = np.zeros((2, len(npu)))
        for (phase, _, _), (steps, main, second, macs) in sorted(amounts.items()):
            loads = np.maximum(main.take(place) - steps.take(place) * ready, 0)
            bound = np.maximum(loads / peak, macs.take(place) / rate)
            total_s = decode_s if phase == DECODE else prefill_s
            total_s += np.maximum(bound, second.take(place) / second_peak)
        prefill_s *= 1 - ROUNDING
        decode_s *= 1 - ROUNDING

        _, main, second, macs = np.sum(list(amounts.values()), axis=0)
        total = main + second
        work = Work(weight_bytes=total, second_bytes=second, macs=macs, mac_ops=macs)
        technology = technologies(table)
        energy_j = grid.static_w[npu] * (prefill_s + decode_s)
        for number in np.unique(technology).tolist():
            chosen = np.flatnonzero((technology == number)[npu])
            one = table.npu(int(np.argmax(technology == number)))
            energy_j[chosen] += np.asarray(sum(work_energy_j(one, work).values())).take(place[chosen])

        sequences, steps, bits = (values[schedule] for values in trace_numbers(traces))
        return WorkloadCost(
            weight=load.load.weight,
            decode_steps=steps / sequences,
            decode_s=decode_s / sequences,
            ttft_s=prefill_s / sequences,
            e2e_s=(prefill_s + decode_s) / sequences,
            energy_j=energy_j * (1 - ROUNDING) / sequences,
            dram_bytes=total.take(place) * (1 - ROUNDING) / sequences,
            mean_decode_bits=bits,
        )

    def _trace_sums(
        self, load: LoadedWorkload, trace: Trace, npu: NpuConfig, name: Hashable
    ) -> dict[Group, FloatArray]:
        """Sums of :data:`_AMOUNTS` over each group of a trace's steps, for one class of NPUs."""
        key = id(trace), name  # a workload keeps each of its traces
        if key not in self._sums:
            sums: defaultdict[Group, FloatArray] = defaultdict(lambda: np.zeros(len(_AMOUNTS)))
            for group, values in self._amounts(load, trace, npu, name):
                sums[group] += values
            self._sums[key] = dict(sums)
        return self._sums[key]

    def _amounts(
        self, load: LoadedWorkload, trace: Trace, npu: NpuConfig, name: Hashable
    ) -> Iterator[tuple[Group, FloatArray]]:
        from hwsim.checks import step_precision  # noqa: PLC0415
        from hwsim.plan import DECODE, PREFILL_STEP, batches_of, decode_steps_of  # noqa: PLC0415
        from hwsim.roofline import step_amounts  # noqa: PLC0415
        from hwsim.trace_grid import TraceCounts  # noqa: PLC0415
        from hwsim.workload import batch_decode_step, prefill_step  # noqa: PLC0415

        prompts = Counter((one.prefill_weight_bits, one.prompt_tokens) for one in trace.sequences)
        for (bits, tokens), count in prompts.items():
            step = prefill_step(load.shape, step_precision(npu, trace.header, bits), tokens)
            yield (PREFILL_STEP, bits, tokens.bit_length()), count * np.array([1, *step_amounts(npu, step)], float)
        if trace.header.execution == "sequential":
            for bits, (first, counts) in TraceCounts.of(trace).decode.items():
                table = self._decode_table(load, step_precision(npu, trace.header, bits), npu, name)
                yield (DECODE, bits, 0), table[:, first : first + len(counts)] @ counts
            return
        for batch in batches_of(trace):
            for one in decode_steps_of(trace, batch):
                widest = max(bits for bits, _ in one.members)
                step = batch_decode_step(load.shape, step_precision(npu, trace.header, widest), one.members)
                yield (DECODE, widest, 0), np.array([1, *step_amounts(npu, step)], float)

    def _decode_table(self, load: LoadedWorkload, precision: Precision, npu: NpuConfig, name: Hashable) -> FloatArray:
        """:data:`_AMOUNTS` of a decode step by its cached tokens."""
        from hwsim.roofline import step_amounts  # noqa: PLC0415
        from hwsim.workload import decode_step  # noqa: PLC0415

        key = precision, name, id(load)
        if key not in self._decode:
            cached = np.arange(load.shape.max_context + 1)
            amounts = step_amounts(npu, decode_step(load.shape, precision, cached))
            self._decode[key] = np.array([np.broadcast_to(values, cached.shape) for values in (1, *amounts)], float)
        return self._decode[key]
