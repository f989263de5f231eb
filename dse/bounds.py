"""Optimistic metrics of a design without simulating it: bytes over peak bandwidth, MACs over the array.

Every number here is at least as good as the simulator's, which hwsim's roofline property guarantees: a
step takes at least max(bytes / peak bandwidth, MACs / array), moves at least the bytes of its weights,
codebooks and cache, and spends at least their energy and the leakage of that time. Area, bandwidth and
mean bits are exact. A design that is beaten even with these numbers need not be simulated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dse.objective import METRICS, QUALITY_METRICS, WorkloadCost, combine
from dse.study import Constraint, Objective

if TYPE_CHECKING:
    from dse.simulator import LoadedWorkload, Simulator
    from dse.space import Design
    from hwsim import NpuConfig
    from hwsim.trace import Schedule, Trace
    from hwsim.workload import Precision

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


class Roofline:
    """Bounds of one study's designs.

    Args:
        simulator: Whose NPU, workloads and combination are used; it must run in mode ``realistic``, since
            the idealised mode leaves out bytes that are counted here.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._amounts: dict[tuple[int, str | None, Precision], tuple[np.ndarray, np.ndarray, int]] = {}
        self._steps: dict[tuple[int, str, int, Precision], tuple[int, int]] = {}

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

    def _cost(self, npu: NpuConfig, index: int, load: LoadedWorkload, design: Design) -> WorkloadCost:
        from hwsim.cost import energy_j  # noqa: PLC0415
        from hwsim.program import Work  # noqa: PLC0415

        trace = load.trace(design.schedule)
        size, macs, prefills = self._trace_amounts(npu, index, load, trace, design.schedule)
        seconds = np.maximum(size / npu.memory.bandwidth_bytes_per_s, macs / (npu.matrix.macs * npu.clock_hz))
        seconds *= 1 - ROUNDING
        prefill_s, decode_s = float(seconds[:prefills].sum()), float(seconds[prefills:].sum())
        work = Work(weight_bytes=int(size.sum()), macs=int(macs.sum()), mac_ops=int(macs.sum()))
        energy = sum(energy_j(npu, work, prefill_s + decode_s).values()) * (1 - ROUNDING)
        return WorkloadCost(
            weight=load.load.weight,
            decode_steps=trace.decode_steps() / prefills,
            decode_s=decode_s / prefills,
            ttft_s=prefill_s / prefills,
            e2e_s=(prefill_s + decode_s) / prefills,
            energy_j=energy / prefills,
            dram_bytes=float(size.sum()) * (1 - ROUNDING) / prefills,
            mean_decode_bits=trace.mean_decode_bits(),
        )

    def _trace_amounts(
        self, npu: NpuConfig, index: int, load: LoadedWorkload, trace: Trace, schedule: Schedule | None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Bytes and MACs of every step, prefills first, and the number of prefills."""
        from hwsim.checks import step_precision  # noqa: PLC0415
        from hwsim.trace import FULL_PRECISION_BITS  # noqa: PLC0415

        label = None if schedule is None else schedule.label()
        key = index, label, step_precision(npu, trace.header, FULL_PRECISION_BITS)
        if key not in self._amounts:
            prefills = [("prefill", s.prefill_weight_bits, s.prompt_tokens) for s in trace.sequences]
            decodes = [
                ("decode", bits, cached)
                for s in trace.sequences
                for cached, bits in enumerate(s.expand(), start=s.prompt_tokens)
            ]
            amounts = np.array([self._step(npu, index, load, trace, *step) for step in prefills + decodes], float)
            self._amounts[key] = amounts[:, 0], amounts[:, 1], len(prefills)
        return self._amounts[key]

    def _step(
        self, npu: NpuConfig, index: int, load: LoadedWorkload, trace: Trace, kind: str, bits: int, tokens: int
    ) -> tuple[int, int]:
        from hwsim.checks import step_precision  # noqa: PLC0415
        from hwsim.roofline import step_bound  # noqa: PLC0415
        from hwsim.workload import decode_step, prefill_step  # noqa: PLC0415

        precision = step_precision(npu, trace.header, bits)
        key = index, kind, tokens, precision
        if key not in self._steps:
            make = prefill_step if kind == "prefill" else decode_step
            _, size, macs = step_bound(npu, make(load.shape, precision, tokens))
            self._steps[key] = size, macs
        return self._steps[key]
