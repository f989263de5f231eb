"""Single steps on many NPUs at once: those that can be stacked run as one array, by the fast engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from hwsim.checks import step_precision
from hwsim.config import NpuConfig
from hwsim.decode_spans import MIN_TILES, DecodeSpans
from hwsim.fast import run_program
from hwsim.lowering import Lowering, TileSizeError
from hwsim.npu_table import NpuTable
from hwsim.plan import DECODE, PREFILL_STEP, SCHEDULER_STEP
from hwsim.precision import Precision
from hwsim.program import Program, Work
from hwsim.service import Services, build_services, stacking_key
from hwsim.trace import InputError, ModelShape, TraceHeader
from hwsim.units import Amount, IntArray, ceil_div
from hwsim.workload import Attention, Step, decode_step, learned_scheduler_step, prefill_step

LANES_AT_ONCE = 1 << 15  # NPUs times steps whose states stay in cache together
ENDS_AT_ONCE = 1 << 18  # NPUs times steps that are lowered together where few of them run

FEW_STEPS = 6
"""Decode steps that are run rather than proved, which takes three runs at least."""

_STEP_OF: Mapping[int, Callable[[ModelShape, Precision, Amount], Step]] = {
    PREFILL_STEP: prefill_step,
    SCHEDULER_STEP: learned_scheduler_step,
    DECODE: decode_step,
}

_SECTIONS = {
    "matrix": ("matrix",),
    "memory": ("memory", "clock_hz"),
    "second_memory": ("second_memory", "clock_hz"),
    "sfu": ("sfu",),
    "buffers": ("buffers",),
    "control": ("control",),
}
"""Fields that each part of :class:`hwsim.service.Services` comes from."""


def is_separable(npu: NpuConfig) -> bool:
    """Whether a step costs the same whatever the step before was."""
    return npu.control.prefetch == "none" and not npu.buffers.resident_codebook_kib


class _Rows(Sequence[NpuConfig]):
    """The NPUs of a stack, made when one is asked for."""

    def __init__(self, table: NpuTable, rows: NDArray[np.intp]) -> None:
        self._table, self._rows = table, rows

    @overload
    def __getitem__(self, index: int) -> NpuConfig: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NpuConfig]: ...
    def __getitem__(self, index: int | slice) -> NpuConfig | Sequence[NpuConfig]:
        if isinstance(index, slice):
            return _Rows(self._table, self._rows[index])
        return self._table.npu(int(self._rows[index]))

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True, slots=True)
class StepKey:
    """Steps that differ in their cached tokens at most.

    Attributes:
        phase: ``PREFILL_STEP``, ``SCHEDULER_STEP`` or ``DECODE``.
        weight_bits: Width read.
        prompt_tokens: Of a prefill or the learned scheduler; 0 for decode steps.
    """

    phase: int
    weight_bits: int
    prompt_tokens: int = 0


class NpuStacks:
    """NPUs arranged in stacks.

    Args:
        table: The NPUs, each :func:`is_separable`.

    Attributes:
        stacks: Rows of the table that can run as one array.
    """

    def __init__(self, table: NpuTable) -> None:
        self.table = table
        self._services: dict[str, tuple[list[Services], NDArray[np.intp]]] = {}
        keys = []
        for section, fields in _SECTIONS.items():
            npus, inverse = table.combinations(*fields)
            base = npus[0]
            # Only this section differs, so that a key says what this section makes different.
            alike = [npu.model_copy(update={name: getattr(base, name) for name in _others(fields)}) for npu in npus]
            services = [build_services(npu) for npu in alike]
            self._services[section] = services, inverse
            known: dict[object, int] = {}
            keys.append(np.array([known.setdefault(stacking_key(one), len(known)) for one in services])[inverse])
        searches = table.gather(lambda npu: npu.control.tiling == "search", "control")
        keys.append(np.where(searches, np.arange(len(table)), -1))  # each has programs of its own
        _, stack = np.unique(np.array(keys), axis=1, return_inverse=True)
        order = np.argsort(stack.reshape(-1), kind="stable")
        bounds = np.flatnonzero(np.diff(stack.reshape(-1)[order])) + 1
        self.stacks: list[NDArray[np.intp]] = np.split(order, bounds)

    def services(self, rows: NDArray[np.intp]) -> Services:
        """Service times of rows of one stack; what differs between them is a column ``[rows, 1]``."""
        first = build_services(self.table.npu(int(rows[0])))
        if len(rows) == 1:
            return first

        def column(section: str, value: Callable[[Services], int]) -> IntArray:
            services, inverse = self._services[section]
            chosen = inverse[rows]
            used = np.zeros(len(services), dtype=bool)
            used[chosen] = True
            numbers = np.zeros(len(services), dtype=np.int64)
            numbers[used] = [value(services[one]) for one in np.flatnonzero(used).tolist()]
            return numbers[chosen][:, None]

        def dimensions(array: str) -> tuple[IntArray, IntArray, IntArray]:
            def size(place: int) -> IntArray:
                return column("matrix", lambda one: getattr(one.matrix, array)[place])

            return size(0), size(1), size(2)

        def lookups(bits: int) -> IntArray:
            return column("matrix", lambda one: one.matrix.lookups_per_cycle[bits])

        matrix = replace(
            first.matrix,
            mm=dimensions("mm"),
            mv=dimensions("mv"),
            cores=column("matrix", lambda one: one.matrix.cores),
            lookups_per_cycle={bits: lookups(bits) for bits in first.matrix.lookups_per_cycle},
        )
        buffers = replace(
            first.buffers,
            weight_half=column("buffers", lambda one: one.buffers.weight_half),
            codebook_half=column("buffers", lambda one: one.buffers.codebook_half),
        )
        return replace(
            first,
            npus=_Rows(self.table, rows),
            matrix=matrix,
            buffers=buffers,
            dram=replace(first.dram, rate=column("memory", lambda one: one.dram.rate)),
            lanes=column("sfu", lambda one: one.lanes),
        )


def _others(fields: Sequence[str]) -> Iterator[str]:
    return (name for name in NpuConfig.model_fields if name not in fields)


@dataclass(frozen=True)
class StackedSteps:
    """Steps of one model on many NPUs.

    Attributes:
        npus: The NPUs.
        shape: The model.
        header: Bits of everything but the weights.
    """

    npus: NpuStacks
    shape: ModelShape
    header: TraceHeader
    _last: dict[tuple[StepKey, int, bytes], Program] = field(default_factory=dict, repr=False)

    @property
    def stacks(self) -> Sequence[NDArray[np.intp]]:
        """Rows of NPUs that do the same work."""
        return self.npus.stacks

    def cycles(self, key: StepKey, tokens: IntArray, rows: NDArray[np.intp]) -> IntArray:
        """Cycles of steps on rows of one stack, ``[rows, steps]``; -1 where a buffer is too small for a tile.

        Args:
            key: What the steps have in common.
            tokens: Cached tokens of decode steps; of the others there is one step, whatever it holds.
            rows: Rows of the table, all of one stack.
        """
        found = np.full((len(rows), len(tokens)), -1, dtype=np.int64)
        for columns, spans in self._spans(key, tokens, rows):
            at_once = LANES_AT_ONCE if spans is None else ENDS_AT_ONCE
            used = tokens[columns if spans is None else columns[spans.ends]]
            for places, program in self._programs(key, used, rows, at_once):
                if spans is None:
                    found[np.ix_(places, columns)] = run_program(program, (len(places), len(columns)))
                    continue
                cycles, proved = spans.cycles(program, len(places))
                found[np.ix_(places, columns)] = cycles
                rest = places[~proved]
                for left, whole in self._programs(key, tokens[columns], rows[rest], LANES_AT_ONCE):
                    found[np.ix_(rest[left], columns)] = run_program(whole, (len(left), len(columns)))
        return found

    def _spans(
        self, key: StepKey, tokens: IntArray, rows: NDArray[np.intp]
    ) -> list[tuple[NDArray[np.intp], DecodeSpans | None]]:
        """Steps whose cycles can be proved together; None with those that are run."""
        every = np.arange(len(tokens))
        npu = self.npus.table.npu(int(rows[0]))
        if key.phase != DECODE or npu.control.tiling == "search":
            return [(every, None)]
        try:
            context, tile_keys = self._context(key, tokens, npu)
        except InputError:  # as running them says
            return [(every, None)]
        tiles = np.minimum(ceil_div(context, tile_keys), MIN_TILES)
        groups = [np.flatnonzero(tiles == count) for count in np.unique(tiles).tolist()]
        return [
            (columns, DecodeSpans.of(context[columns], tile_keys) if len(columns) > FEW_STEPS else None)
            for columns in groups
        ]

    def _context(self, key: StepKey, tokens: IntArray, npu: NpuConfig) -> tuple[IntArray, int]:
        """Tokens that decode steps read, and how many of them are a tile; equal for all NPUs of a stack."""
        precision = step_precision(npu, self.header, key.weight_bits)
        lowering = Lowering(build_services(npu), precision, self.shape.hidden_size)
        block = decode_step(self.shape, precision, 1).runs[0].block
        keys = lowering.tile_keys(next(operator for operator in block if isinstance(operator, Attention)))
        return precision.decode_context(tokens), keys

    def _programs(
        self, key: StepKey, tokens: IntArray, rows: NDArray[np.intp], at_once: int
    ) -> Iterator[tuple[NDArray[np.intp], Program]]:
        """Programs of steps on rows of one stack, ``at_once`` lanes at a time: those that can run."""
        chunk = max(1, at_once // len(tokens))
        for start in range(0, len(rows), chunk):
            places = np.arange(start, min(start + chunk, len(rows)))
            while len(places):
                try:
                    if len(places) == 1:
                        yield places, self._program_of_one(key, tokens, int(rows[places[0]]))
                    else:
                        yield places, self._program(key, tokens, self.npus.services(rows[places]))
                except TileSizeError as error:
                    fits = np.broadcast_to(np.asarray(error.fits).reshape(-1), places.shape)
                    places = places[fits >= 1]
                    continue
                except InputError:
                    break
                break

    def work(self, key: StepKey, tokens: IntArray, row: int) -> Work:
        """Work of steps on an NPU; it is that of every NPU of its stack, busy cycles and instructions aside."""
        return self._program_of_one(key, tokens, row).work()

    def monotone_from(self, key: StepKey, tokens: IntArray, row: int) -> NDArray[np.bool_]:
        """Which decode steps take no longer than any later one of the same width, as far as that is known, ``[steps]``.

        A step with more cached tokens has the same instructions and more of them, none of them shorter, provided that
        the fewer tokens leave room in their last tile for the step's own token: only then is the first step's
        last tile no longer than the full tile in its place. Searched tiles differ from step to step.
        """
        npu = self.npus.table.npu(row)
        if npu.control.tiling == "search":
            return np.zeros(len(tokens), dtype=bool)
        try:
            context, tile_keys = self._context(key, tokens, npu)
        except InputError:  # as running them says
            return np.zeros(len(tokens), dtype=bool)
        return np.asarray(context % tile_keys != 0)

    def _program_of_one(self, key: StepKey, tokens: IntArray, row: int) -> Program:
        """The program of an NPU; the last one is kept, since searching its tiles takes long."""
        place = key, row, tokens.tobytes()
        if place not in self._last:
            program = self._program(key, tokens, build_services(self.npus.table.npu(row)))
            self._last.clear()
            self._last[place] = program
        return self._last[place]

    def _program(self, key: StepKey, tokens: IntArray, services: Services) -> Program:
        precision = step_precision(services.npus[0], self.header, key.weight_bits)
        given: Amount = tokens if key.phase == DECODE else key.prompt_tokens
        step = _STEP_OF[key.phase](self.shape, precision, given)
        return Lowering(services, precision, self.shape.hidden_size).program(step)
