"""Compile the kernels for real GPUs without having one, in a process of its own (this one interprets)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

COMPILE = r"""
import json, re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.gemv import _gemv_kernel as kernel

arch, bits, block_bytes, permute, grouped, even = json.loads(sys.argv[1])
pointers = {"x_ptr": "*fp16", "planes_ptr": "*i8", "lut_ptr": "*fp16", "bias_ptr": "*fp16", "out_ptr": "*fp32"}
pointers |= dict.fromkeys(("low_ptr", "high_ptr"), "*i32" if permute else "*fp16")
numbers = ("M", "N", "K", "groups", "group_size", "row_bytes", "plane_bytes", "blocks")
constants = {
    "BLOCKS_PER_SPLIT": 8, "BITS": bits, "ROWS": 64, "BLOCK_BYTES": block_bytes, "BATCH": 16,
    "PERMUTE": permute, "GROUPED": grouped, "EVEN_K": even, "HAS_BIAS": True,
}
place = kernel.arg_names.index
aligned = [*pointers, "N", "K", "row_bytes", "plane_bytes"]
source = ASTSource(
    fn=kernel,
    signature={**pointers, **dict.fromkeys(numbers, "i32"), **dict.fromkeys(constants, "constexpr")},
    constexprs={(place(name),): value for name, value in constants.items()},
    attrs={(place(name),): [["tt.divisibility", 16]] for name in aligned},
)
compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
tools = Path(triton.__file__).parent / "backends/nvidia/bin"
with tempfile.TemporaryDirectory() as folder:
    cubin = Path(folder, "kernel.cubin")
    cubin.write_bytes(compiled.asm["cubin"])
    def tool(*command):
        command = [tools / command[0], *command[1:], cubin]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage, sass = tool("cuobjdump", "--dump-resource-usage"), tool("nvdisasm", "-c")
print(json.dumps({
    "stack_bytes": int(re.search(r"STACK:(\d+)", usage)[1]),
    "registers": int(re.search(r"REG:(\d+)", usage)[1]),
    "wide_loads": len(re.findall(r"LDGSTS\S*\.128|LDG\S*\.128", sass)),
    "permutes": len(re.findall(r"\bPRMT\b", sass)),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "bits", "block_bytes", "permute", "grouped", "even"),
    [
        (90, 2, 64, True, False, True),
        (90, 3, 64, True, False, True),
        (90, 4, 64, True, False, True),
        (90, 4, 16, True, False, False),
        (90, 3, 32, False, True, True),
        (90, 6, 64, False, False, True),
        (90, 8, 16, False, False, False),
        (80, 3, 64, True, False, False),
        (89, 4, 64, True, False, True),
    ],
)
def test_kernel_compiles_without_spills(
    arch: int, bits: int, block_bytes: int, permute: bool, grouped: bool, even: bool
) -> None:
    arguments = json.dumps([arch, bits, block_bytes, permute, grouped, even])
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["stack_bytes"] == 0, "registers spill to local memory"
    if permute:
        # 64 rows of 16 bytes are only 8 bytes for each of 128 threads.
        assert found["wide_loads"] > 0 or block_bytes == 16, "planes are not read in 128-bit loads"
        # 8 slabs of 64 rows: 128 threads hold block_bytes / 8 words each, 16 interleaving permutes a word.
        assert found["permutes"] >= 16 * block_bytes // 8
