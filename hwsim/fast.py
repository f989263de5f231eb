"""The fast engine: the event engine's schedule by closed-form recurrences, for many steps and designs at once.

Because units take their queues in order and wait only through static tokens, every time in the schedule is a
maximum over sums of durations: a recurrence that is linear in (max, +) algebra. For a run of equal tiles with
load ``d``, load latency ``L`` and matrix time ``m``, tile ``i`` obeys

    D_i = max(D_{i-1}, M_{i-2}) + d            a load takes the bus and the slot freed two tiles earlier
    M_i = max(M_{i-1}, D_i + L, input) + m     a product takes the array and its loaded tile
    S_i = max(S_{i-1}, M_i + latency) + s      the function follows tile by tile

so ``D_n`` is the longest path to it in a periodic graph whose edges are "next load" (advances one tile, costs d),
"next product" (one tile, m) and "round trip through a slot" (two tiles, d + L + m). A path's length is linear in
how often it takes each edge, so the longest one takes an extreme number of round trips: none (or one, where a
path must change sides) or as many as fit. These few cases are compared; nothing is approximated, and the result
equals the event engine's to the cycle.

Source: Baccelli, Cohen, Olsder, Quadrat, "Synchronization and Linearity", 1992, for (max, +) event graphs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from hwsim.program import Buses, Carry, Kind, Link, Pool, Program, Ran, Stage, Timing
from hwsim.units import Amount, IntArray

_NEVER = -(1 << 60)  # no path; far below any sum of durations, far above int64 overflow


@dataclass(slots=True)
class States:
    """The event engine's ``State`` for many runs at once; every field is an int64 array of one shape."""

    buses: list[IntArray]  # when each memory is free
    matrix: IntArray
    sfu: IntArray
    input: IntArray
    output: IntArray
    mark: IntArray
    slots: list[list[IntArray]]  # by pool: freed first, freed last
    fetched: list[IntArray]  # prefetched tiles usable

    @classmethod
    def start(cls, shape: tuple[int, ...], carry: Carry) -> States:
        """All units free at cycle 0, but for what was prefetched."""
        zero = np.zeros(shape, dtype=np.int64)
        slots = [[zero, zero] for _ in Pool]
        fetched = [zero + carry.first, zero + carry.second]
        return cls([zero + carry.memory, zero], zero, zero, zero, zero, zero, slots, fetched)

    def copy(self) -> States:
        """A state whose fields can be replaced; arrays are never changed in place."""
        return replace(
            self, buses=list(self.buses), slots=[list(pair) for pair in self.slots], fetched=list(self.fetched)
        )

    def relative(self, buses: Buses) -> list[IntArray]:
        """Everything relative to the main memory, raised to where it can still matter (as in ``State.normalised``)."""
        memory = self.buses[0]
        second = self.buses[1] if buses.memories > 1 else memory
        kv = second if buses.kv else memory
        stores = np.minimum(memory if 0 in buses.stores else second, second if 1 in buses.stores else memory)
        times = [
            second,
            self.matrix,
            self.sfu,
            self.input,
            self.output,
            np.maximum(self.mark, stores),
            *(np.maximum(slot, memory) for slot in self.slots[Pool.WEIGHT]),
            *(np.maximum(slot, kv) for slot in self.slots[Pool.KV]),
        ]
        return [time - memory for time in times]

    def shift(self, cycles: IntArray) -> None:
        """Let ``cycles`` pass."""
        for name in ("matrix", "sfu", "input", "output", "mark"):
            setattr(self, name, getattr(self, name) + cycles)
        self.buses = [bus + cycles for bus in self.buses]
        self.slots = [[slot + cycles for slot in pair] for pair in self.slots]

    def latest(self) -> IntArray:
        """When everything has ended."""
        units = np.maximum(np.maximum(*self.buses), self.matrix)
        return np.maximum(units, np.maximum(np.maximum(self.sfu, self.output), self.mark))


class _Tile(NamedTuple):
    """Durations of one tile; ``fetched`` says when a prefetched one is usable."""

    load: Amount
    matrix: Amount
    sfu: Amount
    last: bool
    fetched: Amount = None


@dataclass(frozen=True, slots=True)
class _Paths:
    """Longest paths over a given number of tiles; ``_NEVER`` where there is none."""

    load: Amount
    matrix: Amount
    trip: Amount

    def free(self, tiles: Amount) -> Amount:
        """Any mix of edges, with the change of sides already paid."""
        step = np.maximum(self.load, self.matrix)
        trips = (tiles // 2) * self.trip + (tiles % 2) * step
        return np.where(tiles >= 0, np.maximum(tiles * step, trips), _NEVER)

    def returning(self, tiles: Amount) -> Amount:
        """From one side back to the same side over at least one round trip."""
        step = np.maximum(self.load, self.matrix)
        trips = (tiles // 2) * self.trip + (tiles % 2) * step
        return np.where(tiles >= 2, np.maximum(self.trip + (tiles - 2) * step, trips), _NEVER)

    def loads(self, tiles: Amount) -> Amount:
        """From a load to a later load."""
        direct = np.where(tiles >= 0, tiles * self.load, _NEVER)
        return np.maximum(direct, self.returning(tiles))

    def products(self, tiles: Amount) -> Amount:
        """From a product to a later product."""
        direct = np.where(tiles >= 0, tiles * self.matrix, _NEVER)
        return np.maximum(direct, self.returning(tiles))


def _matrix_finish(paths: _Paths, tiles: Amount, sources: tuple[IntArray, IntArray, IntArray], latency: int) -> Amount:
    """Finish of product ``tiles`` of an equal run: first load, second slot and matrix unit as sources."""
    first_load, second_slot, unit = sources
    return np.maximum(
        np.maximum(
            first_load + (latency + paths.matrix + paths.free(tiles - 1)),
            second_slot + (paths.trip + paths.free(tiles - 2)),
        ),
        unit + (paths.matrix + paths.products(tiles - 1)),
    )


def _select(keep_new: Amount, new: Amount, old: IntArray) -> Amount:
    return new if np.all(keep_new) else np.where(keep_new, new, old)


def _equal_tiles(timing: Timing, tiles: Amount, state: States) -> None:
    """Advance by ``tiles`` >= 0 equal tiles that are loaded, multiplied and perhaps passed through the SFU."""
    some = tiles > 0
    if not np.any(some):
        return
    load, matrix, latency = timing.load, timing.matrix, timing.load_latency
    paths = _Paths(load, matrix, load + latency + matrix)
    slots = state.slots[timing.pool]
    unit = np.maximum(state.matrix, state.input)
    first_load = np.maximum(state.buses[timing.bus], slots[0]) + load
    sources = first_load, slots[1], unit
    memory = np.maximum(
        np.maximum(first_load + paths.loads(tiles - 1), slots[1] + (load + paths.loads(tiles - 2))),
        unit + (matrix + load + paths.free(tiles - 3)),
    )
    finish = _matrix_finish(paths, tiles, sources, latency)
    before = np.where(tiles > 1, _matrix_finish(paths, tiles - 1, sources, latency), slots[1])
    if timing.sfu is not None:
        state.sfu = _select(some, _equal_functions(timing, tiles, state.sfu, paths, sources, finish, before), state.sfu)
    state.buses[timing.bus] = _select(some, memory, state.buses[timing.bus])
    state.matrix = _select(some, finish, state.matrix)
    state.slots[timing.pool] = [_select(some, before, slots[0]), _select(some, finish, slots[1])]


def _equal_functions(
    timing: Timing,
    tiles: Amount,
    sfu: IntArray,
    paths: _Paths,
    sources: tuple[IntArray, IntArray, IntArray],
    finish: IntArray,
    before: IntArray,
) -> Amount:
    """Finish of the last of ``tiles`` functions.

    The function that was waited for last is the first, second, last or last but one: product times are, between
    those, linear in the tile's number.
    """
    function, latency = timing.sfu, timing.matrix_latency
    end = np.maximum(sfu + tiles * function, finish + (latency + function))
    if np.all(np.less_equal(function, timing.matrix)):
        return end  # products come no faster than functions take: the last product decides
    end = np.where(tiles > 1, np.maximum(end, before + (latency + 2 * function)), end)
    for early in (1, 2, 3):
        product = _matrix_finish(paths, early, sources, timing.load_latency)
        waited = product + (latency + (tiles - early + 1) * function)
        end = np.where(tiles >= early, np.maximum(end, waited), end)
    return end


def _one_tile(timing: Timing, state: States, tile: _Tile) -> None:
    """Advance by one tile."""
    ready = state.input
    if tile.load is not None:
        slots = state.slots[timing.pool]
        memory = np.maximum(state.buses[timing.bus], slots[0]) + tile.load
        state.buses[timing.bus] = memory
        ready = np.maximum(ready, memory + timing.load_latency if tile.fetched is None else tile.fetched)
    if tile.matrix is not None:
        state.matrix = np.maximum(state.matrix, ready) + tile.matrix
        ready = state.matrix + timing.matrix_latency
        if tile.load is not None:
            state.slots[timing.pool] = [slots[1], state.matrix]
    if tile.sfu is not None:
        state.sfu = np.maximum(state.sfu, ready) + tile.sfu
        ready = state.sfu + timing.sfu_latency
    if tile.last:
        state.output = np.maximum(state.output, ready)


def _prefetched_tiles(timing: Timing, state: States) -> None:
    """Advance by tiles that the step before has loaded: they pass the LD queue in no time."""
    for index in range(timing.prefetched):
        last = index == timing.tiles - 1
        tile = _Tile(
            load=0,
            matrix=timing.last_matrix if last else timing.matrix,
            sfu=timing.last_sfu if last else timing.sfu,
            last=last,
            fetched=state.fetched[index],
        )
        _one_tile(timing, state, tile)


def advance(timing: Timing, state: States) -> None:
    """Advance ``state`` by one stage, in place.

    Args:
        timing: Fields are integers or arrays that broadcast to the state's shape.
        state: Replaced field by field; its arrays are not written to.
    """
    bus = timing.bus
    match timing.kind:
        case Kind.MARK:
            state.mark = state.output
            return
        case Kind.STORE:
            state.buses[bus] = np.maximum(state.buses[bus], state.mark) + timing.load
            return
        case Kind.PREFETCH:
            _prefetch(timing, state)
            return
    if timing.joins:
        state.input = state.output
    if timing.kind is Kind.SYNC:
        state.output = state.input + timing.load
    elif timing.kind is Kind.LOAD:
        state.buses[bus] = np.maximum(state.buses[bus], state.input) + timing.load
        state.output = np.maximum(state.output, state.buses[bus] + timing.load_latency)
    else:
        if timing.load is None:
            _unloaded_tiles(timing, timing.tiles - 1, state)
        else:
            _prefetched_tiles(timing, state)
            _equal_tiles(timing, timing.tiles - 1 - timing.prefetched, state)
        if timing.prefetched < 1 or timing.prefetched < timing.tiles:
            last = _Tile(timing.last_load, timing.last_matrix, timing.last_sfu, last=True)
            _one_tile(timing, state, last)


def _prefetch(timing: Timing, state: States) -> None:
    """Load the first tiles of the next step into the slots as they become free."""
    slots = state.slots[timing.pool]
    for index in range(timing.tiles):
        load = timing.last_load if index == timing.tiles - 1 else timing.load
        memory = np.maximum(state.buses[timing.bus], slots[index]) + load
        state.buses[timing.bus] = memory
        state.fetched[index] = memory + timing.load_latency
    state.slots[timing.pool] = [*slots[timing.tiles :], *[state.buses[timing.bus]] * timing.tiles]


def _unloaded_tiles(timing: Timing, tiles: Amount, state: States) -> None:
    """Advance by equal tiles that are on chip already."""
    if not np.any(tiles > 0):
        return
    some = tiles > 0
    first = np.maximum(state.matrix, state.input) + timing.matrix
    finish = first + (tiles - 1) * timing.matrix
    if timing.sfu is not None:
        latency, function = timing.matrix_latency, timing.sfu
        waited = np.maximum(first + (latency + tiles * function), finish + (latency + function))
        state.sfu = _select(some, np.maximum(state.sfu + tiles * function, waited), state.sfu)
    state.matrix = _select(some, finish, state.matrix)


def run_layers(block: Sequence[Timing], layers: int, state: States, buses: Buses) -> States:
    """Run equal blocks; once a block leaves every relative state as it met it, the rest is a shift."""
    before = state.relative(buses)
    for layer in range(layers):
        start = state.buses[0]
        state = state.copy()
        for timing in block:
            advance(timing, state)
        after = state.relative(buses)
        if all(np.array_equal(left, right) for left, right in zip(after, before, strict=True)):
            state.shift((state.buses[0] - start) * (layers - layer - 1))
            return state
        before = after
    return state


def _timings(stages: Sequence[Stage]) -> list[Timing]:
    return [stage.timing for stage in stages]


def _drained(program: Program, shape: tuple[int, ...], carry: Carry) -> States:
    state = States.start(shape, carry)
    for timing in _timings(program.head):
        advance(timing, state)
    buses = program.buses(head=False)
    for run in program.runs:
        state = run_layers(_timings(run.block), run.layers, state, buses)
    for timing in _timings(program.tail):
        advance(timing, state)
    return state


def run_program(program: Program, shape: tuple[int, ...]) -> IntArray:
    """Cycles of steps from start until all units are drained, for runs of any shape.

    Args:
        program: Fields of its stages are integers or arrays that broadcast to ``shape``.
        shape: For example ``(designs, steps)``.
    """
    return _drained(program, shape, Carry()).latest()


@dataclass
class FastEngine:
    """Runs programs by recurrences; it processes no events and knows no reasons of stalls."""

    simulated: int = 0
    memoised: int = 0

    def steps(self, program: Program, count: int) -> Ran:
        """Run the program's ``count`` steps, each from a drained NPU."""
        return Ran(run_program(program, (count,)), None)

    def chain(self, links: Sequence[Link]) -> Ran:
        """Run steps one after another, each with what the one before has prefetched.

        All steps of a program run at once, from what their predecessors were found to leave last time, until that
        no longer changes. Then every step met what its predecessor really leaves. A step forgets most of what it
        met, so a few rounds do; ``len(links)`` always would, because each round settles one more step.
        """
        members: defaultdict[int, list[int]] = defaultdict(list)
        for number, link in enumerate(links):
            members[id(link.program)].append(number)
        groups = [
            (links[numbers[0]].program, np.array(numbers), np.array([links[number].element for number in numbers]))
            for numbers in members.values()
        ]
        follows = np.array([link.follows for link in links])
        cycles = np.zeros(len(links), dtype=np.int64)
        left = np.zeros((len(Carry._fields), len(links)), dtype=np.int64)
        met = np.full_like(left, -1)  # nothing ran yet
        while True:
            now = np.where(follows, np.roll(left, 1, axis=1), 0)
            changed = np.any(now != met, axis=0)
            if not np.any(changed):
                return Ran(cycles, None, met)
            met = now
            for program, numbers, indices in groups:
                if not np.any(changed[numbers]):
                    continue
                taken = _take(program, indices)
                state = _drained(taken, numbers.shape, Carry(*met[:, numbers]))
                cycles[numbers] = end = state.latest()
                if program.prefetch is not None:
                    advance(program.prefetch.timing, state)
                    late = np.array([state.buses[0], *state.fetched])
                    left[:, numbers] = np.maximum(late - end, 0)


def _take(program: Program, indices: IntArray) -> Program:
    """Choose elements of a program's array fields."""

    def stages(chosen: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return tuple(replace(stage, timing=_take_timing(stage.timing, indices)) for stage in chosen)

    runs = tuple(replace(run, block=stages(run.block)) for run in program.runs)
    return replace(program, head=stages(program.head), runs=runs, tail=stages(program.tail))


def _take_timing(timing: Timing, indices: IntArray) -> Timing:
    return Timing._make(value[indices] if isinstance(value, np.ndarray) else value for value in timing)
