"""Inline PTX that decodes any-precision words by byte permutes (see :mod:`kernels.layout` for the layout).

``prmt.b32 d, a, b, s`` fills byte k of d with the byte of (a, b) that nibble k of s names (0..3 in a, 4..7 in b).
So a table of eight bytes in two registers gives four look-ups an instruction. fp16 entries take two tables, of low
and of high bytes, and two more permutes that interleave the results into half pairs.

The text is generated once per width; a numpy emulation in the tests runs it on random words.
"""

from __future__ import annotations

# Interleave bytes of l (0..3) and g (4..7) into the half pairs (l0 g0 l1 g1) and (l2 g2 l3 g3).
_FIRST_PAIR, _SECOND_PAIR = "0x5140", "0x7362"


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
    low, high = tables[:words], tables[words:]
    lines = [".reg .b32 part, select, pick, first, second, lows, highs;"]
    for p in range(4):
        lines += _join_index_bits(planes[-3:], p)
        if bits == 4:
            lines += _pick_bits(planes[0], p)
        for half in range(2):
            if half:
                lines.append("shr.u32 select, select, 16;")
                if bits == 4:
                    lines.append("shr.u32 pick, pick, 16;")
            lines += _look_up(low, "lows") + _look_up(high, "highs")
            slab = 2 * p + half
            lines.append(f"prmt.b32 ${2 * slab}, lows, highs, {_FIRST_PAIR};")
            lines.append(f"prmt.b32 ${2 * slab + 1}, lows, highs, {_SECOND_PAIR};")
    constraints = ["=r"] * 16 + ["r"] * (bits + 4 * len(tables))
    return "{" + " ".join(lines) + "}", ",".join(constraints)


def _join_index_bits(planes: list[str], p: int) -> list[str]:
    """Fill ``select`` with eight nibbles, each the index bits that ``planes`` (at most three) hold at bit p."""
    lines = []
    for order, plane in enumerate(planes):
        target = len(planes) - 1 - order
        register = "select" if order == 0 else "part"
        lines += [_shift(register, plane, target - p), f"and.b32 {register}, {register}, {_every_nibble(1 << target)};"]
        if order:
            lines.append("or.b32 select, select, part;")
    return lines


def _pick_bits(plane: str, p: int) -> list[str]:
    """Fill ``pick`` with selectors that keep byte i of the first register, or of the second where the bit is set."""
    return [
        _shift("pick", plane, 2 - p),
        f"and.b32 pick, pick, {_every_nibble(4)};",
        "or.b32 pick, pick, 0x32103210;",
    ]


def _look_up(table: list[str], result: str) -> list[str]:
    """Look four bytes up in a table of one, two or four words; sixteen entries take two look-ups and a choice."""
    if len(table) < 4:
        return [f"prmt.b32 {result}, {table[0]}, {table[-1]}, select;"]
    return [
        f"prmt.b32 first, {table[0]}, {table[1]}, select;",
        f"prmt.b32 second, {table[2]}, {table[3]}, select;",
        f"prmt.b32 {result}, first, second, pick;",
    ]


def _shift(target: str, source: str, left: int) -> str:
    """Shift left, or right where ``left`` is negative."""
    if left < 0:
        return f"shr.u32 {target}, {source}, {-left};"
    return f"shl.b32 {target}, {source}, {left};"


def _every_nibble(value: int) -> str:
    return f"0x{value * 0x11111111:08x}"
