"""Inline PTX that decodes words of uniform grids by arithmetic, without a table (see :mod:`kernels.layout`).

An index of b bits becomes the fp16 number 1024 + q by being written into the mantissa of 1024 (``0x6400``, whose last
bit counts 1); one exact operation makes q - zero of it, and one product with the step rounds once. The last two run
on the floating-point pipe, two weights at a time, so that the integer pipe, which limits the byte permutes, has less
to do.

Three steps get the index there:

1. Nibbles. A nibble of a plane word holds one bit of four weights, p = 0..3. Two words are merged so that nibbles hold
   two bits of two weights, then four bits of one: the transposition of a 4 x 4 bit matrix in each nibble.
2. Up to four bits: one byte, two nibbles, is copied into both halves of a register below ``0x64``; a mask leaves the
   lower nibble in the lower half and the upper nibble in the upper half, there counting 16 times, which the exact
   operation, a multiply-add, undoes.
3. More than four bits: nibbles of the upper and the lower index bits are joined to bytes first, and each byte takes
   its place below ``0x64``.

The text is generated once per width; a numpy emulation in the tests runs it on random words.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

# lop3.b32 with this truth table takes bits from its first source where the third is set, else from its second.
_CHOOSE = "0xe4"
# Byte k of both sources in turn (E0 O0 E1 O1), and of their upper halves.
_INTERLEAVE = ("0x5140", "0x7362")
# Bytes 0 and 1, or 2 and 3, of the first source, each below a byte of the second.
_EXPAND = ("0x4140", "0x4342")
_NIBBLE_BITS = 4


class _Field(NamedTuple):
    """Where index bits lie: in every nibble of a register, from bit ``offset`` on; other bits are undefined."""

    register: str
    offset: int


class _Program:
    """Straight-line PTX; every result gets a register of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._registers = 0

    def emit(self, operation: str, *operands: str, into: str | None = None) -> str:
        """Append an instruction and name its result."""
        if into is None:
            into = f"r{self._registers}"
            self._registers += 1
        self.lines.append(f"{operation} {', '.join((into, *operands))};")
        return into

    def shift(self, source: str, left: int) -> str:
        """Shift left, or right where ``left`` is negative."""
        if left == 0:
            return source
        return self.emit("shl.b32" if left > 0 else "shr.u32", source, str(abs(left)))

    def choose(self, where_set: str, where_clear: str, mask: int) -> str:
        """Bits of the first source where the mask is set, else of the second."""
        return self.emit("lop3.b32", where_set, where_clear, _hex(mask), _CHOOSE)

    def text(self) -> str:
        """The program in braces, so that its registers are its own."""
        return "{" + " ".join([f".reg .b32 r<{self._registers}>;", *self.lines]) + "}"


def grid_decoder(bits: int) -> tuple[str, str]:
    """PTX and operand constraints that decode one word of every plane into 32 fp16 weights.

    Operands, all 32-bit registers: 16 outputs (slab s in ``$2s`` and ``$2s+1``: columns 4u, 4u+1 and 4u+2, 4u+3),
    then ``bits`` plane words, most significant first, then two registers of the step, two of the zero. Triton hands
    over four elements per 8-bit plane word, two to a register; they are equal.

    Args:
        bits: 2..8.

    Returns:
        The text and the constraint string for ``tl.inline_asm_elementwise`` with ``pack=4``.
    """
    planes = [f"${16 + plane}" for plane in range(bits)]
    step, zero = f"${16 + bits}", f"${16 + bits + 2}"
    program = _Program()
    if bits <= _NIBBLE_BITS:
        _decode_nibbles(program, planes, step, zero)
    else:
        _decode_bytes(program, planes, step, zero)
    return program.text(), ",".join(["=r"] * 16 + ["r"] * (bits + 4))


def _gather_nibbles(program: _Program, planes: Sequence[str]) -> list[_Field]:
    """Bring the index bits of one to four planes together, for p = 0..3."""
    if len(planes) == 1:
        return [_Field(planes[0], p) for p in range(4)]
    upper, lower = planes[-2:]
    even = program.choose(lower, program.shift(upper, 1), 0x55555555)
    odd = program.choose(program.shift(lower, -1), upper, 0x55555555)
    pairs = [_Field(even, 0), _Field(odd, 0), _Field(even, 2), _Field(odd, 2)]
    if len(planes) == 2:
        return pairs
    merged = []
    for low, high in zip(pairs, _gather_nibbles(program, planes[:-2]), strict=True):
        aligned = program.shift(low.register, -low.offset), program.shift(high.register, 2 - high.offset)
        merged.append(_Field(program.choose(*aligned, 0x33333333), 0))
    return merged


def _decode_nibbles(program: _Program, planes: Sequence[str], step: str, zero: str) -> None:
    """Two to four planes: a byte holds the indices of two neighbouring columns."""
    fields = _gather_nibbles(program, planes)
    thousand = program.emit("mov.b32", "0x64646464")
    index_mask = (1 << len(planes)) - 1
    scales, biases = {}, {}
    for offset in sorted({field.offset for field in fields}):
        # An index in the upper half lies a nibble higher than in the lower one.
        lower, upper = 2.0**-offset, 2.0 ** -(offset + _NIBBLE_BITS)
        scales[offset] = program.emit("mov.b32", _half_pair(lower, upper))
        origin = program.emit("mov.b32", _half_pair(-1024 * lower, -1024 * upper))
        biases[offset] = program.emit("sub.rn.f16x2", origin, zero)
    for register in dict.fromkeys(field.register for field in fields):
        for byte in range(4):
            half, pair = divmod(byte, 2)
            both = program.emit("prmt.b32", register, thousand, f"0x4{byte}4{byte}")
            for p, field in enumerate(fields):
                if field.register != register:
                    continue
                mask = index_mask << field.offset
                kept = program.emit("and.b32", both, _hex(0xFF00FF00 | mask | mask << 20))
                code = program.emit("fma.rn.f16x2", kept, scales[field.offset], biases[field.offset])
                program.emit("mul.rn.f16x2", code, step, into=f"${2 * (2 * p + half) + pair}")


def _decode_bytes(program: _Program, planes: Sequence[str], step: str, zero: str) -> None:
    """Five to eight planes: an index fills a byte."""
    low_fields = _gather_nibbles(program, planes[-_NIBBLE_BITS:])
    high_planes = planes[:-_NIBBLE_BITS]
    high_fields = _gather_nibbles(program, high_planes)
    thousand = program.emit("mov.b32", "0x64646464")
    bias = program.emit("sub.rn.f16x2", program.emit("mov.b32", _half_pair(-1024, -1024)), zero)
    index_mask = (1 << len(high_planes)) - 1
    for p, (low, high) in enumerate(zip(low_fields, high_fields, strict=True)):
        upper = high.register
        if len(high_planes) < _NIBBLE_BITS:
            upper = program.emit("and.b32", upper, _hex((index_mask << high.offset) * 0x11111111))
        # Byte k holds columns 2k (even) or 2k + 1 (odd) of slabs 2p (k = 0, 1) and 2p + 1 (k = 2, 3).
        even = program.choose(low.register, program.shift(upper, _NIBBLE_BITS - high.offset), 0x0F0F0F0F)
        odd = program.choose(program.shift(low.register, -_NIBBLE_BITS), program.shift(upper, -high.offset), 0x0F0F0F0F)
        for half in range(2):
            columns = program.emit("prmt.b32", even, odd, _INTERLEAVE[half])
            for pair in range(2):
                whole = program.emit("prmt.b32", columns, thousand, _EXPAND[pair])
                code = program.emit("add.rn.f16x2", whole, bias)
                program.emit("mul.rn.f16x2", code, step, into=f"${2 * (2 * p + half) + pair}")


def _half_pair(lower: float, upper: float) -> str:
    """Two fp16 numbers in one register."""
    return _hex(int.from_bytes(struct.pack("<2e", lower, upper), "little"))


def _hex(value: int) -> str:
    return f"0x{value:08x}"
