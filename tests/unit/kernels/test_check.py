"""The command that checks the kernels: what it finds, and what becomes of processes that die."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from kernels import KernelError, check_cases
from kernels import check as check_module
from kernels.check import Finding, Task, check, run_facts, summary, write_csv
from kernels.check_cases import Case, cases
from kernels.check_compiled import ALU_PER_WEIGHT, compiled_cases

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def task(only: str, kind: str = "run") -> Task:
    return Task(kind, DEVICE.type if kind == "run" else "cpu", only, seed=1)


def test_every_width_codebook_and_kernel_has_a_case_once() -> None:
    names = [case.name for case in cases(DEVICE)]
    assert len(set(names)) == len(names)
    for kernel in ("gemv", "gemm", "dequantize"):
        for bits in range(2, 9):
            for codebook in check_cases.CODEBOOKS:
                assert any(name.startswith(f"{kernel} w{bits} {codebook}") for name in names)
    for part in ("swiglu", "sparse", "bf16", "rms norm", "layer norm", "attention", "next token", "decoder step"):
        assert any(part in name for name in names)


@pytest.mark.parametrize(
    "name", ["gemv w3 row, M 1..8", "dequantize w6 group", "gemm w4 grid", "gated silu", "rms norm"]
)
def test_a_case_holds(name: str) -> None:
    case = next(case for case in cases(DEVICE) if case.name == name)
    assert case.error(DEVICE) <= case.tolerance


@pytest.mark.full
@pytest.mark.parametrize("case", cases(DEVICE), ids=lambda case: case.name.replace(" ", "_"))
def test_every_case_holds(case: Case) -> None:
    assert case.error(DEVICE) <= case.tolerance


@pytest.mark.parametrize(
    ("kernel", "name"),
    [("kernels.gemv.gemv", "gemv w2 row, M 1..8"), ("kernels.dequant.dequantize", "dequantize w3 row"),
     ("kernels.gemm.gemm", "gemm w4 row"), ("kernels.norm.rms_norm", "rms norm")],
)  # fmt: skip
@pytest.mark.parametrize("damage", [lambda y: y.mul_(1.01), lambda y: y.view(-1)[-1:].fill_(float("nan"))])
def test_a_case_notices_a_wrong_kernel(kernel: str, name: str, damage: object, monkeypatch: pytest.MonkeyPatch) -> None:
    module, function = kernel.rsplit(".", 1)
    right = getattr(sys.modules.get(module) or __import__(module, fromlist=[function]), function)

    def wrong(*arguments: object, **named: object) -> torch.Tensor:
        y = right(*arguments, **named)
        damage(y)
        return y

    monkeypatch.setattr(kernel, wrong)
    case = next(case for case in cases(DEVICE) if case.name == name)
    assert not case.error(DEVICE) <= case.tolerance


@pytest.mark.slow
def test_findings_come_from_processes_in_the_order_of_the_list() -> None:
    seen: list[str] = []
    findings = check(task("attention"), 2, lambda finding: seen.append(finding.name))
    names = [case.name for case in cases(DEVICE) if "attention" in case.name]
    assert [finding.name for finding in findings] == names
    assert sorted(seen) == sorted(names)
    assert all(finding.passed and "seed 1" in finding.detail for finding in findings)


def test_what_a_process_did_not_get_to_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module.sys, "executable", "/bin/false")
    (finding,) = check(task("gated silu"), 1, lambda finding: None)
    assert not finding.passed
    assert finding.detail == "not checked: its process ended with code 1"
    found = summary([finding])
    assert (found["passed"], found["failed"]) == (False, ["gated silu"])


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(KernelError, match="--only gemmv: no check has such a name"):
        check(task("gemmv"), 1, lambda finding: None)


def test_findings_are_written_with_what_they_were_found_on(tmp_path: Path) -> None:
    facts = run_facts(task("x"))
    write_csv(tmp_path / "new" / "check.csv", [Finding("a, b", True, "error 0", {}, 1.0)], facts)
    with (tmp_path / "new" / "check.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "a, b"
    assert row["torch"] == torch.__version__
    assert row["device"] == (torch.cuda.get_device_name() if DEVICE.type == "cuda" else "interpreter")


def test_every_architecture_compiles_every_kernel_and_the_goals_bound_the_widths_they_need() -> None:
    listed = compiled_cases()
    assert len({case.name for case in listed}) == len(listed)
    bounds = {case.name: case.alu_per_weight for case in listed if case.alu_per_weight is not None}
    assert bounds == {f"sm_90 gemv w{bits} row": bound for bits, bound in ALU_PER_WEIGHT.items()}


@pytest.mark.slow
def test_real_launches_compile_without_spills_and_within_the_bounds() -> None:
    findings = [*check(task("sm_90 gemv w2 row", "compile"), 1, lambda finding: None),
                *check(task("sm_80 gemm w4 row", "compile"), 1, lambda finding: None)]  # fmt: skip
    assert [finding.passed for finding in findings] == [True, True], [finding.line() for finding in findings]
    gemv = findings[0].values
    assert gemv["stack bytes"] == 0
    assert gemv["128-bit loads"] > 0
    assert 0 < gemv["ALU a weight"] <= gemv["at most"] == 2.25
