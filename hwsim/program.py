"""Operators lowered to stages: runs of equal tiles with their service times and static dependencies.

A stage is what the instruction scheduler repeats: per tile one LD into a slot of a double buffer, one MM or MV
that frees the slot, and one MISC on the result, as far as the operator needs each. Units run their queues in
order. Across stages, four rules hold, all static (wait/release tokens in FlightLLM's words):

- a LD waits until the slot it fills was freed, two loads of the same pool earlier;
- the first MM/MV/MISC of a stage waits for the stage's input: if the stage *joins*, every output before it,
  otherwise the input of the stage before;
- a ST of keys and values waits for the mark set behind their projections;
- SYS waits for every output, and what joins next waits for it.

Each memory has an LD/ST queue of its own. Where the compiler prefetches across steps, the last stage of a step
loads the first tiles of the next step's first weights (``PREFETCH``); the step does not wait for it, and the stage
that uses these tiles says how many it finds (``prefetched``).

Stages are the unit of memoisation in the event engine and of the closed form in the fast engine. A field may be
an array: the same stage for many decode steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np

from hwsim.units import Amount, IntArray


class Kind(IntEnum):
    """What a stage does."""

    TILES = 0
    LOAD = 1
    STORE = 2
    MARK = 3
    SYNC = 4
    PREFETCH = 5


class Pool(IntEnum):
    """Which double buffer a stage's loads fill."""

    WEIGHT = 0
    KV = 1


class Timing(NamedTuple):
    """All an engine needs to know of a stage; ``None`` where its tiles have no such instruction.

    ``tiles - 1`` tiles take ``load``, ``matrix``, ``sfu`` cycles and the last one ``last_*``. A result is usable
    ``*_latency`` cycles after its instruction has left the unit. ``bus`` is the memory that loads and stores use:
    0, or 1 for a second memory. The first ``prefetched`` tiles were loaded by the step before.
    """

    kind: Kind
    pool: Pool = Pool.WEIGHT
    joins: bool = True
    tiles: Amount = 1
    load: Amount = None
    matrix: Amount = None
    sfu: Amount = None
    last_load: Amount = None
    last_matrix: Amount = None
    last_sfu: Amount = None
    load_latency: int = 0
    matrix_latency: int = 0
    sfu_latency: int = 0
    bus: int = 0
    prefetched: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage moves and computes in all, whatever the order: additive.

    ``*_bytes`` cross a memory bus, ``second_bytes`` of them that of the second memory; ``sram_bytes`` are reads plus
    writes of on-chip buffers. ``mac_ops`` counts a multiplication once per pass over the array, ``macs`` once;
    ``sparse_mac_ops`` are those ``mac_ops`` whose activation an index selects.
    """

    weight_bytes: Amount = 0
    sparse_index_bytes: Amount = 0
    codebook_bytes: Amount = 0
    kv_read_bytes: Amount = 0
    kv_append_bytes: Amount = 0
    lm_head_bytes: Amount = 0
    embedding_bytes: Amount = 0
    activation_bytes: Amount = 0
    scheduler_bytes: Amount = 0
    thrown_away_bytes: Amount = 0
    macs: Amount = 0
    mac_ops: Amount = 0
    sparse_mac_ops: Amount = 0
    lookup_bits: Amount = 0
    sfu_ops: Amount = 0
    sram_bytes: Amount = 0
    second_bytes: Amount = 0
    dram_busy_cycles: Amount = 0
    second_busy_cycles: Amount = 0
    matrix_busy_cycles: Amount = 0
    sfu_busy_cycles: Amount = 0
    control_busy_cycles: Amount = 0
    instructions: Amount = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in WORK_FIELDS))

    def times(self, factor: int) -> Work:
        """The same work ``factor`` times."""
        return Work(*(getattr(self, name) * factor for name in WORK_FIELDS))

    def weighted(self, times: IntArray) -> Work:
        """Sum over steps of this work, step ``i`` counted ``times[i]`` times; a scalar field is equal in all."""
        return Work(*(int(np.sum(times * getattr(self, name))) for name in WORK_FIELDS))

    @property
    def dram_bytes(self) -> Amount:
        """Everything that crosses a memory bus."""
        return sum(getattr(self, name) for name in TRAFFIC_FIELDS.values())


WORK_FIELDS = tuple(field.name for field in fields(Work))
TRAFFIC_FIELDS = {
    "weights": "weight_bytes",
    "sparse_indices": "sparse_index_bytes",
    "codebooks": "codebook_bytes",
    "kv_read": "kv_read_bytes",
    "kv_append": "kv_append_bytes",
    "lm_head": "lm_head_bytes",
    "embedding": "embedding_bytes",
    "activations": "activation_bytes",
    "scheduler": "scheduler_bytes",
    "thrown_away": "thrown_away_bytes",
}


def stack_work(works: Sequence[Work]) -> Work:
    """One work with arrays, an element for each of ``works``."""
    return Work(*(np.array([getattr(work, name) for work in works], dtype=np.int64) for name in WORK_FIELDS))


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of tiles; each but the last loads ``tile_bytes``, that one ``last_tile_bytes``."""

    name: str
    opcode: str
    timing: Timing
    work: Work
    tile_bytes: Amount = 0
    last_tile_bytes: Amount = 0


class Buses(NamedTuple):
    """Which memories a program uses, by bus.

    Attributes:
        memories: How many.
        kv: The one whose loads take slots of the KV buffer.
        stores: Those that are written.
    """

    memories: int = 1
    kv: int = 0
    stores: frozenset[int] = frozenset({0})


@dataclass(frozen=True, slots=True)
class StageRun:
    """The stages of consecutive equal decoder blocks."""

    block: tuple[Stage, ...]
    layers: int


@dataclass(frozen=True, slots=True)
class Program:
    """The stages of one step: head, runs of equal decoder blocks, tail, and loads for the next step."""

    head: tuple[Stage, ...]
    runs: tuple[StageRun, ...]
    tail: tuple[Stage, ...]
    prefetch: Stage | None = None

    def buses(self, *, head: bool = True) -> Buses:
        """Which memories the step uses; without its ``head``, behind that."""
        counted = self.counted_stages() if head else replace(self, head=()).counted_stages()
        timings = [stage.timing for stage, _ in counted]
        second = {timing.pool for timing in timings if timing.bus == 1}
        stores = frozenset(timing.bus for timing in timings if timing.kind is Kind.STORE)
        return Buses(2 if second else 1, 1 if Pool.KV in second else 0, stores)

    def every_stage(self) -> Iterator[Stage]:
        """Every stage as often as it runs, in program order."""
        yield from self.head
        for run in self.runs:
            for _ in range(run.layers):
                yield from run.block
        yield from self._end

    def counted_stages(self) -> Iterator[tuple[Stage, int]]:
        """Every stage once, with how often it runs in the step."""
        yield from ((stage, 1) for stage in self.head)
        for run in self.runs:
            yield from ((stage, run.layers) for stage in run.block)
        yield from ((stage, 1) for stage in self._end)

    @property
    def _end(self) -> tuple[Stage, ...]:
        return self.tail if self.prefetch is None else (*self.tail, self.prefetch)

    def work(self) -> Work:
        """Work of the whole step."""
        total = Work()
        for stage, times in self.counted_stages():
            total += stage.work.times(times)
        return total


class StallKey(NamedTuple):
    """Who waited for what: operation, unit, and a reason of :class:`hwsim.events.Stall`."""

    operation: str
    unit: str
    reason: str


class Carry(NamedTuple):
    """What a step leaves to the next one, in cycles after its own end; all 0 where nothing was prefetched.

    Attributes:
        memory: Main memory free.
        first: First prefetched tile usable.
        second: Second prefetched tile usable.
    """

    memory: Amount = 0
    first: Amount = 0
    second: Amount = 0


@dataclass(frozen=True, slots=True)
class Ran:
    """Steps that ran, one element each.

    Attributes:
        cycles: From start until all units are drained, prefetches aside.
        stalls: Cycles waited; null where the engine knows no reasons.
        met: What each step found of its predecessor's :class:`Carry`, ``[3, steps]``; null if all started drained.
    """

    cycles: IntArray
    stalls: Mapping[StallKey, IntArray] | None
    met: IntArray | None = None


class Link(NamedTuple):
    """One step of a chain: one element of ``program``; ``follows`` the step before without draining it."""

    program: Program
    element: int
    follows: bool


class Engine(Protocol):
    """Finds the cycles of a program's steps; how is the engine's business, the numbers are not.

    Attributes:
        simulated: Events processed so far.
        memoised: Events whose result was taken from an equal earlier run.
    """

    simulated: int
    memoised: int

    def steps(self, program: Program, count: int) -> Ran:
        """Run the program's ``count`` steps, each from a drained NPU."""

    def chain(self, links: Sequence[Link]) -> Ran:
        """Run steps one after another, each with what the one before has prefetched."""


def stage_at(stage: Stage, index: int) -> Stage:
    """Element ``index`` of a stage that stands for many steps."""

    def element(value: Amount) -> Amount:
        return int(value[index]) if isinstance(value, np.ndarray) else value

    work = Work(*(element(getattr(stage.work, name)) for name in WORK_FIELDS))
    return replace(stage, timing=timing_at(stage.timing, index), work=work)


def timing_at(timing: Timing, index: int) -> Timing:
    """Element ``index`` of every array field."""
    if isinstance(timing.tiles, int):
        return timing
    return Timing._make(int(value[index]) if isinstance(value, np.ndarray) else value for value in timing)
