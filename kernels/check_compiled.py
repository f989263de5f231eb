"""What the compiler makes of the kernels for GPUs that need not be there: registers, spills, loads, instructions.

The host code of a kernel is run on CPU tensors with its launch recorded instead of made, so that what is compiled is
what a real call launches: its dtypes, its constants, what is a multiple of 16, and its default configuration.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch

ARCHITECTURES = (80, 89, 90)
# What 70, 65 and 55% of an H100's bandwidth at 4, 3 and 2 bits leave: 132 multiprocessors of four schedulers whose
# ALU pipes start a warp every second cycle, at 1.755 GHz, against 3.0 TB/s.
ALU_PER_WEIGHT = {4: 3.5, 3: 2.85, 2: 2.25}
_BOUND_ARCHITECTURE = 90
_N, _K = 4096, 4096
_LANES = 32
_POINTERS = {
    "torch.float16": "*fp16",
    "torch.bfloat16": "*bf16",
    "torch.float32": "*fp32",
    "torch.int8": "*i8",
    "torch.int32": "*i32",
    "torch.int64": "*i64",
}


@dataclass(frozen=True)
class CompiledCase:
    """One kernel for one architecture.

    Attributes:
        name: For example ``sm_90 gemv w4 row``.
        arch: Compute capability times ten.
        module: Where the kernel is defined.
        kernel: Its name there.
        launch: Calls its host function on CPU tensors.
        wide: Whether it must read planes in 128-bit loads.
        alu_per_weight: Most ALU instructions a weight; None where there is no bound.
    """

    name: str
    arch: int
    module: str
    kernel: str
    launch: Callable[[], object]
    wide: bool = False
    alu_per_weight: float | None = None

    def inspect(self) -> tuple[dict[str, float], list[str]]:
        """Compile it; its numbers, and what is wrong with them."""
        from kernels.aot import by_pipe, compile_kernel

        with recorded_launch(self.module, self.kernel) as launch:
            self.launch()
        compiled = compile_kernel(
            launch.fn,
            launch.signature,
            launch.constants,
            self.arch,
            launch.aligned,
            launch.warps,
            launch.stages,
            launch.max_registers,
        )
        values: dict[str, float] = {
            "registers": compiled.registers,
            "stack bytes": compiled.stack_bytes,
            "128-bit loads": compiled.wide_loads,
        }
        problems = [f"spills {compiled.stack_bytes} bytes"] if compiled.stack_bytes or compiled.spills else []
        if self.wide and not compiled.wide_loads:
            problems.append("reads no planes in 128-bit loads")
        if {"ROWS", "BLOCK_BYTES"} <= set(launch.constants) and compiled.hot_loop:
            # A pass of the hot loop decodes one block of a program's rows.
            weights = launch.constants["ROWS"] * 8 * launch.constants["BLOCK_BYTES"]
            alu = by_pipe(compiled.hot_loop)["alu"] * launch.warps * _LANES / weights
            values["ALU a weight"] = round(alu, 3)
            if self.alu_per_weight is not None:
                values["at most"] = self.alu_per_weight
                if alu > self.alu_per_weight:
                    problems.append("too many ALU instructions")
        return values, problems


def compiled_cases() -> list[CompiledCase]:
    """Every kernel for every architecture, with sampled widths."""
    return [case for arch in ARCHITECTURES for case in _cases(arch)]


def _cases(arch: int) -> Iterator[CompiledCase]:
    gemv = partial(CompiledCase, arch=arch, module="kernels.gemv", kernel="_gemv_kernel")
    for bits in (4, 3, 2):
        bound = ALU_PER_WEIGHT[bits] if arch == _BOUND_ARCHITECTURE else None
        name = f"sm_{arch} gemv w{bits} row"
        yield gemv(name, launch=partial(_gemv, bits, "row"), wide=True, alu_per_weight=bound)
    for bits in (5, 6, 7, 8):
        yield gemv(f"sm_{arch} gemv w{bits} row", launch=partial(_gemv, bits, "row"))
    for bits in (2, 3, 4, 8):
        yield gemv(f"sm_{arch} gemv w{bits} grid", launch=partial(_gemv, bits, "grid"))
    yield gemv(f"sm_{arch} gemv w4 swiglu", launch=partial(_gemv, 4, "row", swiglu=True), wide=True)
    yield gemv(f"sm_{arch} gemv w4 row bf16", launch=partial(_gemv, 4, "row", bfloat=True), wide=True)
    gemm = partial(CompiledCase, arch=arch, module="kernels.gemm", kernel="_gemm_kernel")
    for bits, M in ((4, 16), (3, 64), (2, 64), (8, 64)):
        yield gemm(f"sm_{arch} gemm w{bits} row, M = {M}", launch=partial(_gemm, bits, M))
    yield CompiledCase(
        f"sm_{arch} dequantize w4 row", arch, "kernels.dequant", "_dequantize_kernel", partial(_dequantize, 4)
    )
    yield CompiledCase(f"sm_{arch} attention", arch, "kernels.attention", "_attend_kernel", _attend)
    yield CompiledCase(f"sm_{arch} rms norm", arch, "kernels.norm", "_norm_kernel", _rms_norm)


@dataclass
class Launch:
    """A recorded launch, in the words of :func:`kernels.aot.compile_kernel`."""

    fn: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: list[str]
    warps: int = 4
    stages: int = 3
    max_registers: int | None = None


class _Recorder:
    """Stands in for a kernel: takes a launch apart instead of making it."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self._record

    def _record(
        self, *arguments: Any, num_warps: int = 4, num_stages: int = 3, maxnreg: int | None = None, **named: Any
    ) -> None:
        launch = self._launch
        launch.warps, launch.stages, launch.max_registers = num_warps, num_stages, maxnreg
        values: Mapping[str, Any] = dict(zip(launch.fn.arg_names, arguments, strict=False)) | named
        constants = {parameter.name for parameter in launch.fn.params if parameter.is_constexpr}
        for name, value in values.items():
            if name in constants or value is None or value is True or value is False:
                launch.constants[name] = value
            elif isinstance(value, int):
                # Triton compiles a 1 as a constant.
                if value == 1:
                    launch.constants[name] = 1
                    continue
                launch.signature[name] = "i32"
                if value % 16 == 0:
                    launch.aligned.append(name)
            elif isinstance(value, float):
                launch.signature[name] = "fp32"
            else:
                launch.signature[name] = _POINTERS[str(value.dtype)]
                # torch allocates at multiples of 512 bytes on a GPU.
                launch.aligned.append(name)


@contextmanager
def recorded_launch(module: str, kernel: str) -> Iterator[Launch]:
    """Let a module's kernel be recorded by whatever the block calls.

    Raises:
        KernelError: If the block launches nothing.
    """
    place = importlib.import_module(module)
    fn = getattr(place, kernel)
    launch = Launch(fn, {}, {}, [])
    setattr(place, kernel, _Recorder(launch))
    try:
        yield launch
    finally:
        setattr(place, kernel, fn)
    if not launch.signature:
        raise KernelError(f"{module}.{kernel} was not launched")


def _packed(bits: int, codebook: str) -> Any:
    import torch

    from kernels.bench.problems import random_nested
    from kernels.layout import pack

    planes, lut, group_size = random_nested(_N, _K, bits, torch.device("cpu"), uniform=codebook == "grid")
    return pack(planes, {bits: lut}, _K, group_size)


def _half(*shape: int) -> torch.Tensor:
    import torch

    return torch.zeros(shape, dtype=torch.float16)


def _gemv(bits: int, codebook: str, swiglu: bool = False, bfloat: bool = False) -> object:
    import torch

    from kernels.gemv import gemv, gemv_swiglu

    x = _half(1, _K).to(torch.bfloat16 if bfloat else torch.float16)
    return (gemv_swiglu if swiglu else gemv)(x, _packed(bits, codebook), bits)


def _gemm(bits: int, M: int) -> object:
    from kernels.gemm import gemm

    return gemm(_half(M, _K), _packed(bits, "row"), bits)


def _dequantize(bits: int) -> object:
    from kernels.dequant import dequantize

    return dequantize(_packed(bits, "row"), bits)


def _attend() -> object:
    import torch

    from kernels.attention import attend
    from kernels.rotary import RotaryTable

    cache = _half(1, 8, 512, 128)
    position = torch.zeros(1, dtype=torch.int64)
    return attend(_half(1, (32 + 2 * 8) * 128), cache, cache.clone(), position, RotaryTable.from_base(128, 512))


def _rms_norm() -> object:
    from kernels.norm import rms_norm

    return rms_norm(_half(1, _K), _half(_K), 1e-5)
