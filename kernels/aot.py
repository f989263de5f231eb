"""Compile kernels for real GPUs without having one, and read what the compiler made of them.

Triton's own toolchain (ptxas, nvdisasm and cuobjdump come with its wheel) compiles for any architecture on any
machine, so that registers, spills, the width of loads and the instructions a weight costs can be checked where no
GPU is at hand. Kernels must not have been defined for Triton's interpreter: :func:`run_compiling` runs a function of
a module in a process of its own for callers that interpret.

Instructions are counted in the hot loop: the largest body that a backward branch closes. An SM's four schedulers
issue one warp instruction a cycle each; a pipe of 16 lanes takes a warp every second cycle. What competes for the
ALU pipe limits decoding first, so instructions are classed by pipe:

- ``alu``: integer and logic operations of 16 lanes a scheduler: LOP3, PRMT, SHF, IADD3, LEA, ISETP, SEL, I2F-free
  conversions of packed halves, minima and maxima, predicate logic, and floating-point compare and select.
- ``fma``: IMAD and IMAD.MOV in all forms (the compiler moves copies, shifts and additions there), FFMA, FADD, FMUL,
  HFMA2, HADD2, HMUL2.
- ``tensor``: HMMA, IMMA, HGMMA. ``memory``: loads, stores, LDSM, LDGSTS, atomics and their fences.
- ``conversion``: F2F, I2F, F2I, MUFU (4 lanes or fewer). ``uniform``: instructions of the scalar datapath.
- ``control``: branches, barriers, waits, NOP.

F2FP (two floats to packed halves) is counted as ``alu``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.errors import KernelError

_FMA = {"IMAD", "FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2", "FSWZADD", "IDP", "IDP4A"}
_TENSOR = {"HMMA", "IMMA", "HGMMA", "IGMMA", "BMMA", "DMMA", "WARPGROUP"}
_MEMORY = {
    "LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDGSTS", "LDL", "STL", "LD", "ST", "LDC", "LDCU", "ATOM", "ATOMG",
    "ATOMS", "RED", "MEMBAR", "ERRBAR", "CCTL", "FENCE", "UTMALDG", "UBLKCP", "SHFL",
}  # fmt: skip
_CONVERSION = {"F2F", "I2F", "F2I", "MUFU", "I2I", "FRND", "POPC", "FLO"}
_CONTROL = {
    "BRA", "BRX", "EXIT", "BAR", "DEPBAR", "LDGDEPBAR", "NOP", "WARPSYNC", "BSSY", "BSYNC", "CALL", "RET", "YIELD",
    "NANOSLEEP", "BREAK", "SYNCS", "JMP", "RPCMOV", "CS2R", "S2R", "S2UR",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """What a kernel became.

    Attributes:
        registers: Of a thread.
        stack_bytes: Local memory of a thread; 0 without spills.
        spills: Spilled registers' loads and stores in the code.
        shared_bytes: Shared memory of a program.
        instructions: How often each operation occurs in the whole kernel, modifiers left out.
        hot_loop: The same of the largest loop; empty if there is none.
        wide_loads: 128-bit loads from global memory, asynchronous copies included.
        ptx: The PTX text.
        sass: The disassembly.
    """

    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    instructions: Counter[str]
    hot_loop: Counter[str]
    wide_loads: int
    ptx: str
    sass: str


def pipe(operation: str) -> str:
    """The pipe a SASS operation (without modifiers) runs on; what no other class claims is ``alu``."""
    for name, members in (
        ("fma", _FMA),
        ("tensor", _TENSOR),
        ("memory", _MEMORY),
        ("conversion", _CONVERSION),
        ("control", _CONTROL),
    ):
        if operation in members:
            return name
    # Scalar instructions are those of the vector pipes with a leading U.
    return "uniform" if operation.startswith("U") else "alu"


def by_pipe(instructions: Mapping[str, int]) -> Counter[str]:
    """How many of some instructions run on each pipe."""
    counts: Counter[str] = Counter()
    for operation, count in instructions.items():
        counts[pipe(operation)] += count
    return counts


def compile_kernel(
    fn: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    arch: int = 90,
    aligned: Sequence[str] = (),
    warps: int = 4,
    stages: int = 3,
) -> Compiled:
    """Compile a ``@triton.jit`` function for one architecture.

    Args:
        fn: The function.
        signature: Type of each argument that is no constant: ``"*fp16"``, ``"i32"``, ...
        constants: The ``tl.constexpr`` arguments.
        arch: Compute capability times ten: 80, 89 or 90.
        aligned: Arguments that are multiples of 16 (pointers: of 16 bytes), as real calls have them.
        warps: Warps of a program.
        stages: Depth of the software pipeline.

    Raises:
        KernelError: If triton or a tool is missing, or ``fn`` was defined for the interpreter.
    """
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as error:
        raise KernelError(f"compiling needs triton: {error}; install triton>=3.6") from None
    if not isinstance(fn, triton.runtime.JITFunction):
        raise KernelError("the kernel was defined for Triton's interpreter: unset TRITON_INTERPRET before importing it")
    place = fn.arg_names.index
    source = ASTSource(
        fn=fn,
        signature={name: signature.get(name, "constexpr") for name in fn.arg_names},
        constexprs={(place(name),): value for name, value in constants.items()},
        attrs={(place(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        sass = _tool("nvdisasm", "-c", str(cubin))
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    operations, loop = read_sass(sass)
    return Compiled(
        registers=found["REG"],
        stack_bytes=found["STACK"],
        spills=operations["LDL"] + operations["STL"],
        shared_bytes=compiled.metadata.shared,
        instructions=operations,
        hot_loop=loop,
        wide_loads=len(re.findall(r"\b(?:LDG|LDGSTS)\.\S*\b128\b", sass)),
        ptx=compiled.asm["ptx"],
        sass=sass,
    )


def read_sass(sass: str) -> tuple[Counter[str], Counter[str]]:
    """Count the operations of a disassembly: all of them, and those of the largest loop.

    A loop is what lies between a label and a branch back to it; outer loops that hold other loops count as a whole.
    """
    operations: list[str] = []
    labels: dict[str, int] = {}
    first, last = 0, -1
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_\w+):", line)
        if label:
            labels[label[1]] = len(operations)
            continue
        found = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)(.*)", line)
        if not found:
            continue
        target = re.search(r"\.L_\w+", found[2]) if found[1] == "BRA" else None
        start = labels.get(target[0]) if target else None
        # A branch to itself is the padding after the end.
        if start is not None and start < len(operations) and len(operations) - start > last - first:
            first, last = start, len(operations)
        operations.append(found[1])
    return Counter(operations), Counter(operations[first : last + 1])


def _tool(name: str, *arguments: str) -> str:
    """What one of the tools in Triton's wheel prints."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    if not path.is_file():
        raise KernelError(f"{name} is missing at {path}: it comes with triton's wheel for Linux; install triton>=3.6")
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout
