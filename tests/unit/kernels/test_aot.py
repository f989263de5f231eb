from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kernels import KernelError

triton = pytest.importorskip("triton")
aot = pytest.importorskip("kernels.aot")

SASS = """
        .section        .text.kernel,"ax",@progbits
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/               @P0 LDG.E.U8 R3, desc[UR4][R2.64] ;
        /*0030*/                   PRMT R6, R4, 0x5140, R5 ;
        /*0040*/              @!P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0050*/                   LOP3.LUT R6, R6, R7, R8, 0xe4, !PT ;
        /*0060*/                   LDGSTS.E.BYPASS.LTC128B.128 [R9], desc[UR4][R2.64] ;
        /*0070*/               @P2 BRA `(.L_x_3) ;
        /*0080*/                   LDG.E R3, desc[UR4][R2.64] ;
.L_x_3:
        /*0090*/                   IMAD.SHL.U32 R6, R6, 0x2, RZ ;
        /*00a0*/            @!UPT0 UIADD3 UR4, UR4, 0x1, URZ ;
        /*00b0*/                   HMMA.16816.F32 R12, R4, R8, R12 ;
        /*00c0*/               @P3 BRA `(.L_x_2) ;
        /*00d0*/                   EXIT ;
.L_x_4:
        /*00e0*/                   BRA `(.L_x_4);
        /*00f0*/                   NOP;
"""


def test_hot_loop_is_the_longest_run_that_a_branch_closes() -> None:
    operations, loop = aot.read_sass(SASS)
    assert len(operations) == 16
    assert [operation.split(".")[0] for operation in loop] == [
        "LOP3",
        "LDGSTS",
        "BRA",
        "LDG",
        "IMAD",
        "UIADD3",
        "HMMA",
        "BRA",
    ]


def test_code_without_a_loop_has_no_hot_loop() -> None:
    assert aot.read_sass("        /*0000*/                   EXIT ;\n.L_x_0:\n /*0010*/ BRA `(.L_x_0);")[1] == []


def test_loads_are_told_by_their_width_not_by_the_cache_line() -> None:
    operations, _ = aot.read_sass(SASS)
    assert aot._load_bits(operations) == Counter({128: 2, 8: 1, 32: 1})
    assert aot._load_bits(["LDGSTS.E.LTC128B.64", "LDG.E.U16", "LDG.E.LTC128B", "LDS.128", "STG.E.128"]) == Counter(
        {64: 1, 16: 1, 32: 1}
    )


def test_operations_are_classed_by_pipe() -> None:
    _, loop = aot.read_sass(SASS)
    counts = aot.by_pipe(Counter(operation.split(".")[0] for operation in loop))
    assert counts == Counter({"alu": 1, "memory": 2, "control": 2, "fma": 1, "uniform": 1, "tensor": 1})
    assert {name: aot.pipe(name) for name in ("PRMT", "SHF", "VIADD", "MUFU", "CS2R", "UTMALDG", "ULEA")} == {
        "PRMT": "alu",
        "SHF": "alu",
        "VIADD": "alu",
        "MUFU": "conversion",
        "CS2R": "control",
        "UTMALDG": "memory",
        "ULEA": "uniform",
    }


def kernel_file(folder: Path) -> None:
    folder.joinpath("copy_kernel.py").write_text(
        "import triton\n"
        "import triton.language as tl\n"
        "@triton.jit\n"
        "def copy(source, target, N, BLOCK: tl.constexpr):\n"
        "    for start in range(0, N, BLOCK):\n"
        "        at = start + tl.arange(0, BLOCK)\n"
        "        tl.store(target + at, tl.load(source + at))\n"
    )


COMPILE_COPY = """
sys.path.insert(0, argument["folder"])
from copy_kernel import copy
from kernels.aot import compile_kernel
types = {"source": "*fp16", "target": "*fp16", "N": "i32"}
compiled = compile_kernel(copy, types, {"BLOCK": 1024}, argument["arch"], argument["aligned"], 4, 2)
result = [compiled.hot_loads.total(), compiled.hot_loads[128], compiled.stack_bytes]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "aligned", "wide"), [(80, ["source", "target"], True), (90, ["target"], False)])
def test_load_is_128_bits_wide_where_the_pointer_allows_it(
    arch: int, aligned: list[str], wide: bool, tmp_path: Path
) -> None:
    kernel_file(tmp_path)
    found = aot.run_compiling(COMPILE_COPY, {"folder": str(tmp_path), "arch": arch, "aligned": aligned})
    loads, wide_loads, stack_bytes = found
    assert loads > 0
    assert wide_loads == (loads if wide else 0)
    assert stack_bytes == 0


def test_architecture_that_is_too_old_is_refused() -> None:
    with pytest.raises(KernelError, match="arch = 75: must be 80 or newer"):
        aot.compile_kernel(None, {}, {}, 75)


def test_kernel_of_the_interpreter_is_refused() -> None:
    with pytest.raises(KernelError, match="defined for Triton's interpreter: unset TRITON_INTERPRET"):
        aot.compile_kernel(lambda: None, {}, {})


def test_argument_without_type_or_value_is_named(tmp_path: Path) -> None:
    kernel_file(tmp_path)
    code = """
sys.path.insert(0, argument)
from copy_kernel import copy
from kernels.aot import compile_kernel
compile_kernel(copy, {"source": "*fp16"}, {"BLOCK": 1024})
"""
    with pytest.raises(KernelError, match="KernelError: arguments target, N: need a type"):
        aot.run_compiling(code, str(tmp_path))


def test_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(KernelError, match="nvdisasm is missing at .*install triton"):
        aot._tool("nvdisasm", "-c", "kernel.cubin")


def test_process_of_its_own_does_not_interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    code = "import os; print('noise'); result = [argument, os.environ.get('TRITON_INTERPRET')]"
    assert aot.run_compiling(code, {"a": [1]}) == [{"a": [1]}, None]
