"""Compile kernels for real GPUs without having one, and read what the compiler made of them.

Triton compiles for any architecture on any machine: ptxas, nvdisasm and cuobjdump come with its wheel for Linux. So
registers, spills, the width of loads and the instructions a weight costs can be checked where no GPU is at hand. A
kernel must not have been defined for Triton's interpreter; :func:`run_compiling` serves callers that interpret.

Instructions are counted in the hot loop, the longest run of code that a backward branch closes, once each: what an
inner loop repeats counts once. They are classed by the pipe they run on. Each of an SM's four schedulers issues one
warp instruction a cycle; a pipe of 16 lanes takes one every second cycle, so that decoding, which is mostly integer
work, meets the limit of the ALU pipe first:

- ``alu``, 16 lanes a scheduler: integer, logic and byte operations (LOP3, PRMT, SHF, IADD3, VIADD, LEA, ISETP, SEL,
  IMNMX), predicate logic, comparisons and choices of floating-point numbers, conversion to packed halves (F2FP).
  Whatever no other class claims is counted here.
- ``fma``: IMAD in all forms (the compiler also moves, shifts and adds with it), FFMA, FADD, FMUL, HFMA2, HADD2, HMUL2.
- ``tensor``: HMMA, IMMA, HGMMA.
- ``memory``: loads, stores, asynchronous copies, LDSM, shuffles, atomics, fences.
- ``conversion``, 4 lanes or fewer: F2F, I2F, F2I, MUFU, POPC, FLO.
- ``uniform``: the scalar datapath, operations that begin with U.
- ``control``: branches, barriers, waits, NOP, reads of special registers.

Sources: the throughput table of the CUDA C++ Programming Guide (compute capability 9.0: 64 results a cycle and SM of
integer addition, logic, shifts, comparisons and byte permutes) and the instruction set reference of the CUDA Binary
Utilities; that IMAD runs beside the ALU pipe is as profilers attribute it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.errors import KernelError
from kernels.inline_layout import scattered_packs

MIN_ARCH = 80
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
        hot_loop: The same of the hot loop; empty if there is none.
        wide_loads: 128-bit loads from global memory, asynchronous copies included.
        hot_loads: Loads from global memory in the hot loop, asynchronous copies included, by bits a thread.
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
    hot_loads: Counter[int]
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
    max_registers: int | None = None,
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
        max_registers: Of a thread; the compiler's choice by default.

    Raises:
        KernelError: If triton or a tool is missing, ``fn`` was defined for the interpreter, an argument has neither
            type nor value, the architecture is older than sm_80, or inline assembly would get scattered elements,
            and the kernel so give wrong numbers.
    """
    if arch < MIN_ARCH:
        raise KernelError(f"arch = {arch}: must be {MIN_ARCH} or newer, such as 80, 89 or 90")
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as error:
        raise KernelError(f"compiling needs triton: {error}; install triton>=3.6") from None
    if not isinstance(fn, triton.runtime.JITFunction):
        raise KernelError("the kernel was defined for Triton's interpreter: unset TRITON_INTERPRET before importing it")
    missing = [name for name in fn.arg_names if name not in signature and name not in constants]
    if missing:
        raise KernelError(f"arguments {', '.join(missing)}: need a type in signature or a value in constants")
    place = fn.arg_names.index
    source = ASTSource(
        fn=fn,
        signature={name: signature.get(name, "constexpr") for name in fn.arg_names},
        constexprs={(place(name),): value for name, value in constants.items()},
        attrs={(place(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": warps, "num_stages": stages, "maxnreg": max_registers}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    scattered = scattered_packs(compiled.asm["ttgir"])
    if scattered:
        raise KernelError(
            f"{fn.__name__} for sm_{arch}: inline assembly gets scattered elements in layout {scattered[0]}; it must "
            "get neighbours"
        )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        sass = _tool("nvdisasm", "-c", str(cubin))
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    operations, loop = read_sass(sass)
    instructions = _count(operations)
    return Compiled(
        registers=found["REG"],
        stack_bytes=found["STACK"],
        spills=instructions["LDL"] + instructions["STL"],
        shared_bytes=compiled.metadata.shared,
        instructions=instructions,
        hot_loop=_count(loop),
        wide_loads=_load_bits(operations)[128],
        hot_loads=_load_bits(loop),
        ptx=compiled.asm["ptx"],
        sass=sass,
    )


def read_sass(sass: str) -> tuple[list[str], list[str]]:
    """The operations of a disassembly with their modifiers: all of them, and those of the hot loop.

    The second list is empty where no branch leads back.
    """
    operations: list[str] = []
    labels: dict[str, int] = {}
    first, end = 0, 0
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_\w+):", line)
        if label:
            labels[label[1]] = len(operations)
            continue
        found = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line)
        if not found:
            continue
        operations.append(found[1])
        target = re.search(r"\.L_\w+", found[2]) if found[1].startswith("BRA") else None
        start = labels.get(target[0]) if target else None
        # A branch to itself is the padding after the end.
        if start is not None and start < len(operations) - 1 and len(operations) - start > end - first:
            first, end = start, len(operations)
    return operations, operations[first:end]


def _count(operations: Sequence[str]) -> Counter[str]:
    return Counter(operation.split(".")[0] for operation in operations)


def _load_bits(operations: Sequence[str]) -> Counter[int]:
    """Loads from global memory by bits a thread."""
    sizes: Counter[int] = Counter()
    for operation in operations:
        name, *modifiers = operation.split(".")
        if name in ("LDG", "LDGSTS"):
            found = [int(bits[1]) for bits in (re.fullmatch(r"[US]?(8|16|64|128)", part) for part in modifiers) if bits]
            sizes[found[0] if found else 32] += 1
    return sizes


def _tool(name: str, *arguments: str) -> str:
    """What one of the tools in Triton's wheel prints."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    if not path.is_file():
        raise KernelError(f"{name} is missing at {path}: it comes with triton's wheel for Linux; install triton>=3.6")
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def run_compiling(code: str, argument: Any) -> Any:
    """Run Python code in a process where Triton does not interpret.

    Args:
        code: Reads ``argument`` and sets ``result``.
        argument: Anything JSON can hold.

    Returns:
        ``result``, through JSON.

    Raises:
        KernelError: If the code raises; the message ends with the last line of its trace.
    """
    text = f"import json, sys\nargument = json.load(sys.stdin)\n{code}\nprint(); print(json.dumps(result))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, "-c", text],
        input=json.dumps(argument),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        trace = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise KernelError(f"compiling in a process of its own failed: {trace[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
