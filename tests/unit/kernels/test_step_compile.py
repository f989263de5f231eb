"""Compile what a decode step does between its linears for real GPUs, without having one."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from kernels.aot import run_compiling

ATTENTION = """
from kernels.aot import compile_kernel
from kernels.attention import _attend_kernel, kernel_constants

def check(arch, dtype, B, heads, kv_heads, head_dim, rotary_dim, capacity):
    constants = kernel_constants(B, heads, kv_heads, head_dim, rotary_dim, capacity)
    pointers = {name: f"*{dtype}" for name in ("qkv_ptr", "keys_ptr", "values_ptr", "out_ptr")}
    pointers |= {"cos_ptr": "*fp32", "sin_ptr": "*fp32", "position_ptr": "*i64"}
    pointers |= {"partial_ptr": "*fp32" if constants["SPLITS"] > 1 else f"*{dtype}"}
    pointers |= {"counter_ptr": "*i32" if constants["SPLITS"] > 1 else "*i64"}
    aligned = list(pointers) + (["capacity"] if capacity % 16 == 0 else [])
    signature = pointers | {"capacity": "i32", "scale": "fp32"}
    made = compile_kernel(_attend_kernel, signature, constants, arch, aligned, warps=4)
    return {"stack": made.stack_bytes, "spills": made.spills, "wide": made.wide_loads,
            "barriers": made.hot_loop["BAR"], "splits": constants["SPLITS"]}

result = [check(*case) for case in argument]
"""

ROWS = """
from kernels.aot import compile_kernel
from kernels.next_token import _choose_kernel
from kernels.norm import _gated_silu_kernel, _norm_kernel

def spills(kernel, signature, constants, arch, warps):
    made = compile_kernel(kernel, signature, constants, arch, [name for name in signature if "ptr" in name], warps)
    return made.stack_bytes + made.spills

result = []
for arch in argument:
    halves = dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "out_ptr"), "*fp16")
    for block, layer in ((4096, False), (8192, True)):
        constants = {"BLOCK": block, "CENTRED": layer, "HAS_BIAS": layer}
        result.append(spills(_norm_kernel, halves | {"hidden": "i32", "eps": "fp32"}, constants, arch, block // 512))
    pairs = {"pairs_ptr": "*fp16", "out_ptr": "*fp16", "total": "i32"}
    result.append(spills(_gated_silu_kernel, pairs, {"BLOCK": 1024}, arch, 4))
    choice = {"logits_ptr": "*fp16", "partial_ptr": "*fp32", "counter_ptr": "*i32"}
    choice |= dict.fromkeys(("token_ptr", "position_ptr", "tokens_ptr"), "*i64") | {"vocab": "i32", "length": "i32"}
    result.append(spills(_choose_kernel, choice, {"BLOCK": 2048, "PARTS": 63, "PARTS_BLOCK": 64}, arch, 4))
"""

VICUNA, LLAMA_3 = (1, 32, 32, 128, 128, 1024), (1, 32, 8, 128, 128, 2048)
SAMPLED = [
    (90, "fp16", *VICUNA),
    (90, "bf16", *LLAMA_3),
    (80, "fp16", 1, 32, 32, 80, 20, 512),
    (89, "fp16", 1, 32, 32, 64, 32, 40),
]


def check_attention(cases: list[tuple[object, ...]]) -> None:
    for case, found in zip(cases, run_compiling(ATTENTION, cases), strict=True):
        assert found["stack"] == found["spills"] == 0, f"{case}: registers spill"
        # One loop iteration reads a tile of keys and one of values, 8 x 16 bytes a thread each.
        assert found["wide"] >= 16, f"{case}: keys and values are not read in 128-bit loads"
        assert found["barriers"] == 0, f"{case}: an iteration over the context waits at a barrier"


@pytest.mark.slow
def test_attention_compiles_without_spills_or_barriers_in_its_loop() -> None:
    check_attention(SAMPLED)


@pytest.mark.full
def test_attention_of_every_built_in_model_compiles_on_every_architecture() -> None:
    from kernels.shapes import SHAPES

    check_attention(
        [
            (arch, "fp16", B, shape.heads, shape.kv_heads, shape.head_dim, shape.rotary_dim, capacity)
            for arch in (80, 89, 90)
            for shape in SHAPES.values()
            for B, capacity in ((1, 64), (1, shape.max_context), (8, 1024))
        ]
    )


@pytest.mark.parametrize(
    "arches", [pytest.param([90], marks=pytest.mark.slow), pytest.param([80, 89], marks=pytest.mark.full)]
)
def test_norms_activation_and_choice_compile_without_spills(arches: list[int]) -> None:
    assert run_compiling(ROWS, arches) == [0, 0, 0, 0] * len(arches)
