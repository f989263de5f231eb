"""The inline PTX of uniform grids, run instruction by instruction in numpy on random words."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from kernels.ptx_grid import grid_decoder
from ptx_emulator import run

SEED = time.time_ns() % 2**31


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
        launch.fn, launch.signature, launch.constants, arch, launch.aligned, launch.warps, launch.stages,
        launch.max_registers,
    )
    # m16n8k16 multiplies 256 weights, 8 for each thread.
    alu = by_pipe(found.hot_loop)["alu"] / (8 * found.hot_loop["HMMA"])
    loop = found.hot_loop["LDL"] + found.hot_loop["STL"]
    result.append([loop, found.stack_bytes, alu])
"""


def compiled(cases: list[tuple[int, int, int | None]]) -> list[tuple[int, int, float]]:
    """Of each case the spills in the hot loop, the bytes spilled anywhere, and integer instructions a weight."""
    pytest.importorskip("triton")
    from kernels.aot import run_compiling

    found: list[tuple[int, int, float]] = run_compiling(COMPILE, cases)
    return found


@pytest.mark.slow
def test_gemv_on_grids_costs_few_integer_instructions_a_weight() -> None:
    most = {2: 1.2, 3: 1.6, 4: 1.65, 8: 2.3}
    found = compiled([(90, bits, None) for bits in most])
    for (bits, bound), (_, stack_bytes, alu) in zip(most.items(), found, strict=True):
        assert stack_bytes == 0
        assert alu <= bound, f"{alu} integer instructions a weight at {bits} bits"


@pytest.mark.full
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("group_size", [None, 128, 256, 512])
def test_gemv_on_grids_spills_nothing(arch: int, group_size: int | None) -> None:
    for bits, (in_loop, stack_bytes, _) in enumerate(compiled([(arch, bits, group_size) for bits in range(2, 9)]), 2):
        assert in_loop == 0, f"{bits} bits"
        assert stack_bytes == 0, f"{bits} bits"
