"""The inline PTX, run instruction by instruction in numpy on random words."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kernels.ptx import half_decoder, index_decoder
from ptx_emulator import run


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_decoded_halves_are_the_codebook_entries_of_the_documented_bits(bits: int) -> None:
    rng = np.random.default_rng(bits)
    count, entries = 512, 1 << bits
    planes = rng.integers(0, 1 << 32, (bits, count), dtype=np.uint32)
    # Every bit pattern, NaN and infinity included: the decoder moves bytes and must not care.
    lut = rng.integers(0, 1 << 16, (count, entries), dtype=np.uint16)
    low = (lut & 255).astype(np.uint8).view(np.uint32)
    high = (lut >> 8).astype(np.uint8).view(np.uint32)
    registers = {f"${16 + plane}": planes[plane] for plane in range(bits)}
    for word, table in enumerate([*low.T, *high.T]):
        registers[f"${16 + bits + 4 * word}"] = table
    text, _ = half_decoder(bits)
    found = run(text, registers)
    for slab in range(8):
        p, h = divmod(slab, 2)
        for i in range(4):
            index = np.zeros(count, dtype=int)
            for plane in range(bits):
                index = index * 2 + ((planes[plane] >> np.uint32(16 * h + 4 * i + p)) & np.uint32(1))
            half = (found[f"${2 * slab + i // 2}"] >> np.uint32(16 * (i % 2))) & np.uint32(0xFFFF)
            np.testing.assert_array_equal(half, lut[np.arange(count), index])


@pytest.mark.parametrize("bits", range(1, 9))
def test_decoded_indices_are_the_documented_bits_of_every_plane(bits: int) -> None:
    rng = np.random.default_rng(bits)
    count = 512
    planes = rng.integers(0, 1 << 32, (bits, count), dtype=np.uint32)
    text, constraints = index_decoder(bits)
    assert constraints.split(",") == ["=r"] * 8 + ["r"] * bits
    found = run(text, {f"${8 + plane}": planes[plane] for plane in range(bits)})
    for slab in range(8):
        p, h = divmod(slab, 2)
        for i in range(4):
            index = np.zeros(count, dtype=int)
            for plane in range(bits):
                index = index * 2 + ((planes[plane] >> np.uint32(16 * h + 4 * i + p)) & np.uint32(1))
            np.testing.assert_array_equal((found[f"${slab}"] >> np.uint32(8 * i)) & np.uint32(255), index)


@pytest.mark.parametrize(("bits", "instructions"), [(2, 14), (3, 19), (4, 30)])
def test_selectors_take_the_documented_number_of_instructions(bits: int, instructions: int) -> None:
    """10, 15 and 15 to transpose, 4 or 8 shifts to the upper half, and 7 that pick one of two look-ups."""
    body = half_decoder(bits)[0].split(";")
    selectors = [line for line in body if re.match(r"\s*(shl|shr|and|lop3)", line)]
    assert len(selectors) == instructions


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_constraints_count_every_operand_the_text_names(bits: int) -> None:
    text, constraints = half_decoder(bits)
    kinds = constraints.split(",")
    assert kinds == ["=r"] * 16 + ["r"] * (bits + 4 * 2 * (1 << bits) // 4)
    used = {int(number) for number in re.findall(r"\$(\d+)", text)}
    assert set(range(16 + bits)) <= used
    assert max(used) < len(kinds)
