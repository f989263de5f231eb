"""The event engine: a SimPy model of the units, instruction by instruction.

The units (LD/ST of each memory, matrix MM/MV, special function MISC) and the scheduler (SYS) take their queues in
order and exchange tokens. A token carries the cycle at which it can be used, so pipeline latency needs no unit
to stay busy. What the units leave behind (when each is free, when each slot was freed, when outputs are ready)
is the :class:`State`; it is all that a later stage can see, so equal stages from equal relative states give
equal results, and those are taken from a memo and counted as such.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import simpy

from hwsim.program import Buses, Carry, Kind, Link, Pool, Program, Ran, Stage, StallKey, Timing, timing_at
from hwsim.units import IntArray

Process = Generator[simpy.Event, Any, None]
_NEVER = float("inf")


class State(NamedTuple):
    """When, in cycles, everything that later stages wait for happens or happened.

    Attributes:
        memory: Main memory free.
        second: Second memory free; equal to ``memory`` where there is none.
        matrix: Matrix unit free.
        sfu: Special function unit free.
        input: Input of the current stage usable.
        output: Every output so far usable.
        mark: New keys and values ready to be written.
        weight_old: The weight slot that will be filled next was freed.
        weight_new: The other weight slot was freed.
        kv_old: As ``weight_old`` for the KV buffer.
        kv_new: As ``weight_new`` for the KV buffer.
        fetched_first: First prefetched tile usable, if there is one.
        fetched_second: Second prefetched tile usable, if there is one.
    """

    memory: int = 0
    second: int = 0
    matrix: int = 0
    sfu: int = 0
    input: int = 0
    output: int = 0
    mark: int = 0
    weight_old: int = 0
    weight_new: int = 0
    kv_old: int = 0
    kv_new: int = 0
    fetched_first: int = 0
    fetched_second: int = 0

    @classmethod
    def after(cls, carry: Carry) -> State:
        """All units free at cycle 0, but for what the step before has prefetched."""
        return cls(memory=carry.memory, fetched_first=carry.first, fetched_second=carry.second)

    def shifted(self, cycles: int) -> State:
        """The same state ``cycles`` later."""
        return State(*[value + cycles for value in self])

    def normalised(self, buses: Buses, *, pending: bool) -> State:
        """An equivalent state: nothing can be held up by what happened before it was possible at all.

        A slot or mark cannot hold up a memory that was free later, and a memory that is not used any more holds up
        nothing. Prefetched tiles count while they are ``pending``.
        """
        memory = self.memory
        second = self.second if buses.memories > 1 else memory
        kv = second if buses.kv else memory
        stores = min((second if bus else memory for bus in buses.stores), default=memory)
        return self._replace(
            second=second,
            mark=max(self.mark, stores),
            weight_old=max(self.weight_old, memory),
            weight_new=max(self.weight_new, memory),
            kv_old=max(self.kv_old, kv),
            kv_new=max(self.kv_new, kv),
            fetched_first=self.fetched_first if pending else memory,
            fetched_second=self.fetched_second if pending else memory,
        )


class _Tokens:
    """Wait/release pairs between two units: matched in order, each usable from a cycle of its own."""

    __slots__ = ("_environment", "_waiter", "ready")

    def __init__(self, environment: simpy.Environment, *ready: int) -> None:
        self._environment = environment
        self._waiter: simpy.Event | None = None
        self.ready = deque(ready)

    def release(self, at: int) -> None:
        self.ready.append(at)
        if self._waiter is not None:
            self._waiter.succeed()
            self._waiter = None

    def wait(self) -> Process:
        if not self.ready:
            self._waiter = self._environment.event()
            yield self._waiter
        at = self.ready.popleft()
        if at > self._environment.now:
            yield self._environment.timeout(at - self._environment.now)


class _Signal:
    """Outputs of a stage: set once, read by any number of waiters."""

    __slots__ = ("_environment", "_event", "at")

    def __init__(self, environment: simpy.Environment, at: int | None = None) -> None:
        self._environment = environment
        self._event: simpy.Event | None = None
        self.at = at

    def set(self, at: int) -> None:
        self.at = at
        if self._event is not None:
            self._event.succeed()

    def wait(self) -> Process:
        if self.at is None:
            if self._event is None:
                self._event = self._environment.event()
            yield self._event
        assert self.at is not None
        if self.at > self._environment.now:
            yield self._environment.timeout(self.at - self._environment.now)


class Span(NamedTuple):
    """One instruction on its unit."""

    unit: str
    stage: int
    start: int
    cycles: int


class Stall(NamedTuple):
    """A unit with work to do that waited.

    ``unit``: ``dram``, ``second`` (memory), ``matrix`` or ``sfu``. ``reason``: ``slot`` (buffer full), ``input``
    (earlier results), ``tile`` (its load), ``product`` (the matrix unit) or ``mark`` (new keys and values).
    """

    unit: str
    stage: int
    reason: str
    start: int
    cycles: int


@dataclass(slots=True)
class Recorder:
    """What a run did, instruction by instruction; ``stage`` indexes the list of timings."""

    spans: list[Span] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)


Waits = Mapping[tuple[int, str, str], int]
"""Cycles waited by stage, unit and reason."""

BUSES = ("dram", "second")


class Outcome(NamedTuple):
    """What a run of stages leaves behind.

    Attributes:
        state: For later stages.
        drained: When every unit was done, prefetches aside.
        waits: Cycles waited by stage, unit and reason.
        events: SimPy events processed.
    """

    state: State
    drained: int
    waits: Waits
    events: int


class _Job:
    """One stage in the event model: its timing, what it waits for, what it signals."""

    __slots__ = ("done", "index", "inputs", "loaded", "produced", "timing")

    def __init__(self, environment: simpy.Environment, index: int, timing: Timing, inputs: list[_Signal]) -> None:
        self.index = index
        self.timing = timing
        self.inputs = inputs
        self.done = _Signal(environment)
        self.loaded = _Tokens(environment)
        self.produced = _Tokens(environment)


class _Machine:
    """The units and their queues for one run of stages."""

    def __init__(self, timings: Sequence[Timing], state: State, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self.environment = simpy.Environment(initial_time=min(state))
        self.state = state
        self.waits: Counter[tuple[int, str, str]] = Counter()
        self.before_prefetch: int | None = None
        self.fetched: list[int] = []
        self.free = {
            Pool.WEIGHT: _Tokens(self.environment, state.weight_old, state.weight_new),
            Pool.KV: _Tokens(self.environment, state.kv_old, state.kv_new),
        }
        self.jobs: list[_Job] = []
        self.inputs = [_Signal(self.environment, state.input)]
        self.outputs = [_Signal(self.environment, state.output)]
        self.marks = [_Signal(self.environment, state.mark)]
        for index, timing in enumerate(timings):
            self._enqueue(index, timing)

    def _enqueue(self, index: int, timing: Timing) -> None:
        """Fix what a stage waits for; everything here is known when the program is compiled."""
        if timing.kind is Kind.MARK:
            self.marks = list(self.outputs)
            return
        if timing.kind is Kind.STORE:
            self.jobs.append(_Job(self.environment, index, timing, self.marks))
            return
        if timing.kind is Kind.PREFETCH:
            self.jobs.append(_Job(self.environment, index, timing, []))
            return
        if timing.joins:
            self.inputs = self.outputs
        job = _Job(self.environment, index, timing, self.inputs)
        for at in self.state[-2:][: timing.prefetched]:
            job.loaded.release(at)
        self.jobs.append(job)
        # Whoever joins next waits for this job, which itself waited for everything before it if it joined.
        self.outputs = [job.done] if timing.joins else [*self.outputs, job.done]

    def _busy(self, unit: str, job: _Job, cycles: int) -> simpy.Event:
        if self.recorder is not None:
            self.recorder.spans.append(Span(unit, job.index, self.environment.now, cycles))
        return self.environment.timeout(cycles)

    def _wait(self, unit: str, job: _Job, reason: str, waiting: Process) -> Process:
        since = self.environment.now
        yield from waiting
        if self.environment.now > since:
            self.waits[job.index, unit, reason] += self.environment.now - since
            if self.recorder is not None:
                self.recorder.stalls.append(Stall(unit, job.index, reason, since, self.environment.now - since))

    def _until(self, cycle: int) -> simpy.Event:
        return self.environment.timeout(cycle - self.environment.now)

    def memory(self, bus: int) -> Process:
        """LD and ST of one memory, in program order."""
        unit = BUSES[bus]
        yield self._until((self.state.memory, self.state.second)[bus])
        for job in self.jobs:
            timing = job.timing
            if timing.bus != bus:
                continue
            if timing.kind in {Kind.TILES, Kind.PREFETCH} and timing.load is not None:
                if timing.kind is Kind.PREFETCH:
                    self.before_prefetch = self.environment.now
                free = self.free[timing.pool]
                for tile, cycles in enumerate(_tile_cycles(timing.tiles, timing.load, timing.last_load)):
                    yield from self._wait(unit, job, "slot", free.wait())
                    if tile < timing.prefetched:
                        continue  # in its slot already
                    yield self._busy(unit, job, cycles)
                    usable = self.environment.now + timing.load_latency
                    if timing.kind is Kind.PREFETCH:
                        self.fetched.append(usable)
                    else:
                        job.loaded.release(usable)
            elif timing.kind in {Kind.LOAD, Kind.STORE}:
                reason = "input" if timing.kind is Kind.LOAD else "mark"
                for signal in job.inputs:
                    yield from self._wait(unit, job, reason, signal.wait())
                yield self._busy(unit, job, timing.load)
                if timing.kind is Kind.LOAD:
                    job.done.set(self.environment.now + timing.load_latency)

    def matrix(self) -> Process:
        """MM and MV: each frees the slot of its tile."""
        yield self._until(self.state.matrix)
        for job in self.jobs:
            timing = job.timing
            if timing.kind is not Kind.TILES or timing.matrix is None:
                continue
            for signal in job.inputs:
                yield from self._wait("matrix", job, "input", signal.wait())
            for cycles in _tile_cycles(timing.tiles, timing.matrix, timing.last_matrix):
                if timing.load is not None:
                    yield from self._wait("matrix", job, "tile", job.loaded.wait())
                yield self._busy("matrix", job, cycles)
                if timing.load is not None:
                    self.free[timing.pool].release(self.environment.now)
                job.produced.release(self.environment.now + timing.matrix_latency)
            if timing.sfu is None:
                job.done.set(self.environment.now + timing.matrix_latency)

    def sfu(self) -> Process:
        """MISC: on a matrix result tile by tile, or on a whole vector."""
        yield self._until(self.state.sfu)
        for job in self.jobs:
            timing = job.timing
            if timing.kind is not Kind.TILES or timing.sfu is None:
                continue
            if timing.matrix is None:
                for signal in job.inputs:
                    yield from self._wait("sfu", job, "input", signal.wait())
            for cycles in _tile_cycles(timing.tiles, timing.sfu, timing.last_sfu):
                if timing.matrix is not None:
                    yield from self._wait("sfu", job, "product", job.produced.wait())
                yield self._busy("sfu", job, cycles)
            job.done.set(self.environment.now + timing.sfu_latency)

    def scheduler(self) -> Process:
        """SYS: one at a time, after every output before it."""
        for job in self.jobs:
            if job.timing.kind is Kind.SYNC:
                for signal in job.inputs:
                    yield from signal.wait()
                yield self._busy("control", job, job.timing.load)
                job.done.set(self.environment.now)

    def run(self) -> Outcome:
        """Run all queues to their end."""
        units = {"memory": self.memory(0), "second": self.memory(1), "matrix": self.matrix(), "sfu": self.sfu()}
        ends = dict.fromkeys(units, 0)

        def unit(name: str) -> Process:
            yield from units[name]
            ends[name] = self.environment.now

        for name in units:
            self.environment.process(unit(name))
        self.environment.process(self.scheduler())
        events = 0
        while self.environment.peek() != _NEVER:
            self.environment.step()
            events += 1
        slots = self._slots(Pool.WEIGHT, ends["memory"]) + self._slots(Pool.KV, ends["memory"])
        output, mark = _latest(self.outputs), _latest(self.marks)
        drained = ends | {"memory": self.before_prefetch} if self.before_prefetch is not None else ends
        fetched = [*self.fetched, *self.state[-2:][len(self.fetched) :]]
        state = State(
            **ends,
            input=_latest(self.inputs),
            output=output,
            mark=mark,
            weight_old=slots[0],
            weight_new=slots[1],
            kv_old=slots[2],
            kv_new=slots[3],
            fetched_first=fetched[0],
            fetched_second=fetched[1],
        )
        return Outcome(state, max(*drained.values(), output, mark), self.waits, events)

    def _slots(self, pool: Pool, full: int) -> list[int]:
        """When both slots were freed; a prefetched tile still fills its own."""
        ready = list(self.free[pool].ready)
        return [*ready, *[full] * (2 - len(ready))]


def _tile_cycles(count: int, full: int, last: int) -> Iterator[int]:
    yield from repeat(full, count - 1)
    yield last


def _latest(signals: Iterable[_Signal]) -> int:
    times = [signal.at for signal in signals]
    assert None not in times, "a stage never finished: the program deadlocked"
    return max(time for time in times if time is not None)


def run_stages(timings: Sequence[Timing], state: State, recorder: Recorder | None = None) -> Outcome:
    """Simulate stages event by event.

    Args:
        timings: Stages in program order, integer fields only.
        state: What earlier stages left behind.
        recorder: Filled with every instruction and every stall, if given.
    """
    return _Machine(timings, state, recorder).run()


class _Step:
    """One step on its way: where the units are, and what they waited for so far."""

    __slots__ = ("body_buses", "buses", "pending", "stalls", "state")

    def __init__(self, buses: Buses, body_buses: Buses, carry: Carry, *, pending: bool) -> None:
        self.buses = buses
        self.body_buses = body_buses
        self.pending = pending
        self.state = State.after(carry)
        self.stalls: Counter[StallKey] = Counter()

    def took(self, stages: Sequence[Stage], waits: Waits, times: int = 1) -> None:
        for (index, unit, reason), cycles in waits.items():
            self.stalls[StallKey(stages[index].name, unit, reason)] += cycles * times


@dataclass
class EventEngine:
    """Runs the programs of steps; remembers stages by timing and relative state.

    Attributes:
        exact: Simulate every stage of a step in one run, with no memo.
        simulated: SimPy events processed.
        memoised: SimPy events not processed because an equal stage had met an equal relative state.
    """

    exact: bool = False
    simulated: int = 0
    memoised: int = 0
    _memo: dict[tuple[Timing, State, Buses, bool], Outcome] = field(default_factory=dict, repr=False)

    def steps(self, program: Program, count: int) -> Ran:
        """Run the program's ``count`` steps, each from a drained NPU."""
        return self.chain([Link(program, index, follows=False) for index in range(count)])

    def chain(self, links: Sequence[Link]) -> Ran:
        """Run steps one after another, each with what the one before has prefetched."""
        cycles = np.zeros(len(links), dtype=np.int64)
        stalls: dict[StallKey, IntArray] = {}
        met = np.zeros((len(Carry._fields), len(links)), dtype=np.int64)
        carry = Carry()
        buses = {id(link.program): (link.program.buses(), link.program.buses(head=False)) for link in links}
        for number, link in enumerate(links):
            found = any(stage.timing.prefetched for run in link.program.runs[:1] for stage in run.block)
            carry = carry if link.follows else Carry()
            met[:, number] = carry
            step = _Step(*buses[id(link.program)], carry, pending=found)
            run = self._run_exact if self.exact else self._run_memoised
            cycles[number], carry = run(link, step)
            for key, waited in step.stalls.items():
                stalls.setdefault(key, np.zeros(len(links), dtype=np.int64))[number] = waited
        return Ran(cycles, stalls, met)

    def _run_exact(self, link: Link, step: _Step) -> tuple[int, Carry]:
        stages = list(link.program.every_stage())
        outcome = run_stages([timing_at(stage.timing, link.element) for stage in stages], step.state)
        self.simulated += outcome.events
        step.took(stages, outcome.waits)
        return outcome.drained, _carry(outcome.state, outcome.drained)

    def _run_memoised(self, link: Link, step: _Step) -> tuple[int, Carry]:
        program = link.program
        self._run(program.head, link, step)
        step.buses = step.body_buses
        for run in program.runs:
            self._run_layers(run.block, run.layers, link, step)
        self._run(program.tail, link, step)
        # A state's units are free where its stages are done, and nothing is stored or output later than that.
        drained = max(step.state[: State._fields.index("weight_old")])
        if program.prefetch is not None:
            step.pending = True
            self._run((program.prefetch,), link, step)
        return drained, _carry(step.state, drained)

    def _run_layers(self, block: Sequence[Stage], layers: int, link: Link, step: _Step) -> None:
        """Run equal blocks; once one leaves the relative state it met, so do all that follow."""
        for layer in range(layers):
            before, events, stalls = step.state, self.simulated + self.memoised, step.stalls.copy()
            self._run(block, link, step)
            moved = step.state.memory - before.memory
            if step.state.shifted(-moved) == before:
                left = layers - layer - 1
                self.memoised += left * (self.simulated + self.memoised - events)
                for key, cycles in (step.stalls - stalls).items():
                    step.stalls[key] += cycles * left
                step.state = step.state.shifted(left * moved)
                return

    def _run(self, stages: Sequence[Stage], link: Link, step: _Step) -> None:
        for stage in stages:
            base = step.state.memory
            step.pending &= not stage.timing.prefetched
            key = (timing_at(stage.timing, link.element), step.state.shifted(-base), step.buses, step.pending)
            outcome = self._memo.get(key)
            if outcome is None:
                outcome = run_stages((key[0],), key[1])
                outcome = outcome._replace(state=outcome.state.normalised(step.buses, pending=step.pending))
                self._memo[key] = outcome
                self.simulated += outcome.events
            else:
                self.memoised += outcome.events
            step.took((stage,), outcome.waits)
            step.state = outcome.state.shifted(base)


def _carry(state: State, drained: int) -> Carry:
    """What is left of the prefetches when a step ends."""
    late = (state.memory, state.fetched_first, state.fetched_second)
    return Carry(*(max(0, at - drained) for at in late))
