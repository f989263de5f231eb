"""Optimistic metrics of a design without simulating it: bytes over peak bandwidth, MACs over the array.

Every number here is at least as good as the simulator's, which hwsim's roofline property guarantees: a
step takes at least max(bytes / peak bandwidth, MACs / array), moves at least the bytes of its weights,
codebooks and cache, and spends at least their energy and the leakage of that time. Area, bandwidth and
mean bits are exact. A design that is beaten even with these numbers need not be simulated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dse.objective import METRICS, QUALITY_METRICS, WorkloadCost, combine
from dse.study import Constraint, Objective
from hwsim.trace import InputError

if TYPE_CHECKING:
    from dse.candidates import Candidates
    from dse.plans import Plan
    from dse.simulator import LoadedWorkload, Simulator
    from dse.space import Design
    from hwsim import NpuConfig
    from hwsim.precision import Precision
    from hwsim.roofline import StepAmounts
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


Memories = tuple[tuple[str, ...], bool]
"""What a second memory holds, and whether codebooks may stay on chip: all of an NPU that its least bytes depend on."""


def _memories(npu: NpuConfig) -> Memories:
    return () if npu.second_memory is None else npu.second_memory.holds, npu.buffers.resident_codebook_kib > 0


class Roofline:
    """Bounds of one study's designs.

    Args:
        simulator: Whose NPU, workloads and combination are used; it must run in mode ``realistic``, since
            the idealised mode leaves out bytes that are counted here.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._amounts: dict[tuple[int, str | None, Memories, Precision], tuple[np.ndarray, int]] = {}
        self._steps: dict[tuple[int, str, int, Memories, Precision], StepAmounts] = {}

    def __call__(self, design: Design) -> dict[str, float]:
        """Optimistic metrics of a design, by the names the simulator gives.

        Raises:
            InputError: If the NPU itself is not valid.
        """
        from hwsim.cost import area_mm2  # noqa: PLC0415 - importing dse does not load the simulator

        npu = self._simulator.npu(design)
        costs = [self._cost(npu, index, load, design) for index, load in enumerate(self._simulator.workloads)]
        return {
            **combine(costs, self._simulator.aggregate),
            "area_mm2": sum(area_mm2(npu).values()),
            "bandwidth_bytes_per_s": npu.memory.bandwidth_bytes_per_s,
        }

    def many(self, candidates: Candidates) -> dict[str, NDArray[np.float64]]:
        """Optimistic metrics of many designs, ``[designs]`` each; NaN for those whose NPU is not valid."""
        rows: list[dict[str, float]] = []
        for index in range(len(candidates)):
            try:
                rows.append(self(candidates.design(index)))
            except InputError:
                rows.append({})
        names = next((list(row) for row in rows if row), [])
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}

    def _cost(self, npu: NpuConfig, index: int, load: LoadedWorkload, design: Design) -> WorkloadCost:
        from hwsim.cost import energy_j  # noqa: PLC0415
        from hwsim.program import Work  # noqa: PLC0415
        from hwsim.roofline import prefetchable_bytes  # noqa: PLC0415

        trace = load.trace(design.schedule)
        amounts, prefills = self._trace_amounts(npu, index, load, trace, design.schedule)
        main, second, macs = amounts
        loads = np.maximum(main - prefetchable_bytes(npu), 0)
        seconds = np.maximum(loads / npu.memory.bandwidth_bytes_per_s, macs / (npu.matrix.macs * npu.clock_hz))
        if npu.second_memory is not None:
            seconds = np.maximum(seconds, second / npu.second_memory.bandwidth_bytes_per_s)
        seconds *= 1 - ROUNDING
        prefill_s, decode_s = float(seconds[:prefills].sum()), float(seconds[prefills:].sum())
        total_bytes, total_macs = int(main.sum() + second.sum()), int(macs.sum())
        work = Work(weight_bytes=total_bytes, second_bytes=int(second.sum()), macs=total_macs, mac_ops=total_macs)
        energy = sum(energy_j(npu, work, prefill_s + decode_s).values()) * (1 - ROUNDING)
        return WorkloadCost(
            weight=load.load.weight,
            decode_steps=trace.decode_steps() / prefills,
            decode_s=decode_s / prefills,
            ttft_s=prefill_s / prefills,
            e2e_s=(prefill_s + decode_s) / prefills,
            energy_j=energy / prefills,
            dram_bytes=total_bytes * (1 - ROUNDING) / prefills,
            mean_decode_bits=trace.mean_decode_bits(),
        )

    def _trace_amounts(
        self, npu: NpuConfig, index: int, load: LoadedWorkload, trace: Trace, schedule: Plan | None
    ) -> tuple[np.ndarray, int]:
        """Bytes of each memory and MACs ``[3, steps]``, prefills first, and the number of prefills."""
        from hwsim.checks import step_precision  # noqa: PLC0415
        from hwsim.trace import FULL_PRECISION_BITS  # noqa: PLC0415

        label = None if schedule is None else schedule.label()
        key = index, label, _memories(npu), step_precision(npu, trace.header, FULL_PRECISION_BITS)
        if key not in self._amounts:
            prefills = [("prefill", s.prefill_weight_bits, s.prompt_tokens) for s in trace.sequences]
            decodes = [
                ("decode", bits, cached)
                for s in trace.sequences
                for cached, bits in enumerate(s.expand(), start=s.prompt_tokens)
            ]
            amounts = [self._step(npu, index, load, trace, *step) for step in prefills + decodes]
            self._amounts[key] = np.array(amounts, float).T, len(prefills)
        return self._amounts[key]

    def _step(
        self, npu: NpuConfig, index: int, load: LoadedWorkload, trace: Trace, kind: str, bits: int, tokens: int
    ) -> StepAmounts:
        from hwsim.checks import step_precision  # noqa: PLC0415
        from hwsim.roofline import step_amounts  # noqa: PLC0415
        from hwsim.workload import decode_step, prefill_step  # noqa: PLC0415

        precision = step_precision(npu, trace.header, bits)
        key = index, kind, tokens, _memories(npu), precision
        if key not in self._steps:
            make = prefill_step if kind == "prefill" else decode_step
            self._steps[key] = step_amounts(npu, make(load.shape, precision, tokens))
        return self._steps[key]
