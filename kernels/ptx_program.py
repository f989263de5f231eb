"""Straight-line PTX under construction, and what every decoder starts with: index bits brought together.

A word of a plane holds one bit of 32 weights, four to a nibble (:mod:`kernels.layout`). Words of two planes are merged
so that nibbles hold two bits of two weights, words of two such pairs so that they hold four bits of one: the
transposition of a 4 x 4 bit matrix in each nibble. One ``lop3`` merges eight nibbles, so four planes of 32 weights take
16 shifts and merges, where masking every bit by itself takes 28.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Bytes of a (0..3) and b (4..7) in turn: a0 b0 a1 b1 and a2 b2 a3 b3.
INTERLEAVE = ("0x5140", "0x7362")
# lop3 takes bits from its first source where the third is set, else from its second.
_CHOOSE = "0xe4"
_NIBBLE_BITS = 4
_LOW_NIBBLES = 0x0F0F0F0F


class Field(NamedTuple):
    """Where index bits lie: in every nibble of a register, from bit ``offset`` on; other bits are undefined."""

    register: str
    offset: int


class Program:
    """Instructions on 32-bit registers; every result gets one of its own."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._registers = 0

    def emit(self, operation: str, *operands: str, into: str | None = None) -> str:
        """Append an instruction and name its result."""
        if into is None:
            into = f"r{self._registers}"
            self._registers += 1
        self._lines.append(f"{operation} {', '.join((into, *operands))};")
        return into

    def shift(self, source: str, left: int) -> str:
        """Shift left, or right where ``left`` is negative."""
        if left == 0:
            return source
        return self.emit("shl.b32" if left > 0 else "shr.u32", source, str(abs(left)))

    def keep(self, source: str, mask: int) -> str:
        """The bits where the mask is set."""
        return self.emit("and.b32", source, hexadecimal(mask))

    def choose(self, where_set: str, where_clear: str, mask: int) -> str:
        """Bits of the first source where the mask is set, else of the second."""
        return self.emit("lop3.b32", where_set, where_clear, hexadecimal(mask), _CHOOSE)

    def text(self) -> str:
        """The program in braces, so that its registers are its own."""
        return "{" + " ".join([f".reg .b32 r<{self._registers}>;", *self._lines]) + "}"


def hexadecimal(value: int) -> str:
    """A 32-bit constant."""
    return f"0x{value:08x}"


def gather_nibbles(program: Program, planes: Sequence[str]) -> list[Field]:
    """The index bits of one to four planes, the first most significant, in nibbles, for p = 0..3."""
    if len(planes) == 1:
        return [Field(planes[0], p) for p in range(4)]
    pairs = merge_pair(program, *planes[-2:])
    return pairs if len(planes) == 2 else merge_fields(program, pairs, gather_nibbles(program, planes[:-2]))


def merge_pair(program: Program, upper: str, lower: str) -> list[Field]:
    """Two planes: p = 0 and 2 in one register, p = 1 and 3 in another."""
    even = program.choose(lower, program.shift(upper, 1), 0x55555555)
    odd = program.choose(program.shift(lower, -1), upper, 0x55555555)
    return [Field(even, 0), Field(odd, 0), Field(even, 2), Field(odd, 2)]


def merge_fields(program: Program, lower: Sequence[Field], upper: Sequence[Field]) -> list[Field]:
    """Fields of two bits below fields of one or two, each p in a register of its own."""
    merged = []
    for low, high in zip(lower, upper, strict=True):
        aligned = program.shift(low.register, -low.offset), program.shift(high.register, 2 - high.offset)
        merged.append(Field(program.choose(*aligned, 0x33333333), 0))
    return merged


def gather_bytes(program: Program, planes: Sequence[str], into: Sequence[str] | None = None) -> list[str]:
    """The indices of one to eight planes in bytes: eight registers, one for each slab; byte i is column 4u + i."""
    low, top = planes[-_NIBBLE_BITS:], planes[:-_NIBBLE_BITS]
    slabs = []
    for p, (even, odd) in enumerate(_two_nibbles(program, low, top) if top else _one_nibble(program, low)):
        for half in range(2):
            target = into[2 * p + half] if into else None
            slabs.append(program.emit("prmt.b32", even, odd, INTERLEAVE[half], into=target))
    return slabs


def _one_nibble(program: Program, planes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """For each p the bytes of even and of odd columns: byte k of slab 2p (k = 0, 1) or 2p + 1 (k = 2, 3)."""
    mask = 0x01010101 * ((1 << len(planes)) - 1)
    for register, offset in gather_nibbles(program, planes):
        even, odd = (program.keep(program.shift(register, -place), mask) for place in (offset, offset + _NIBBLE_BITS))
        yield even, odd


def _two_nibbles(program: Program, low: Sequence[str], top: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The same of more than four planes."""
    mask = 0x11111111 * ((1 << len(top)) - 1)
    for lower, upper in zip(gather_nibbles(program, low), gather_nibbles(program, top), strict=True):
        kept = program.keep(upper.register, mask << upper.offset) if len(top) < _NIBBLE_BITS else upper.register
        raised = program.shift(kept, _NIBBLE_BITS - upper.offset)
        even = program.choose(lower.register, raised, _LOW_NIBBLES)
        lowered = program.shift(lower.register, -_NIBBLE_BITS)
        yield even, program.choose(lowered, program.shift(kept, -upper.offset), _LOW_NIBBLES)
