"""The event engine: a SimPy model of the units, instruction by instruction.

Three units (memory LD/ST, matrix MM/MV, special function MISC) and the scheduler (SYS) take their queues in
order and exchange tokens. A token carries the cycle at which it can be used, so pipeline latency needs no unit
to stay busy. What the units leave behind (when each is free, when each slot was freed, when outputs are ready)
is the :class:`State`; it is all that a later stage can see, so equal stages from equal relative states give
equal results, and those are taken from a memo and counted as such.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import simpy

from hwsim.program import Kind, Pool, Program, Timing, timing_at
from hwsim.units import IntArray

Process = Generator[simpy.Event, Any, None]
_NEVER = float("inf")


class State(NamedTuple):
    """When, in cycles, everything that later stages wait for happens or happened.

    Attributes:
        memory: Memory unit free.
        matrix: Matrix unit free.
        sfu: Special function unit free.
        input: Input of the current stage usable.
        output: Every output so far usable.
        mark: New keys and values ready to be written.
        weight_old: The weight slot that will be filled next was freed.
        weight_new: The other weight slot was freed.
        kv_old: As ``weight_old`` for the KV buffer.
        kv_new: As ``weight_new`` for the KV buffer.
    """

    memory: int = 0
    matrix: int = 0
    sfu: int = 0
    input: int = 0
    output: int = 0
    mark: int = 0
    weight_old: int = 0
    weight_new: int = 0
    kv_old: int = 0
    kv_new: int = 0

    def shifted(self, cycles: int) -> State:
        """The same state ``cycles`` later."""
        return State(*[value + cycles for value in self])

    def normalised(self) -> State:
        """An equivalent state: what was freed before the memory unit is free cannot hold it up."""
        floor = self.memory
        return self._replace(
            mark=max(self.mark, floor),
            weight_old=max(self.weight_old, floor),
            weight_new=max(self.weight_new, floor),
            kv_old=max(self.kv_old, floor),
            kv_new=max(self.kv_new, floor),
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

    ``reason``: ``slot`` (buffer full), ``input`` (earlier results), ``tile`` (its load), ``product`` (the matrix
    unit) or ``mark`` (new keys and values).
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
        if timing.joins:
            self.inputs = self.outputs
        job = _Job(self.environment, index, timing, self.inputs)
        self.jobs.append(job)
        # Whoever joins next waits for this job, which itself waited for everything before it if it joined.
        self.outputs = [job.done] if timing.joins else [*self.outputs, job.done]

    def _busy(self, unit: str, job: _Job, cycles: int) -> simpy.Event:
        if self.recorder is not None:
            self.recorder.spans.append(Span(unit, job.index, self.environment.now, cycles))
        return self.environment.timeout(cycles)

    def _wait(self, unit: str, job: _Job, reason: str, waiting: Process) -> Process:
        return waiting if self.recorder is None else self._recorded(self.recorder, unit, job, reason, waiting)

    def _recorded(self, recorder: Recorder, unit: str, job: _Job, reason: str, waiting: Process) -> Process:
        since = self.environment.now
        yield from waiting
        if self.environment.now > since:
            recorder.stalls.append(Stall(unit, job.index, reason, since, self.environment.now - since))

    def _until(self, cycle: int) -> simpy.Event:
        return self.environment.timeout(cycle - self.environment.now)

    def memory(self) -> Process:
        """LD and ST, in program order."""
        yield self._until(self.state.memory)
        for job in self.jobs:
            timing = job.timing
            if timing.kind is Kind.TILES and timing.load is not None:
                free = self.free[timing.pool]
                for cycles in _tile_cycles(timing.tiles, timing.load, timing.last_load):
                    yield from self._wait("dram", job, "slot", free.wait())
                    yield self._busy("dram", job, cycles)
                    job.loaded.release(self.environment.now + timing.load_latency)
            elif timing.kind in {Kind.LOAD, Kind.STORE}:
                reason = "input" if timing.kind is Kind.LOAD else "mark"
                for signal in job.inputs:
                    yield from self._wait("dram", job, reason, signal.wait())
                yield self._busy("dram", job, timing.load)
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

    def run(self) -> tuple[State, int]:
        """Run all queues to their end."""
        ends = dict.fromkeys(("memory", "matrix", "sfu"), 0)

        def unit(name: str) -> Process:
            yield from getattr(self, name)()
            ends[name] = self.environment.now

        for name in ends:
            self.environment.process(unit(name))
        self.environment.process(self.scheduler())
        events = 0
        while self.environment.peek() != _NEVER:
            self.environment.step()
            events += 1
        weight_old, weight_new = self.free[Pool.WEIGHT].ready
        kv_old, kv_new = self.free[Pool.KV].ready
        state = State(
            **ends,
            input=_latest(self.inputs),
            output=_latest(self.outputs),
            mark=_latest(self.marks),
            weight_old=weight_old,
            weight_new=weight_new,
            kv_old=kv_old,
            kv_new=kv_new,
        )
        return state, events


def _tile_cycles(count: int, full: int, last: int) -> Iterator[int]:
    yield from repeat(full, count - 1)
    yield last


def _latest(signals: Iterable[_Signal]) -> int:
    times = [signal.at for signal in signals]
    assert None not in times, "a stage never finished: the program deadlocked"
    return max(time for time in times if time is not None)


def run_stages(timings: Sequence[Timing], state: State, recorder: Recorder | None = None) -> tuple[State, int]:
    """Simulate stages event by event.

    Args:
        timings: Stages in program order, integer fields only.
        state: What earlier stages left behind.
        recorder: Filled with every instruction and every stall, if given.

    Returns:
        What these stages leave behind, and the number of SimPy events processed.
    """
    return _Machine(timings, state, recorder).run()


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
    _memo: dict[tuple[Timing, State], tuple[State, int]] = field(default_factory=dict, repr=False)

    def program_cycles(self, program: Program, steps: int) -> IntArray:
        """Cycles of each of the program's ``steps`` steps, from start until all units are drained."""
        return np.array([self._step_cycles(program, index) for index in range(steps)], dtype=np.int64)

    def _step_cycles(self, program: Program, index: int) -> int:
        head, block, tail = (
            [timing_at(stage.timing, index) for stage in stages]
            for stages in (program.head, program.block, program.tail)
        )
        if self.exact:
            state, events = run_stages([*head, *(block * program.layers), *tail], State())
            self.simulated += events
            return max(state)
        state = self._run(head, State())
        state = self._run_layers(block, program.layers, state)
        return max(self._run(tail, state))

    def _run_layers(self, block: Sequence[Timing], layers: int, state: State) -> State:
        """Run equal blocks; once one leaves the relative state it met, so do all that follow."""
        for layer in range(layers):
            before, events = state, self.simulated + self.memoised
            state = self._run(block, before)
            if state.shifted(-state.memory) == before.shifted(-before.memory):
                left = layers - layer - 1
                self.memoised += left * (self.simulated + self.memoised - events)
                return state.shifted(left * (state.memory - before.memory))
        return state

    def _run(self, timings: Sequence[Timing], state: State) -> State:
        for timing in timings:
            base = state.memory
            key = (timing, state.shifted(-base))
            found = self._memo.get(key)
            if found is None:
                after, events = run_stages((timing,), key[1])
                self.simulated += events
                self._memo[key] = (after.normalised(), events)
                state = after.normalised().shifted(base)
            else:
                after, events = found
                self.memoised += events
                state = after.shifted(base)
        return state
