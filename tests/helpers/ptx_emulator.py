"""Straight-line PTX of 32-bit instructions, executed in numpy on many words at once."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]


def run(text: str, registers: dict[str, Words]) -> dict[str, Words]:
    """Execute a program as the decoders emit it: in braces, its registers declared as ``r<count>``.

    Args:
        text: The program.
        registers: The operands by name (``$16``), equally many words each.

    Returns:
        All registers.
    """
    count = len(next(iter(registers.values())))
    declaration, *instructions = (part.strip() for part in text.strip("{}").split(";") if part.strip())
    declared = re.fullmatch(r"\.reg \.b32 r<(\d+)>", declaration)
    assert declared, f"no declaration of registers: {declaration}"

    def value(operand: str) -> Words:
        return np.full(count, int(operand, 0), dtype=np.uint32) if operand[0].isdigit() else registers[operand]

    for instruction in instructions:
        name, operands = instruction.split(" ", 1)
        target, *sources = (operand.strip() for operand in operands.split(","))
        assert target[0] == "$" or int(target[1:]) < int(declared[1]), f"{target} is not declared"
        registers[target] = _OPERATIONS[name](*map(value, sources)).astype(np.uint32)
    return registers


def _permute(a: Words, b: Words, selector: Words) -> Words:
    """prmt.b32 in its default mode, of which the lower half of the selector counts."""
    result = np.zeros_like(a)
    for k in range(4):
        nibble = (selector >> np.uint32(4 * k)) & np.uint32(15)
        assert (nibble < 8).all(), "a selector nibble asks for a sign"
        chosen = np.where(nibble < 4, a, b) >> (np.uint32(8) * (nibble & np.uint32(3)))
        result |= (chosen & np.uint32(255)) << np.uint32(8 * k)
    return result


def _logic(a: Words, b: Words, c: Words, table: Words) -> Words:
    """lop3.b32: bit 4a + 2b + c of the table, at every bit."""
    result = np.zeros_like(a)
    for place in range(8):
        if int(table[0]) >> place & 1:
            terms = [word if place >> (2 - order) & 1 else ~word for order, word in enumerate((a, b, c))]
            result |= terms[0] & terms[1] & terms[2]
    return result


def _halves(word: Words) -> NDArray[np.float16]:
    return np.ascontiguousarray(word).view(np.float16)


def _multiply_add(a: Words, b: Words, c: Words) -> Words:
    """fma.rn.f16x2, rounded once: the decoders' products and sums are exact in float64."""
    return (_halves(a).astype(np.float64) * _halves(b) + _halves(c)).astype(np.float16).view(np.uint32)


_OPERATIONS: dict[str, Callable[..., Words]] = {
    "mov.b32": lambda a: a,
    "shl.b32": lambda a, b: a << b,
    "shr.u32": lambda a, b: a >> b,
    "and.b32": lambda a, b: a & b,
    "lop3.b32": _logic,
    "prmt.b32": _permute,
    "add.rn.f16x2": lambda a, b: (_halves(a) + _halves(b)).view(np.uint32),
    "sub.rn.f16x2": lambda a, b: (_halves(a) - _halves(b)).view(np.uint32),
    "mul.rn.f16x2": lambda a, b: (_halves(a) * _halves(b)).view(np.uint32),
    "fma.rn.f16x2": _multiply_add,
}
