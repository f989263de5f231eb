"""Compile the GEMV for real GPUs without having one, in a process of its own (this one interprets)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest

pytest.importorskip("triton")
from kernels.aot import run_compiling
from kernels.config import gemv_rows, gemv_shared_bytes

# Instructions a weight on the ALU pipe that leave an H100 70, 65 and 55% of its bandwidth at 4, 3 and 2 bits.
ALU_PER_WEIGHT = {4: 3.5, 3: 2.85, 2: 2.25}
ARCHITECTURES = (80, 89, 90)

# What a real call launches, taken down instead of launched, so that Triton sees the same constants and alignments.
COMPILE = """
import torch
from kernels import pack, pack_planes
from kernels.aot import by_pipe, compile_kernel
from kernels.check_compiled import recorded_launch
from kernels.config import GemvConfig
from kernels.gemv import gemv, gemv_swiglu

result = []
for case in argument:
    bits, K, group_size = case["bits"], case["K"], case["group_size"]
    planes = pack_planes(torch.zeros(64, K, dtype=torch.uint8), bits)
    groups = K // (group_size or K)
    entries = torch.arange(1 << bits).half()
    lut = (entries if case["grid"] else entries * entries).expand(64, groups, -1).clamp(max=60000)
    packed = pack(planes, {bits: lut.contiguous()}, K, group_size)
    x = torch.zeros(case["M"], K, dtype=getattr(torch, case["dtype"]))
    run = gemv_swiglu if case["swiglu"] else gemv
    extra = {"bias": x[0, :64].clone(), "addend": torch.zeros(case["M"], 64)} if case["swiglu"] else {}
    with recorded_launch("kernels.gemv", "_gemv_kernel") as launch:
        run(x, packed, bits, config=GemvConfig(*case["config"]), **extra)
    found = compile_kernel(
        launch.fn, launch.signature, launch.constants, case["arch"], launch.aligned, launch.warps, launch.stages,
        launch.max_registers,
    )
    # m16n8k16 multiplies 256 weights, 8 for each thread.
    weights = 8 * found.hot_loop["HMMA"]
    result.append({
        "decoder": launch.constants["DECODER"],
        "block_bytes": launch.constants["BLOCK_BYTES"],
        "stack_bytes": found.stack_bytes,
        "spills": found.spills,
        "shared_bytes": found.shared_bytes,
        "wide_loads": found.hot_loads[128],
        "alu": by_pipe(found.hot_loop)["alu"] / weights,
        "ptx": found.ptx if case["ptx"] else "",
    })
"""


@dataclass(frozen=True)
class Case:
    """A GEMV of 64 rows."""

    arch: int
    bits: int
    config: tuple[int, int, int, int] = (64, 2, 4, 3)
    K: int = 2048
    group_size: int | None = None
    grid: bool = False
    M: int = 1
    dtype: str = "float16"
    swiglu: bool = False
    ptx: bool = False


def compiled(cases: list[Case]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_compiling(COMPILE, [asdict(case) for case in cases])
    return found


def check(case: Case, found: dict[str, Any]) -> None:
    rows, _, warps, stages = case.config
    block = found["block_bytes"]
    assert (found["stack_bytes"], found["spills"]) == (0, 0), f"{case} spills: {found}"
    shared_bytes = gemv_shared_bytes(rows, stages, case.bits, block, found["decoder"])
    # To find the largest bfloat16 activation, and to bring gate and up together; and codebooks that change in the loop.
    shared_bytes += 1024 + (stages - 1) * rows * (2 << case.bits if case.group_size else 0)
    assert found["shared_bytes"] <= shared_bytes, f"{case}: {found}"
    if block >= 32 and case.bits <= 4:
        plane_loads = case.bits * rows * block // (32 * warps * 16)
        assert found["wide_loads"] >= plane_loads, f"{case} reads planes in loads below 128 bits: {found}"
    if found["decoder"] == "permute" and case.arch == 90 and block >= 32 and case.dtype == "float16":
        assert found["alu"] <= ALU_PER_WEIGHT[case.bits], f"{case}: {found}"


@pytest.mark.slow
def test_sampled_kernels_compile_within_bounds() -> None:
    cases = [
        Case(90, 2),
        Case(90, 3, (32, 2, 2, 3), K=768),
        Case(90, 4, M=8, ptx=True),
        Case(90, 4, (16, 2, 1, 2), dtype="bfloat16"),
        Case(90, 3, group_size=128, swiglu=True),
        Case(80, 8, (128, 2, 8, 2)),
        Case(89, 4, (64, 2, 4, 4), grid=True),
    ]
    results = compiled(cases)
    for case, found in zip(cases, results, strict=True):
        check(case, found)
    assert [found["decoder"] for found in results] == ["permute"] * 5 + ["lookup", "grid"]
    ptx = results[2]["ptx"]
    # Own partial sums, the barrier, one release and acquire, the barrier, all partial sums past the first-level cache.
    order = ["st.global", "bar.sync", "atom.global.gpu.acq_rel.add", "bar.sync", "ld.global.cg", "st.global"]
    at = ptx.rindex("mma.sync")
    for instruction in order:
        at = ptx.find(instruction, at + 1)
        assert at > 0, f"{instruction} is missing or out of order"


@pytest.mark.full
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_kernel_compiles_within_bounds(arch: int, bits: int) -> None:
    configs = [
        (rows, 2, rows // 16, stages) for rows, stages in ((16, 2), (16, 5), (32, 3), (64, 2), (64, 3), (128, 2))
    ]
    shapes = [(2048, None, False), (768, None, False), (2048, None, True), (1024, 128, False), (1024, 32, False)]
    cases = [
        Case(arch, bits, config, K, group_size, grid, M=(1, 8)[number % 2], dtype=("float16", "bfloat16")[order % 2])
        for number, config in enumerate(configs)
        for order, (K, group_size, grid) in enumerate(shapes, number // 2)
        if config[0] in gemv_rows("lookup" if group_size == 32 or (bits > 4 and not grid) else "permute")
    ]
    for case, found in zip(cases, compiled(cases), strict=True):
        check(case, found)
