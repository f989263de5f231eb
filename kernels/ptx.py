"""Inline PTX that decodes any-precision words by byte permutes (see :mod:`kernels.layout` for the layout).

``prmt.b32 d, a, b, s`` fills byte k of d with the byte of (a, b) that nibble k of s names (0..3 in a, 4..7 in b).
So a table of eight bytes in two registers gives four look-ups an instruction. fp16 entries take two tables, of low
and of high bytes, and two more permutes that interleave the results into half pairs. Where entries are looked up in
memory instead, the planes become bytes.

The text is generated once per width; a numpy emulation in the tests runs it on random words.
"""

from __future__ import annotations

from kernels.ptx_program import INTERLEAVE, Field, Program, gather_bytes, gather_nibbles, merge_fields, merge_pair

# lop3: the first source where the second is set, or the third.
_AND_OR = "0xea"


def half_decoder(bits: int) -> tuple[str, str]:
    """PTX and operand constraints that decode one word of every plane into 32 fp16 weights.

    Operands, all 32-bit registers: 16 outputs (slab s in ``$2s`` and ``$2s+1``: columns 4u, 4u+1 and 4u+2, 4u+3),
    then ``bits`` plane words, most significant first, then the words of the low-byte table, then those of the
    high-byte table. A table word comes four times, because Triton hands over four elements per 8-bit plane word.

    Args:
        bits: 2, 3 or 4.

    Returns:
        The text and the constraint string for ``tl.inline_asm_elementwise`` with ``pack=4``.
    """
    planes = [f"${16 + plane}" for plane in range(bits)]
    words = (1 << bits) // 4
    tables = [f"${16 + bits + 4 * word}" for word in range(2 * words)]
    program = Program()
    for p, selector in enumerate(_selectors(program, planes[-3:])):
        pick = _pick(program, planes[0], p) if bits == 4 else ""
        for half in range(2):
            # A permute reads the lower half of its selector.
            select, choice = (program.shift(word, -16) if half and word else word for word in (selector, pick))
            low, high = (_look_up(program, part, select, choice) for part in (tables[:words], tables[words:]))
            for pair, order in enumerate(INTERLEAVE):
                program.emit("prmt.b32", low, high, order, into=f"${2 * (2 * p + half) + pair}")
    return program.text(), ",".join(["=r"] * 16 + ["r"] * (bits + 4 * len(tables)))


def index_decoder(bits: int) -> tuple[str, str]:
    """PTX and operand constraints that turn one word of every plane into 32 codebook indices of a byte each.

    Operands, all 32-bit registers: 8 outputs (slab s in ``$s``: byte i is column 4u + i), then ``bits`` plane words,
    most significant first.

    Args:
        bits: 1..8.

    Returns:
        The text and the constraint string for ``tl.inline_asm_elementwise`` with ``pack=4``.
    """
    program = Program()
    gather_bytes(program, [f"${8 + plane}" for plane in range(bits)], into=[f"${slab}" for slab in range(8)])
    return program.text(), ",".join(["=r"] * 8 + ["r"] * bits)


def _selectors(program: Program, planes: list[str]) -> list[str]:
    """For p = 0..3 a register of eight nibbles, each the index that two or three planes hold; bit 3 is zero."""
    if len(planes) == 2:
        fields = gather_nibbles(program, planes)
        return [program.keep(program.shift(field.register, -field.offset), 0x33333333) for field in fields]
    # Of the top plane only the bits that are wanted may stay: bit 3 of a selector would ask for a sign.
    even, odd = program.keep(planes[0], 0x55555555), program.keep(planes[0], 0xAAAAAAAA)
    top = [Field(even, 0), Field(odd, 1), Field(even, 2), Field(odd, 3)]
    return [field.register for field in merge_fields(program, merge_pair(program, *planes[1:]), top)]


def _pick(program: Program, plane: str, p: int) -> str:
    """Selectors that keep byte i of the first register, or take that of the second where bit p of the plane is set."""
    return program.emit("lop3.b32", program.shift(plane, 2 - p), "0x44444444", "0x32103210", _AND_OR)


def _look_up(program: Program, table: list[str], select: str, pick: str) -> str:
    """Look four bytes up in a table of one, two or four words; sixteen entries take two look-ups and a choice."""
    if len(table) < 4:
        return program.emit("prmt.b32", table[0], table[-1], select)
    first, second = (program.emit("prmt.b32", *table[half : half + 2], select) for half in (0, 2))
    return program.emit("prmt.b32", first, second, pick)
