"""Metrics of a design from a handful of its trace's steps: what stands between the bounds and a full simulation.

``ShortTrace`` simulates the few steps that :mod:`dse.sketch` chooses, by the fast engine whatever engine the study
names (the two agree to the cycle), for many NPUs at once where their steps do not depend on each other. It leaves
out what only the first step after a change of width sees: tiles prefetched for the old one. How far it is from the
full trace is measured in ``studies/exploration_benchmark``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.objective import WorkloadCost, combine
from dse.sketch import Node, Sketch, sketch_of
from hwsim.trace import InputError

if TYPE_CHECKING:
    from dse.simulator import LoadedWorkload, Simulator
    from dse.space import Design
    from hwsim import NpuConfig
    from hwsim.trace import TraceHeader

MAX_TABLES = 100_000
"""Pairs of NPU and workload whose steps are kept."""


class _StepCost(NamedTuple):
    """What one step costs; ``work_j`` is energy but for the static part."""

    cycles: float
    dram_bytes: float
    work_j: float


_Table = dict[Node, _StepCost | str]
"""By step its cost, or why it cannot run."""

_Place = tuple[str, int, tuple[int, ...]]
"""Key of an NPU, number of a workload, and bits of everything but the weights."""


class ShortTrace:
    """Evaluates designs by a handful of steps.

    Args:
        simulator: Whose NPUs and workloads are used.

    Attributes:
        designs: Designs evaluated so far.
        steps: Steps simulated for them; designs that differ in the schedule only share most.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._sketches: dict[tuple[int, str | None, bool], Sketch] = {}
        self._tables: dict[_Place, _Table] = {}
        self._checked: dict[tuple[str, int, str | None], str | None] = {}
        self.designs = 0
        self.steps = 0

    def __call__(self, design: Design) -> dict[str, float]:
        """Metrics of a design, by the names that the simulator gives.

        Raises:
            InputError: If the NPU cannot run it.
        """
        found = self.many([design])[0]
        if isinstance(found, InputError):
            raise found
        return found

    def many(self, designs: Sequence[Design]) -> list[dict[str, float] | InputError]:
        """Metrics of each design, or why its NPU cannot run it."""
        self.designs += len(designs)
        if len(self._tables) > MAX_TABLES:
            self._tables.clear()
            self._checked.clear()
        npus: dict[str, _Npu] = {}
        found: list[dict[str, float] | InputError] = []
        runnable: list[tuple[int, _Npu, Design]] = []
        for index, design in enumerate(designs):
            key = repr(sorted(design.npu.items()))
            try:
                if key not in npus:
                    npus[key] = _Npu(key, self._simulator.npu(design))
                self._check(npus[key], design)
            except InputError as error:
                found.append(error)
                continue
            found.append({})
            runnable.append((index, npus[key], design))
        self._simulate([(npu, design) for _, npu, design in runnable])
        for index, npu, design in runnable:
            try:
                found[index] = self._metrics(npu, design)
            except InputError as error:
                found[index] = error
        return found

    def _sketch(self, index: int, load: LoadedWorkload, npu: _Npu, design: Design) -> Sketch:
        resident = npu.config.buffers.resident_codebook_kib > 0
        key = index, _label(design), resident
        if key not in self._sketches:
            self._sketches[key] = sketch_of(load.trace(design.schedule), resident_codebooks=resident)
        return self._sketches[key]

    def _check(self, npu: _Npu, design: Design) -> None:
        """Refuse what hwsim refuses before it simulates."""
        from hwsim.checks import check_trace  # noqa: PLC0415 - importing dse does not load the simulator

        for index, load in enumerate(self._simulator.workloads):
            place = npu.key, index, _label(design)
            if place not in self._checked:
                try:
                    check_trace(npu.config, load.shape, load.trace(design.schedule))
                    self._checked[place] = None
                except InputError as error:
                    self._checked[place] = str(error)
            if (message := self._checked[place]) is not None:
                raise InputError(message)

    def _simulate(self, designs: Sequence[tuple[_Npu, Design]]) -> None:
        """Simulate the steps that are missing, together for NPUs that miss the same."""
        for index, load in enumerate(self._simulator.workloads):
            missing: defaultdict[_Place, dict[Node, None]] = defaultdict(dict)
            headers: dict[tuple[int, ...], TraceHeader] = {}
            npus: dict[_Place, NpuConfig] = {}
            for npu, design in designs:
                header = load.trace(design.schedule).header
                place = npu.key, index, _other_bits(header)
                headers[place[2]], npus[place] = header, npu.config
                table = self._tables.setdefault(place, {})
                for node in self._sketch(index, load, npu, design).nodes:
                    if node not in table:
                        missing[place].setdefault(node)
            alike: defaultdict[tuple[tuple[int, ...], tuple[Node, ...]], list[_Place]] = defaultdict(list)
            for place, nodes in missing.items():
                alike[place[2], tuple(nodes)].append(place)
            for (bits, chosen), places in alike.items():
                request = _Request(load, headers[bits], chosen, self._simulator.mode)
                for place, found in zip(places, request.tables([npus[place] for place in places]), strict=True):
                    self._tables[place] |= found
                    self.steps += len(found)

    def _metrics(self, npu: _Npu, design: Design) -> dict[str, float]:
        costs = []
        for index, load in enumerate(self._simulator.workloads):
            table = self._tables[npu.key, index, _other_bits(load.trace(design.schedule).header)]
            sketch = self._sketch(index, load, npu, design)
            steps: list[_StepCost] = []
            for node in sketch.nodes:
                step = table[node]
                if isinstance(step, str):
                    raise InputError(step)
                steps.append(step)
            costs.append(_workload_cost(load.load.weight, sketch, np.array(steps).T, npu))
        return {
            **combine(costs, self._simulator.aggregate),
            "area_mm2": npu.area_mm2,
            "bandwidth_bytes_per_s": npu.config.memory.bandwidth_bytes_per_s,
        }


class _Npu:
    """An NPU with its key and what it has whatever runs."""

    def __init__(self, key: str, config: NpuConfig) -> None:
        from hwsim.cost import area_mm2, static_power_w  # noqa: PLC0415

        self.key = key
        self.config = config
        self.area_mm2 = sum(area_mm2(config).values())
        self.static_w = static_power_w(config)


def _label(design: Design) -> str | None:
    return None if design.schedule is None else design.schedule.label()


def _other_bits(header: TraceHeader) -> tuple[int, ...]:
    return header.activation_bits, header.kv_bits, header.lm_head_bits


def _workload_cost(weight: float, sketch: Sketch, steps: NDArray[np.float64], npu: _Npu) -> WorkloadCost:
    """Add up ``steps`` (cycles, bytes and energy, ``[3, nodes]``) as :func:`hwsim.metrics.summarise` does all."""
    cycles, dram_bytes, work_j = steps
    all_steps, first_tokens, ends, tokens = sketch.weights @ cycles / npu.config.clock_hz / sketch.sequences
    energy_j = float(sketch.weights[0] @ work_j) / sketch.sequences + npu.static_w * float(all_steps)
    return WorkloadCost(
        weight=weight,
        decode_steps=sketch.decode_steps / sketch.sequences,
        decode_s=float(tokens),
        ttft_s=float(first_tokens),
        e2e_s=float(ends),
        energy_j=energy_j,
        dram_bytes=float(sketch.weights[0] @ dram_bytes) / sketch.sequences,
        mean_decode_bits=sketch.mean_decode_bits,
    )


class _Request:
    """Steps of one workload to simulate on some NPUs."""

    def __init__(self, load: LoadedWorkload, header: TraceHeader, nodes: Sequence[Node], mode: str) -> None:
        self._load = load
        self._header = header
        self._nodes = nodes
        self._mode = mode
        self._simple = mode == "realistic" and all(kind.members is None and not kind.warm for kind, _ in nodes)

    def tables(self, npus: Sequence[NpuConfig]) -> list[_Table]:
        """Costs of every step on every NPU."""
        from hwsim.grid import evaluate_steps  # noqa: PLC0415
        from hwsim.stacked_steps import is_separable  # noqa: PLC0415

        found: list[_Table] = [{} for _ in npus]
        stacked = [row for row, npu in enumerate(npus) if self._simple and is_separable(npu)]
        if stacked:
            try:
                costs = evaluate_steps([npus[row] for row in stacked], self._load.shape, self._header, self._nodes)
            except InputError:
                stacked = []  # one of them lacks room for a tile; alone, each says so itself
            else:
                columns = (costs.cycles.tolist(), costs.dram_bytes.tolist(), costs.work_j.tolist())
                for row, *values in zip(stacked, *columns, strict=True):
                    found[row] = dict(zip(self._nodes, map(_StepCost, *values), strict=True))
        for row in sorted(set(range(len(npus))) - set(stacked)):
            try:
                found[row] = self._alone(npus[row], self._nodes)
            except InputError:
                found[row] = {node: self._one(npus[row], node) for node in self._nodes}
        return found

    def _one(self, npu: NpuConfig, node: Node) -> _StepCost | str:
        try:
            return self._alone(npu, [node])[node]
        except InputError as error:
            return str(error)

    def _alone(self, npu: NpuConfig, nodes: Sequence[Node]) -> _Table:
        """Costs of steps on one NPU, each between others of its kind, as one that prefetches meets them.

        Raises:
            InputError: If the NPU cannot run one of them.
        """
        from hwsim.analytic import run_analytic  # noqa: PLC0415
        from hwsim.cost import work_energy_j  # noqa: PLC0415
        from hwsim.execution import execute  # noqa: PLC0415
        from hwsim.fast import FastEngine  # noqa: PLC0415
        from hwsim.plan import DECODE, Plan, PlannedStep, StepKind  # noqa: PLC0415

        steps: list[PlannedStep] = []
        rows: list[int] = []
        starts: list[int] = []
        for kind, tokens in nodes:
            starts.append(len(steps))
            step = PlannedStep(kind, tokens, sequence=0, step=kind.phase, yields=1, context=tokens)
            if kind.phase == DECODE:
                rows.append(len(steps) + 1)
                steps += [step] * 3
            else:
                rows.append(len(steps))
                steps += [step, step._replace(kind=StepKind(DECODE, kind.weight_bits), step=DECODE)]
        plan = Plan(tuple(steps), tuple(starts), start_rows=(), first_token_rows=(), end_rows=())
        if self._mode == "pmpd-analytic":
            ran = run_analytic(npu, self._load.shape, plan, codebooks=False)
        else:
            ran = execute(npu, self._load.shape, self._header, plan, FastEngine())
        energies = [
            np.ravel(np.asarray(sum(work_energy_j(npu, part.program.work()).values()), dtype=float))
            for part in ran.parts
        ]
        found: _Table = {}
        for node, row in zip(nodes, rows, strict=True):
            part, element = ran.places[:, row].tolist()
            joules = energies[part][element % len(energies[part])]  # one number where it is equal in all steps
            found[node] = _StepCost(float(ran.cycles[row]), float(ran.dram_bytes[row]), float(joules))
        return found
