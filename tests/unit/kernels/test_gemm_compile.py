"""Compile the fused GEMM and the dequantisation for real GPUs as their host code launches them by default."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from kernels.aot import run_compiling

GEMM = """
import torch
from kernels.aot import compile_kernel
from kernels.check_compiled import recorded_launch
from kernels.bench.problems import random_nested
from kernels.gemm import dequantize, gemm, gemm_swiglu
from kernels.layout import pack

arch, cases = argument
result = []
for bits, K, M, uniform, bfloat, swiglu in cases:
    planes, lut, group_size = random_nested(256, K, bits, torch.device("cpu"), uniform=uniform)
    packed = pack(planes, {bits: lut}, K, group_size)
    x = torch.zeros(M, K, dtype=torch.bfloat16 if bfloat else torch.float16)
    with recorded_launch("kernels.gemm", "_gemm_kernel") as launch:
        (gemm_swiglu if swiglu else gemm)(x, packed, bits)
    with recorded_launch("kernels.dequant", "_dequantize_kernel") as writing:
        dequantize(packed, bits, x.dtype)
    fused, dense = (
        compile_kernel(it.fn, it.signature, it.constants, arch, it.aligned, it.warps, it.stages, it.max_registers)
        for it in (launch, writing)
    )
    result.append(
        {
            "case": str((bits, K, M, uniform, bfloat, swiglu)),
            "gemm stack": fused.stack_bytes + fused.spills,
            "gemm shared": fused.shared_bytes,
            "gemm tensor": sum(n for name, n in fused.hot_loop.items() if name in ("HMMA", "HGMMA")),
            "dense stack": dense.stack_bytes + dense.spills,
            "dense wide stores": sum("STG.E.128" in line for line in dense.sass.splitlines()),
        }
    )
"""
# Width, K (blocks of 64, 32 and 16 bytes), vectors, uniform grid, bfloat16, SwiGLU.
SAMPLE = [
    (4, 640, 64, False, False, False),
    (3, 2304, 32, True, True, True),
    # These two spilled while a whole block was looked up at once.
    (8, 4096, 64, False, False, False),
    (5, 4096, 64, False, False, False),
]
# This one spilled on sm_80 while the compiler chose its number of registers.
GRID = (2, 4096, 64, True, True, True)
EVERY = [
    (bits, K, M, uniform, bfloat, swiglu)
    for bits in range(2, 9)
    for K in (4096, 2304, 640)
    for M in (16, 64)
    for uniform in (False, True)
    for bfloat in (False, True)
    for swiglu in (False, True)
]


def compile_and_check(arch: int, cases: list[tuple[object, ...]]) -> None:
    for found in run_compiling(GEMM, [arch, cases]):
        assert found["gemm stack"] == 0, f"{found}: registers spill"
        assert found["gemm shared"] <= 99 * 1024, f"{found}: more shared memory than an sm_89 has"
        assert found["gemm tensor"] > 0, f"{found}: no tensor cores"
        assert found["dense stack"] == 0, f"{found}: registers spill"
        # Eight slabs, each thread's part of one in a 16-byte store.
        assert found["dense wide stores"] == 8, f"{found}: weights are not stored 16 bytes at a time"


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "cases"), [(90, SAMPLE), (80, [SAMPLE[0], GRID]), (89, SAMPLE[1:2])])
def test_default_configuration_neither_spills_nor_asks_for_too_much_memory(
    arch: int, cases: list[tuple[object, ...]]
) -> None:
    compile_and_check(arch, cases)


@pytest.mark.full
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("arch", [80, 89, 90])
def test_every_default_configuration_compiles_alike(arch: int) -> None:
    compile_and_check(arch, EVERY)
