"""The search for a step's best tiles, as a compiler with the simulator at hand would do it.

The biggest tile that fits is not always the best one: nothing hides the load of a first tile, nor the products of a
last one. The search tries all combinations of limits from ladders of powers of two and takes, for each step, those
with the fewest cycles. A program depends on its limits alone, and a buffer only says where its ladder ends. So an NPU
with more of any buffer tries every program that one with less does, and more: it is never slower. The price is that
a tile which fills an odd buffer is not among those tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from hwsim.fast import run_program
from hwsim.program import Program
from hwsim.units import Amount, IntArray
from hwsim.workload import Attention, KvAppend, Linear, Operator, Step

if TYPE_CHECKING:
    from hwsim.lowering import Lowering

_UNTRIED = np.iinfo(np.int64).max
_LANES_AT_ONCE = 1 << 17  # limits times steps whose states are held at once


@dataclass(frozen=True, slots=True)
class TileLimits:
    """Upper limits of tiles; one below a row, a key or a token means one. An array limits each step by itself.

    Attributes:
        weight_bytes: Planes, plain weights and indices of a linear layer's tile.
        codebook_bytes: Its codebooks.
        keys: Cached tokens of a tile of attention.
        activation_bytes: Input, output and residual of a block of tokens.
        kv_on_chip: A prefill's keys and values stay in the KV buffer.
    """

    weight_bytes: Amount
    codebook_bytes: Amount
    keys: Amount
    activation_bytes: int
    kv_on_chip: bool


def ladder(most: int) -> list[int]:
    """Powers of two up to ``most``, the largest first; whatever ``most``, the smaller ones are the same.

    >>> ladder(9)
    [8, 4, 2, 1]
    """
    return [1 << exponent for exponent in reversed(range(most.bit_length()))]


def search_tiles(lowering: Lowering, step: Step) -> TileLimits:
    """Limits with which ``step`` takes the fewest cycles.

    Args:
        lowering: Of one NPU, and without limits.
        step: One step, or many that differ in their cached tokens; each gets limits of its own.

    Raises:
        InputError: If a buffer is too small for one tile.
    """
    operators = list(_counted(step))
    contexts = next(operator.cached for operator, _ in operators if isinstance(operator, Attention))
    steps = np.size(contexts)
    structures = list(_structures(lowering, operators))
    best, structure = np.full(steps, _UNTRIED), structures[0]
    chosen = np.zeros((steps, 3), dtype=np.int64)
    at_once = max(1, _LANES_AT_ONCE // steps)
    for tried in structures:
        if _least_cycles(lowering, operators, tried[0]) > best.max():
            continue
        columns = _columns(lowering, step, operators, tried)
        for start in range(0, len(columns), at_once):
            part = columns[start : start + at_once]
            cycles = run_program(_limited(lowering, part, tried).program(step), (len(part), steps))
            least = cycles.min(axis=0)
            better = least < best
            if np.any(better):  # where there are several structures there is one step, so all of it is better
                structure = tried
            best = np.minimum(best, least)
            chosen = np.where(better[:, None], part[cycles.argmin(axis=0)], chosen)
    if np.ndim(contexts) == 0:
        weight, codebook, keys = chosen[0].tolist()
    else:
        weight, codebook, keys = chosen.T
    return TileLimits(weight, codebook, keys, *structure)


Counted = list[tuple[Operator, int]]
"""Operators of a step, and how many layers run each."""

Structure = tuple[int, bool]
"""Limits that change the stages of a program: ``activation_bytes`` and ``kv_on_chip``."""


def _counted(step: Step) -> Iterator[tuple[Operator, int]]:
    yield from ((operator, 1) for operator in (*step.head, *step.tail))
    for run in step.runs:
        yield from ((operator, run.layers) for operator in run.block)


def _limited(lowering: Lowering, columns: IntArray, structure: Structure) -> Lowering:
    """Many limits at once, a row of the program's arrays for each."""
    weight, codebook, keys = columns.T[:, :, None]
    return lowering.limited(TileLimits(weight, codebook, keys, *structure))


def _columns(lowering: Lowering, step: Step, operators: Counted, structure: Structure) -> IntArray:
    """Limits to try, ``[columns, 3]``: of weights, codebooks and keys, the largest first.

    Those of weights and codebooks that make the same program of this structure are tried once, and one of keys
    suffices beyond the longest context.
    """
    attentions = [operator for operator, _ in operators if isinstance(operator, Attention)]
    longest = max(int(np.max(attention.cached)) + attention.tokens for attention in attentions)
    rungs = ladder(min(lowering.tile_keys(attention) for attention in attentions))
    keys = [most for most in rungs if most < 2 * longest]
    buffers = lowering.services.buffers
    pairs = product(ladder(buffers.weight_half), ladder(buffers.codebook_half))
    columns = np.array([(*pair, keys[0]) for pair in pairs], dtype=np.int64)
    distinct = columns[_distinct(_limited(lowering, columns, structure).program(step))]
    return np.array([(*pair, most) for *pair, _ in distinct.tolist() for most in keys], dtype=np.int64)


def _structures(lowering: Lowering, operators: Counted) -> Iterator[Structure]:
    """Structures that differ: the largest blocks of tokens first, keys and values on chip first."""
    append = next((operator for operator, _ in operators if isinstance(operator, KvAppend)), None)
    attention = next(operator for operator, _ in operators if isinstance(operator, Attention))
    on_chip = lowering.keeps_kv(attention, append)
    choices = [on_chip] if attention.tokens == 1 or not on_chip else [True, False]
    known = None
    for activation_bytes in ladder(lowering.services.buffers.activation):
        blocks = _blocks(lowering, operators, activation_bytes)
        if blocks != known:
            yield from ((activation_bytes, choice) for choice in choices)
        known = blocks


def _in_blocks(lowering: Lowering, activation_bytes: int) -> Lowering:
    return lowering.limited(TileLimits(1, 1, 1, activation_bytes, kv_on_chip=False))


def _blocks(lowering: Lowering, operators: Counted, activation_bytes: int) -> list[int]:
    """Blocks of tokens of every linear layer and attention."""
    limited = _in_blocks(lowering, activation_bytes)
    blocked = [operator for operator, _ in operators if isinstance(operator, Linear | Attention)]
    return [len(limited.token_blocks(operator)) for operator in blocked]


def _least_cycles(lowering: Lowering, operators: Counted, activation_bytes: int) -> int:
    """Cycles that the linear layers take at the least, whatever their tiles.

    The bus reads all weights for each block of tokens. The matrix unit does all products, and waits where there are
    several blocks, since a block's input is loaded once the block before it has ended.
    """
    limited = _in_blocks(lowering, activation_bytes)
    size = cycles = 0
    for operator, times in operators:
        if isinstance(operator, Linear):
            blocks = limited.linear_blocks(operator)
            size += times * len(blocks) * operator.n * operator.row_bytes
            cycles += times * sum(limited.product_cycles(block) for block in blocks)
            if len(blocks) > 1:
                reloads = [limited.reload(block.name, block.tokens * block.k).timing for block in blocks]
                cycles += times * sum(reload.load + reload.load_latency for reload in reloads)
    npu = lowering.services.npus[0]
    return max(int(size * Fraction(npu.clock_hz) / Fraction(npu.memory.bandwidth_bytes_per_s)), cycles)


def _distinct(program: Program) -> IntArray:
    """First of each group of columns that make the same program."""
    fields: list[Amount] = [field for stage, _ in program.counted_stages() for field in stage.timing]
    rows = np.hstack([field[:, :1] for field in fields if np.ndim(field) == 2])
    return np.sort(np.unique(rows, axis=0, return_index=True)[1])
