"""Decode steps of many cache lengths, most of them without running them.

The cached tokens of a step change one stage: attention takes ``tiles`` tiles, the last of which takes ``last_load``,
``last_matrix`` and ``last_sfu``. Let F(x) be a step's cycles as a function of these four. It is a longest path, so it
never falls as one of them grows, and it has a steepest slope:

- a path passes a block's last tile once, so a cycle more of one of its three times delays the step by at most one
  cycle a block;
- one tile more delays what is behind it by at most the slowest unit's time for a tile, ``max(load, matrix, sfu)``,
  once there are :data:`MIN_TILES`, if two tiles keep the busier of load and matrix at least as long as a round trip
  through the double buffer (load, latency, product) takes. This can be read off the closed forms in
  :mod:`hwsim.fast`, term by term.

Now take a box ``low <= x <= high`` and split its sides into P, which seem to decide, and Z, which seem not to matter.
If F grows from ``low`` at the steepest slope on all of P, and not at all on all of Z,

    F(high on P, low on Z) = F(low) + slope . (high - low on P)    and    F(low on P, high on Z) = F(low),

it does so everywhere inside, F(x) = F(low) + slope . (x - low on P), since

    F(x) >= F(x on P, low on Z)  >= F(high on P, low on Z) - slope . (high - x on P) = F(low) + slope . (x - low on P)
    F(x) <= F(x on P, high on Z) <= F(low on P, high on Z) + slope . (x - low on P)  = F(low) + slope . (x - low on P).

So three runs prove the cycles of hundreds of steps, to the cycle. Where the box of all steps fails, those with equal
last tiles have boxes of one side: two runs each. Where that fails too, every step has to run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwsim.fast import run_program
from hwsim.program import Kind, Program, Stage, StageRun, Timing
from hwsim.units import Amount, IntArray, ceil_div

MIN_TILES = 5
"""Tiles from which on one more costs no more than the slowest unit's time for it."""

_SIDES = ("tiles", "last_load", "last_matrix", "last_sfu")


@dataclass(frozen=True)
class DecodeSpans:
    """Decode steps by how full their last tile is: those of one kind differ in their number of tiles only.

    Attributes:
        tiles: Of each step, ``[steps]``: all equal, or none below :data:`MIN_TILES`.
        kind: Which steps have equal last tiles, ``[steps]``.
        first: Step of each kind with the fewest tiles, ``[kinds]``.
        last: Step of each kind with the most tiles, ``[kinds]``.
        ends: Both, each step once, ``[ends]``.
    """

    tiles: IntArray
    kind: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, context: IntArray, tile_keys: int) -> DecodeSpans:
        """Arrange steps.

        Args:
            context: Tokens that each step reads, ``[steps]``.
            tile_keys: Tokens in a full tile.
        """
        tiles = ceil_div(context, tile_keys)
        _, kind = np.unique(context - (tiles - 1) * tile_keys, return_inverse=True)
        order = np.lexsort((tiles, kind))
        starts = np.flatnonzero(np.diff(kind[order], prepend=-1))
        first, last = order[starts], order[np.append(starts[1:], len(order)) - 1]
        return cls(tiles, kind, first, last, np.unique([first, last]))

    def cycles(self, program: Program, npus: int) -> tuple[IntArray, NDArray[np.bool_]]:
        """Cycles of all steps on many NPUs, ``[NPUs, steps]``, and for which of these they are proved.

        Args:
            program: The steps at ``ends``.
            npus: Rows of its arrays.
        """
        attention = self._attention(program)
        if attention is None:
            return np.zeros((npus, len(self.tiles)), dtype=np.int64), np.zeros(npus, dtype=bool)
        box = _Box.of(attention, program.runs[0].layers, (npus, len(self.ends)))
        found, proved = box.cycles(program, attention)
        first, last = np.searchsorted(self.ends, [self.first, self.last])
        rest = np.flatnonzero(box.steady & ~proved)
        if len(rest) and len(self.ends) < len(self.tiles):
            found[rest] = _run(program, attention, attention.timing, rest, len(self.ends))
            grown = box.tile_cycles[rest, None] * (self.tiles[self.last] - self.tiles[self.first])
            proved[rest] = (found[np.ix_(rest, last)] - found[np.ix_(rest, first)] == grown).all(axis=1)
        more = self.tiles - self.tiles[self.first][self.kind]
        return found[:, first[self.kind]] + box.tile_cycles[:, None] * more, proved

    def _attention(self, program: Program) -> Stage | None:
        """The stage that the cache changes; None if it is not the only one, or not of the form known here."""
        if len(program.runs) != 1 or any(_varies(stage.timing) for stage in (*program.head, *program.tail)):
            return None
        varying = [stage for stage in program.runs[0].block if _varies(stage.timing)]
        if len(varying) != 1:
            return None
        timing = varying[0].timing
        fixed = timing._replace(tiles=0, last_load=0, last_matrix=0, last_sfu=0)
        known = (
            timing.kind is Kind.TILES and timing.load is not None and timing.sfu is not None and not timing.prefetched
        )
        alike = not _varies(fixed) and np.array_equal(timing.tiles, self.tiles[self.ends])
        return varying[0] if known and alike else None


@dataclass(frozen=True)
class _Box:
    """What attention takes, of several steps on several NPUs.

    Attributes:
        sides: ``tiles`` and the last tile's times, ``[4, NPUs, steps]``.
        slope: Steepest slope of a step's cycles along each, ``[4, NPUs, 1]``.
        deciding: Which sides seem to decide, ``[4, NPUs, 1]``.
        steady: NPUs for which the slope along ``tiles`` is known, ``[NPUs]``.
    """

    sides: IntArray
    slope: IntArray
    deciding: NDArray[np.bool_]
    steady: NDArray[np.bool_]

    @classmethod
    def of(cls, attention: Stage, layers: int, shape: tuple[int, int]) -> _Box:
        timing = attention.timing
        npus, _ = shape

        def column(value: Amount) -> IntArray:
            return np.broadcast_to(np.asarray(value), (npus, 1))

        load, matrix = column(timing.load), column(timing.matrix)
        sfu = column(timing.sfu)
        loading, computing = load >= np.maximum(matrix, sfu), matrix >= sfu
        sides = np.array([np.broadcast_to(getattr(timing, side), shape) for side in _SIDES])
        busier = np.maximum(load, matrix)
        slope = np.array([np.maximum(busier, sfu), *[np.ones_like(load)] * 3]) * layers
        deciding = np.array([np.ones_like(loading), loading, ~loading & computing, ~loading])
        steady = (load + timing.load_latency + matrix <= 2 * busier)[:, 0] & (sides[0].min(axis=1) >= MIN_TILES)
        return cls(sides, slope, deciding, steady | (np.ptp(sides[0], axis=1) == 0))

    @property
    def tile_cycles(self) -> IntArray:
        """Steepest slope along ``tiles``, ``[NPUs]``."""
        return self.slope[0, :, 0]

    def cycles(self, program: Program, attention: Stage) -> tuple[IntArray, NDArray[np.bool_]]:
        """Cycles of the steps, ``[NPUs, steps]``, and for which NPUs they are proved."""
        low, high = self.sides.min(axis=2, keepdims=True), self.sides.max(axis=2, keepdims=True)
        corners = [low, np.where(self.deciding, high, low), np.where(self.deciding, low, high)]
        at = dict(zip(_SIDES, np.concatenate(corners, axis=2), strict=True))
        npus = len(self.steady)
        found = _run(program, attention, attention.timing._replace(**at), np.arange(npus), len(corners))
        lowest, decided, left = found.T
        slope = self.slope * self.deciding
        proved = (decided - lowest == (slope * (high - low)).sum(axis=0)[:, 0]) & (left == lowest)
        return lowest[:, None] + (slope * (self.sides - low)).sum(axis=0), proved & self.steady


def _varies(timing: Timing) -> bool:
    """Whether some field has an entry for each step."""
    return any(isinstance(value, np.ndarray) and value.shape[-1] > 1 for value in timing)


def _run(program: Program, attention: Stage, timing: Timing, rows: NDArray[np.intp], steps: int) -> IntArray:
    """Run a program's step on some NPUs with other times of attention, ``[rows, steps]``."""

    def chosen(stage: Stage) -> Stage:
        used = timing if stage is attention else stage.timing
        fields = [value[rows] if isinstance(value, np.ndarray) and value.ndim == 2 else value for value in used]
        return replace(stage, timing=Timing._make(fields))

    def all_chosen(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return tuple(chosen(stage) for stage in stages)

    (run,) = program.runs
    taken = Program(all_chosen(program.head), (StageRun(all_chosen(run.block), run.layers),), all_chosen(program.tail))
    return run_program(taken, (len(rows), steps))
