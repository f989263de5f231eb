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

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hwsim.program import Kind, Pool, Program, Stage, Timing
from hwsim.units import Amount, IntArray

_NEVER = -(1 << 60)  # no path; far below any sum of durations, far above int64 overflow


@dataclass(slots=True)
class States:
    """The event engine's ``State`` for many runs at once; every field is an int64 array of one shape."""

    memory: IntArray
    matrix: IntArray
    sfu: IntArray
    input: IntArray
    output: IntArray
    mark: IntArray
    slots: list[list[IntArray]] = field(default_factory=list)  # by pool: freed first, freed last

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> States:
        """All units free at cycle 0."""
        zero = np.zeros(shape, dtype=np.int64)
        return cls(zero, zero, zero, zero, zero, zero, [[zero, zero] for _ in Pool])

    def copy(self) -> States:
        """A state whose fields can be replaced; arrays are never changed in place."""
        slots = [list(pair) for pair in self.slots]
        return States(self.memory, self.matrix, self.sfu, self.input, self.output, self.mark, slots)

    def relative(self) -> list[IntArray]:
        """Everything relative to the memory unit, times that can no longer matter raised to it."""
        base = self.memory
        can_lag = [self.mark, *self.slots[Pool.WEIGHT], *self.slots[Pool.KV]]
        ahead = [self.matrix, self.sfu, self.input, self.output]
        return [*(value - base for value in ahead), *(np.maximum(value - base, 0) for value in can_lag)]

    def shift(self, cycles: IntArray) -> None:
        """Let ``cycles`` pass."""
        for name in ("memory", "matrix", "sfu", "input", "output", "mark"):
            setattr(self, name, getattr(self, name) + cycles)
        self.slots = [[slot + cycles for slot in pair] for pair in self.slots]

    def latest(self) -> IntArray:
        """When everything has ended."""
        units = np.maximum(np.maximum(self.memory, self.matrix), np.maximum(self.sfu, self.output))
        return np.maximum(units, self.mark)


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
    first_load = np.maximum(state.memory, slots[0]) + load
    sources = first_load, slots[1], unit
    memory = np.maximum(
        np.maximum(first_load + paths.loads(tiles - 1), slots[1] + (load + paths.loads(tiles - 2))),
        unit + (matrix + load + paths.free(tiles - 3)),
    )
    finish = _matrix_finish(paths, tiles, sources, latency)
    before = np.where(tiles > 1, _matrix_finish(paths, tiles - 1, sources, latency), slots[1])
    if timing.sfu is not None:
        state.sfu = _select(some, _equal_functions(timing, tiles, state.sfu, paths, sources, finish, before), state.sfu)
    state.memory = _select(some, memory, state.memory)
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


def _last_tile(timing: Timing, state: States) -> None:
    """Advance by the last tile, whose durations differ."""
    ready = state.input
    if timing.load is not None:
        slots = state.slots[timing.pool]
        state.memory = np.maximum(state.memory, slots[0]) + timing.last_load
        ready = np.maximum(ready, state.memory + timing.load_latency)
    if timing.matrix is not None:
        state.matrix = np.maximum(state.matrix, ready) + timing.last_matrix
        ready = state.matrix + timing.matrix_latency
        if timing.load is not None:
            state.slots[timing.pool] = [slots[1], state.matrix]
    if timing.sfu is not None:
        state.sfu = np.maximum(state.sfu, ready) + timing.last_sfu
        ready = state.sfu + timing.sfu_latency
    state.output = np.maximum(state.output, ready)


def advance(timing: Timing, state: States) -> None:
    """Advance ``state`` by one stage, in place.

    Args:
        timing: Fields are integers or arrays that broadcast to the state's shape.
        state: Replaced field by field; its arrays are not written to.
    """
    if timing.kind is Kind.MARK:
        state.mark = state.output
        return
    if timing.kind is Kind.STORE:
        state.memory = np.maximum(state.memory, state.mark) + timing.load
        return
    if timing.joins:
        state.input = state.output
    if timing.kind is Kind.SYNC:
        state.output = state.input + timing.load
    elif timing.kind is Kind.LOAD:
        state.memory = np.maximum(state.memory, state.input) + timing.load
        state.output = np.maximum(state.output, state.memory + timing.load_latency)
    else:
        if timing.load is not None:
            _equal_tiles(timing, timing.tiles - 1, state)
        else:
            _unloaded_tiles(timing, timing.tiles - 1, state)
        _last_tile(timing, state)


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


def run_layers(block: Sequence[Timing], layers: int, state: States) -> States:
    """Run equal blocks; once a block leaves every relative state as it met it, the rest is a shift."""
    before = state.relative()
    for layer in range(layers):
        start = state.memory
        state = state.copy()
        for timing in block:
            advance(timing, state)
        after = state.relative()
        if all(np.array_equal(left, right) for left, right in zip(after, before, strict=True)):
            state.shift((state.memory - start) * (layers - layer - 1))
            return state
        before = after
    return state


def _timings(stages: Sequence[Stage]) -> list[Timing]:
    return [stage.timing for stage in stages]


def run_program(program: Program, shape: tuple[int, ...]) -> IntArray:
    """Cycles of steps from start until all units are drained, for runs of any shape.

    Args:
        program: Fields of its stages are integers or arrays that broadcast to ``shape``.
        shape: For example ``(designs, steps)``.
    """
    state = States.zero(shape)
    for timing in _timings(program.head):
        advance(timing, state)
    state = run_layers(_timings(program.block), program.layers, state)
    for timing in _timings(program.tail):
        advance(timing, state)
    return state.latest()


@dataclass
class FastEngine:
    """Runs programs by recurrences; it processes no events."""

    simulated: int = 0
    memoised: int = 0

    def program_cycles(self, program: Program, steps: int) -> IntArray:
        """Cycles of each of the program's ``steps`` steps, from start until all units are drained."""
        return run_program(program, (steps,))
