"""Kernels whose inline PTX would get scattered bytes are found and refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("triton")
from kernels import KernelError
from kernels.inline_layout import refuse_scattered, scattered_packs

TTGIR = """
#row = #ttg.blocked<{sizePerThread = [1, 16], threadsPerWarp = [8, 4], warpsPerCTA = [4, 1], order = [1, 0]}>
#short = #ttg.blocked<{sizePerThread = [1, 2], threadsPerWarp = [8, 4], warpsPerCTA = [4, 1], order = [1, 0]}>
#column = #ttg.blocked<{sizePerThread = [4, 1], threadsPerWarp = [4, 8], warpsPerCTA = [1, 4], order = [0, 1]}>
"""


@pytest.mark.parametrize(
    ("layout", "scattered"),
    [
        ("#row", False),
        ("#short", True),
        ("#column", True),
        ("#ttg.dot_op<{opIdx = 0, parent = #mma, kWidth = 4}>", False),
        # Operands in registers of a warp group's product: two of one row, then two of another.
        ("#ttg.dot_op<{opIdx = 0, parent = #mma, kWidth = 2}>", True),
        ("#ttg.dot_op<{opIdx = 1, parent = #mma, kWidth = 4}>", True),
    ],
)
def test_inline_assembly_on_scattered_bytes_is_found(layout: str, scattered: bool) -> None:
    operation = (
        '%a:2 = tt.elementwise_inline_asm "{shr.u32 $0, $2, 1;}" {packed_element = 4 : i32, pure = true} %b, %c : '
        f"tensor<64x64xi8, {layout}>, tensor<64x64xi32, {layout}> -> tensor<64x64xi8, {layout}> loc(#loc)\n"
    )
    assert bool(scattered_packs(TTGIR + operation)) == scattered
    assert not scattered_packs(TTGIR + operation.replace("packed_element = 4", "packed_element = 1"))


def launched(layout: str | None, name: str) -> SimpleNamespace:
    operation = (
        '%a:2 = tt.elementwise_inline_asm "{shr.u32 $0, $2, 1;}" {packed_element = 4 : i32, pure = true} %b : '
        f"tensor<64x64xi8, {layout}> -> tensor<64x64xi8, {layout}> loc(#loc)\n"
    )
    return SimpleNamespace(hash=name, name="_kernel", asm={} if layout is None else {"ttgir": TTGIR + operation})


def test_a_launched_kernel_is_refused_every_time_if_it_is_scattered() -> None:
    for _ in range(2):
        with pytest.raises(KernelError, match=r"gives _kernel bytes .*sizePerThread = \[4, 1\].*triton 3.6"):
            refuse_scattered(launched("#column", "one"))


def test_a_sound_kernel_passes_and_is_looked_at_once() -> None:
    refuse_scattered(launched("#row", "two"))
    refuse_scattered(launched("#column", "two"))


def test_a_kernel_whose_layouts_are_unknown_is_refused() -> None:
    with pytest.raises(KernelError, match="layout unknown"):
        refuse_scattered(launched(None, "three"))


def test_the_interpreter_launches_nothing() -> None:
    refuse_scattered(None)
