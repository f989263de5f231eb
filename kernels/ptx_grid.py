"""Inline PTX that decodes words of uniform grids by arithmetic, without a table (see :mod:`kernels.layout`).

An index of b bits becomes the fp16 number 1024 + q by being written into the mantissa of 1024 (``0x6400``, whose last
bit counts 1); one exact operation makes q - zero of it, and one product with the step rounds once. The last two run
on the floating-point pipe, two weights at a time, so that the integer pipe, which limits the byte permutes, has less
to do.

Up to four bits, a byte of two nibbles is copied into both halves of a register below ``0x64``; a mask leaves the lower
nibble in the lower half and the upper nibble in the upper half, there counting 16 times, which the exact operation, a
multiply-add, undoes. Wider indices fill a byte, and each byte takes its place below ``0x64``.

The text is generated once per width; a numpy emulation in the tests runs it on random words.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from kernels.ptx_program import Program, gather_bytes, gather_nibbles, hexadecimal

# Bytes 0 and 1, or 2 and 3, of the first source, each below a byte of the second.
_EXPAND = ("0x4140", "0x4342")
# The upper byte of 1024 and its neighbours.
_THOUSAND = "0x64646464"
_NIBBLE_BITS = 4


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
    program = Program()
    if bits <= _NIBBLE_BITS:
        _decode_nibbles(program, planes, step, zero)
    else:
        _decode_bytes(program, planes, step, zero)
    return program.text(), ",".join(["=r"] * 16 + ["r"] * (bits + 4))


def _decode_nibbles(program: Program, planes: Sequence[str], step: str, zero: str) -> None:
    """Two to four planes: a byte holds the indices of two neighbouring columns."""
    fields = gather_nibbles(program, planes)
    thousand = program.emit("mov.b32", _THOUSAND)
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
                kept = program.keep(both, 0xFF00FF00 | mask | mask << 20)
                code = program.emit("fma.rn.f16x2", kept, scales[field.offset], biases[field.offset])
                program.emit("mul.rn.f16x2", code, step, into=f"${2 * (2 * p + half) + pair}")


def _decode_bytes(program: Program, planes: Sequence[str], step: str, zero: str) -> None:
    """Five to eight planes: an index fills a byte."""
    thousand = program.emit("mov.b32", _THOUSAND)
    bias = program.emit("sub.rn.f16x2", program.emit("mov.b32", _half_pair(-1024, -1024)), zero)
    for slab, indices in enumerate(gather_bytes(program, planes)):
        for pair, order in enumerate(_EXPAND):
            code = program.emit("add.rn.f16x2", program.emit("prmt.b32", indices, thousand, order), bias)
            program.emit("mul.rn.f16x2", code, step, into=f"${2 * slab + pair}")


def _half_pair(lower: float, upper: float) -> str:
    """Two fp16 numbers in one register."""
    return hexadecimal(int.from_bytes(struct.pack("<2e", lower, upper), "little"))
