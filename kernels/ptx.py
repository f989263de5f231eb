"""Inline PTX that decodes any-precision words by byte permutes (see :mod:`kernels.layout` for the layout).

``prmt.b32 d, a, b, s`` fills byte k of d with the byte of (a, b) that nibble k of s names (0..3 in a, 4..7 in b).
So a table of eight bytes in two registers gives four look-ups an instruction. fp16 entries take two tables, of low
and of high bytes, and two more permutes that interleave the results into half pairs.

The selectors come from the planes by transposing bits within each nibble, two at a time: where one plane's even bits
join another's, shifted by one, a single ``lop3`` serves two of the four bits. That is 10, 15 and 16 logic
instructions and shifts for 2, 3 and 4 planes of 32 weights, where masking every bit by itself takes 14, 21 and 28.

The text is generated once per width; a numpy emulation in the tests runs it on random words.
"""

from __future__ import annotations

# Interleave bytes of a (0..3) and b (4..7): a0 b0 a1 b1 and a2 b2 a3 b3.
_FIRST_PAIR, _SECOND_PAIR = "0x5140", "0x7362"
# lop3 tables: the bits of a where c is set and those of b elsewhere; a and b, or c.
_CHOOSE, _AND_OR = "0xe4", "0xea"


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
    lines = [".reg .b32 even, odd, top_even, top_odd, part, n0, n1, n2, n3, pick, first, second, lows, highs;"]
    lines += _transpose(planes[-3:], "n")
    for p in range(4):
        if bits == 4:
            lines += _pick_bits(planes[0], p)
        for half in range(2):
            if half:
                lines.append(f"shr.u32 n{p}, n{p}, 16;")
                if bits == 4:
                    lines.append("shr.u32 pick, pick, 16;")
            lines += _look_up(low, f"n{p}", "lows") + _look_up(high, f"n{p}", "highs")
            slab = 2 * p + half
            lines.append(f"prmt.b32 ${2 * slab}, lows, highs, {_FIRST_PAIR};")
            lines.append(f"prmt.b32 ${2 * slab + 1}, lows, highs, {_SECOND_PAIR};")
    constraints = ["=r"] * 16 + ["r"] * (bits + 4 * len(tables))
    return "{" + " ".join(lines) + "}", ",".join(constraints)


def index_decoder(bits: int) -> tuple[str, str]:
    """PTX and operand constraints that turn one word of every plane into 32 codebook indices of a byte each.

    Operands, all 32-bit registers: 8 outputs (slab s in ``$s``: byte i is column 4u + i), then ``bits`` plane words,
    most significant first.

    Args:
        bits: 1..8.

    Returns:
        The text and the constraint string for ``tl.inline_asm_elementwise`` with ``pack=4``.
    """
    planes = [f"${8 + plane}" for plane in range(bits)]
    lines = [".reg .b32 even, odd, top_even, top_odd, part, other, n0, n1, n2, n3, t0, t1, t2, t3;"]
    lines += _transpose(planes[-4:], "n")
    if bits > 4:
        lines += _transpose(planes[:-4], "t")
    for p in range(4):
        # Columns 4u and 4u + 2 of both halves, then 4u + 1 and 4u + 3.
        if bits > 4:
            lines.append(f"shl.b32 part, t{p}, 4;")
            lines.append(_choose("part", f"n{p}", "part", "0x0f0f0f0f"))
            lines.append(f"shr.u32 other, n{p}, 4;")
            lines.append(_choose("other", "other", f"t{p}", "0x0f0f0f0f"))
        else:
            lines.append(f"and.b32 part, n{p}, 0x0f0f0f0f;")
            lines.append(f"shr.u32 other, n{p}, 4;")
            lines.append("and.b32 other, other, 0x0f0f0f0f;")
        lines.append(f"prmt.b32 ${2 * p}, part, other, {_FIRST_PAIR};")
        lines.append(f"prmt.b32 ${2 * p + 1}, part, other, {_SECOND_PAIR};")
    return "{" + " ".join(lines) + "}", ",".join(["=r"] * 8 + ["r"] * bits)


def _transpose(planes: list[str], name: str) -> list[str]:
    """Fill ``{name}0`` .. ``{name}3`` with eight nibbles each, the index that one to four planes hold at each nibble.

    Nibble i of ``{name}p`` gathers bit p of nibble i of every plane, the last plane's lowest; bits above are zero.
    """
    n0, n1, n2, n3 = (f"{name}{p}" for p in range(4))
    if len(planes) == 1:
        shifted = [f"shr.u32 {name}{p}, {planes[0]}, {p};" for p in range(4)]
        return shifted + [f"and.b32 {name}{p}, {name}{p}, 0x11111111;" for p in range(4)]
    # Two planes: bits 0 and 1 of a nibble are the index at bit p = 0 (even) or 1 (odd), bits 2 and 3 that at p + 2.
    lines = _join_pair(planes[-2], planes[-1], "even", "odd")
    if len(planes) == 2:
        lines += [f"shr.u32 {n2}, even, 2;", f"shr.u32 {n3}, odd, 2;"]
        pairs = {n0: "even", n1: "odd", n2: n2, n3: n3}
        return lines + [f"and.b32 {target}, {source}, 0x33333333;" for target, source in pairs.items()]
    if len(planes) == 3:
        # Of the top plane only the bits that are wanted may stay: bit 3 of a selector would ask for a sign.
        lines += [f"and.b32 top_even, {planes[0]}, 0x55555555;", f"and.b32 top_odd, {planes[0]}, 0xaaaaaaaa;"]
        shifts = {n0: "shl.b32 part, top_even, 2;", n1: "shl.b32 part, top_odd, 1;", n3: "shr.u32 part, top_odd, 1;"}
    else:
        lines += _join_pair(planes[0], planes[1], "top_even", "top_odd")
        shifts = {n0: "shl.b32 part, top_even, 2;", n1: "shl.b32 part, top_odd, 2;"}
    for target, lower, top in ((n0, "even", "top_even"), (n1, "odd", "top_odd")):
        lines += [shifts[target], _choose(target, lower, "part", "0x33333333")]
    for target, lower, top in ((n2, "even", "top_even"), (n3, "odd", "top_odd")):
        lines.append(f"shr.u32 {target}, {lower}, 2;")
        if target in shifts:
            lines.append(shifts[target])
        lines.append(_choose(target, target, "part" if target in shifts else top, "0x33333333"))
    return lines


def _join_pair(upper: str, lower: str, even: str, odd: str) -> list[str]:
    """Give every bit of ``lower`` its neighbour from ``upper`` on the left: even bits in one word, odd in another."""
    return [
        f"shl.b32 part, {upper}, 1;",
        _choose(even, lower, "part", "0x55555555"),
        f"shr.u32 part, {lower}, 1;",
        _choose(odd, "part", upper, "0x55555555"),
    ]


def _choose(target: str, a: str, b: str, mask: str) -> str:
    """The bits of ``a`` where the mask is set, those of ``b`` elsewhere."""
    return f"lop3.b32 {target}, {a}, {b}, {mask}, {_CHOOSE};"


def _pick_bits(plane: str, p: int) -> list[str]:
    """Fill ``pick`` with selectors that keep byte i of the first register, or of the second where the bit is set."""
    shifts = {0: f"shl.b32 pick, {plane}, 2;", 1: f"shl.b32 pick, {plane}, 1;", 3: f"shr.u32 pick, {plane}, 1;"}
    source = "pick" if p in shifts else plane
    return [*filter(None, [shifts.get(p)]), f"lop3.b32 pick, {source}, 0x44444444, 0x32103210, {_AND_OR};"]


def _look_up(table: list[str], select: str, result: str) -> list[str]:
    """Look four bytes up in a table of one, two or four words; sixteen entries take two look-ups and a choice."""
    if len(table) < 4:
        return [f"prmt.b32 {result}, {table[0]}, {table[-1]}, {select};"]
    return [
        f"prmt.b32 first, {table[0]}, {table[1]}, {select};",
        f"prmt.b32 second, {table[2]}, {table[3]}, {select};",
        f"prmt.b32 {result}, first, second, pick;",
    ]
