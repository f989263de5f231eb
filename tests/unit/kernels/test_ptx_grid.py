"""The inline PTX of uniform grids, run instruction by instruction in numpy on random words."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.ptx_grid import grid_decoder

Words = NDArray[np.uint32]
SEED = time.time_ns() % 2**31


def byte_permute(a: Words, b: Words, selector: Words) -> Words:
    """prmt.b32 in its default mode."""
    result = np.zeros_like(a)
    for k in range(4):
        nibble = (selector >> np.uint32(4 * k)) & np.uint32(15)
        assert (nibble < 8).all(), "a selector nibble asks for a sign"
        chosen = np.where(nibble < 4, a, b) >> (np.uint32(8) * (nibble & np.uint32(3)))
        result |= (chosen & np.uint32(255)) << np.uint32(8 * k)
    return result


def lop3(a: Words, b: Words, c: Words, table: Words) -> Words:
    result = np.zeros_like(a)
    for minterm in range(8):
        chosen = [word if minterm >> place & 1 else ~word for word, place in ((a, 2), (b, 1), (c, 0))]
        result |= chosen[0] & chosen[1] & chosen[2] & (np.uint32(0) - (table >> np.uint32(minterm) & np.uint32(1)))
    return result


def halves(word: Words) -> NDArray[np.float16]:
    return np.ascontiguousarray(word).view(np.float16)


def fused_multiply_add(a: Words, b: Words, c: Words) -> Words:
    """Exact in float64 for the operands used, then rounded once."""
    return (halves(a).astype(np.float64) * halves(b) + halves(c)).astype(np.float16).view(np.uint32)


OPERATIONS = {
    "mov.b32": lambda a: a,
    "shl.b32": lambda a, b: a << b,
    "shr.u32": lambda a, b: a >> b,
    "and.b32": lambda a, b: a & b,
    "lop3.b32": lop3,
    "prmt.b32": byte_permute,
    "sub.rn.f16x2": lambda a, b: (halves(a) - halves(b)).view(np.uint32),
    "add.rn.f16x2": lambda a, b: (halves(a) + halves(b)).view(np.uint32),
    "mul.rn.f16x2": lambda a, b: (halves(a) * halves(b)).view(np.uint32),
    "fma.rn.f16x2": fused_multiply_add,
}


def run(text: str, registers: dict[str, Words]) -> dict[str, Words]:
    """Execute straight-line PTX of 32-bit instructions."""
    count = len(next(iter(registers.values())))
    declared, body = text.strip("{}").split(";", 1)
    limit = int(re.search(r"r<(\d+)>", declared)[1])
    for instruction in filter(None, (part.strip() for part in body.split(";"))):
        name, operands = instruction.split(" ", 1)
        target, *sources = [operand.strip() for operand in operands.split(",")]
        assert target[0] == "$" or int(target[1:]) < limit
        arguments = [
            np.full(count, int(source, 0), dtype=np.uint32) if source[0].isdigit() else registers[source]
            for source in sources
        ]
        registers[target] = OPERATIONS[name](*arguments).astype(np.uint32)
    return registers


@pytest.mark.parametrize("bits", range(2, 9))
def test_decoded_halves_are_the_grid_points_of_the_documented_bits(bits: int) -> None:
    rng = np.random.default_rng([SEED, bits])
    count = 512
    planes = rng.integers(0, 1 << 32, (bits, count), dtype=np.uint32)
    # Steps over the whole range, subnormal ones, 0 and overflow to infinity included; zeros beyond the codes too.
    step = rng.integers(0, 0x7C00, count, dtype=np.uint16).view(np.float16)
    step[:2] = 0, 2.0**-24
    zero = rng.integers(-1023, 1025, count).astype(np.float16)
    zero[::2] = rng.integers(0, 1 << bits, len(zero[::2]))
    registers = {f"${16 + plane}": planes[plane] for plane in range(bits)}
    for place, number in ((16 + bits, step), (18 + bits, zero)):
        registers[f"${place}"] = np.stack([number, number], 1).view(np.uint32)[:, 0]
    text, _ = grid_decoder(bits)
    with np.errstate(over="ignore"):
        found = run(text, registers)
        for slab in range(8):
            p, h = divmod(slab, 2)
            for i in range(4):
                code = np.zeros(count)
                for plane in range(bits):
                    code = code * 2 + ((planes[plane] >> np.uint32(16 * h + 4 * i + p)) & np.uint32(1))
                expected = ((code - zero.astype(np.float64)) * step).astype(np.float16).view(np.uint16)
                half = (found[f"${2 * slab + i // 2}"] >> np.uint32(16 * (i % 2))) & np.uint32(0xFFFF)
                np.testing.assert_array_equal(half, expected, err_msg=f"slab {slab}, i {i} (seed {SEED})")


@pytest.mark.parametrize("bits", range(2, 9))
def test_constraints_count_every_operand_the_text_names(bits: int) -> None:
    text, constraints = grid_decoder(bits)
    assert constraints.split(",") == ["=r"] * 16 + ["r"] * (bits + 4)
    used = {int(number) for number in re.findall(r"\$(\d+)", text)}
    assert used == {*range(16 + bits), 16 + bits, 18 + bits}


@pytest.mark.parametrize(("bits", "count"), [(2, 28), (3, 45), (4, 48), (5, 63), (6, 66), (7, 73), (8, 72)])
def test_integer_instructions_for_32_weights(bits: int, count: int) -> None:
    text, _ = grid_decoder(bits)
    integer = re.findall(r"\b(?:shl|shr|and|lop3|prmt)\.\w+", text)
    assert len(integer) == count


COMPILE = """
import torch
from kernels import pack_uniform
from kernels.aot import by_pipe, compile_kernel
from kernels.check_compiled import recorded_launch
from kernels.config import GemvConfig
from kernels.gemv import gemv

result = []
for arch, bits, group_size in argument:
    codes = torch.zeros(64, 2048, dtype=torch.uint8)
    grid = torch.ones(64, 2048 // (group_size or 2048)).half()
    packed = pack_uniform(codes, grid, grid, bits, group_size)
    with recorded_launch("kernels.gemv", "_gemv_kernel") as launch:
        gemv(torch.zeros(1, 2048).half(), packed, bits, config=GemvConfig(64, 2, 4, 3))
    assert launch.constants["DECODER"] == "grid"
    found = compile_kernel(
        launch.fn, launch.signature, launch.constants, arch, launch.aligned, launch.warps, launch.stages
    )
    # m16n8k16 multiplies 256 weights, 8 for each thread.
    alu = by_pipe(found.hot_loop)["alu"] / (8 * found.hot_loop["HMMA"])
    result.append([found.stack_bytes + found.spills, alu])
"""


def spills_and_alu(cases: list[tuple[int, int, int | None]]) -> list[tuple[int, float]]:
    pytest.importorskip("triton")
    from kernels.aot import run_compiling

    found: list[tuple[int, float]] = run_compiling(COMPILE, cases)
    return found


@pytest.mark.slow
def test_gemv_on_grids_costs_few_integer_instructions_a_weight() -> None:
    most = {2: 1.2, 3: 1.6, 4: 1.65, 8: 2.3}
    for (bits, bound), (spills, alu) in zip(
        most.items(), spills_and_alu([(90, bits, None) for bits in most]), strict=True
    ):
        assert spills == 0
        assert alu <= bound, f"{alu} integer instructions a weight at {bits} bits"


@pytest.mark.full
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("group_size", [None, 128, 256, 512])
def test_gemv_on_grids_never_spills(arch: int, group_size: int | None) -> None:
    found = spills_and_alu([(arch, bits, group_size) for bits in range(2, 9)])
    assert [spills for spills, _ in found] == [0] * 7
