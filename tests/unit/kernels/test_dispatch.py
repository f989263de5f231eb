from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kernel_problems import DEVICE, SEED, Problem, random_problem, relative_error
from kernels import KernelError, device_obstacle, linear, obstacle, swiglu_linear, tuning
from kernels.tuning import Choice

BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
"""


def run(code: str, blocked: set[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked) + code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_package_imports_without_torch_and_triton() -> None:
    assert run("import kernels; print('linear' in kernels.__all__)", {"torch", "triton"}) == "True"


def test_cpu_has_an_obstacle_and_says_so() -> None:
    assert device_obstacle(torch.device("cpu")) == "device is cpu; the kernels need an NVIDIA GPU"


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (torch.zeros(0, 4).half(), "0 activation vectors"),
        (torch.zeros(2, 4), "activations are torch.float32"),
        (torch.zeros(2, 4).half().requires_grad_(), "no backward pass"),
        (torch.zeros(2, 4).half(), "device is cpu"),
        (torch.zeros(2, 4).bfloat16(), "device is cpu"),
    ],
)
def test_obstacle_is_named(x: torch.Tensor, named: str) -> None:
    assert named in str(obstacle(x))


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "compute capability 7.5"), ((8, 0), None), ((9, 0), None)]
)
def test_gpu_older_than_sm_80_has_an_obstacle(
    capability: tuple[int, int], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device_obstacle.cache_clear()
    found = device_obstacle(torch.device("cuda", 0))
    device_obstacle.cache_clear()
    assert found is None if expected is None else expected in str(found)


@pytest.mark.parametrize("blocked", [set(), {"triton"}])
def test_linear_refuses_a_cpu_and_a_missing_triton_is_an_obstacle(blocked: set[str]) -> None:
    code = """
import os; os.environ.pop("TRITON_INTERPRET", None)
import torch
from kernels import KernelError, device_obstacle, linear, pack, pack_planes
planes = pack_planes(torch.zeros(2, 40, dtype=torch.uint8), 2)
try:
    linear(torch.zeros(1, 40).half(), pack(planes, {2: torch.zeros(2, 1, 4).half()}, 40), 2)
except KernelError as error:
    print(error)
torch.cuda.get_device_capability = lambda device: (9, 0)
print(device_obstacle(torch.device("cuda", 0)))
"""
    refused, obstacle = run(code, blocked).splitlines()
    assert refused == "device is cpu; the kernels need an NVIDIA GPU; dequantise the weight and use torch instead"
    assert obstacle == ("triton is not installed" if blocked else "None")


triton = pytest.importorskip("triton", reason="triton is not installed")


def silu_product(y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(y[..., 0::2]) * y[..., 1::2]


def assert_close(y: torch.Tensor, expected: torch.Tensor, problem: Problem) -> None:
    assert y.dtype == problem.x.dtype
    error = relative_error(y, expected)
    # As in test_gemm; cuBLAS's product is rounded once more.
    assert error < (2e-3 if y.dtype == torch.float16 else 2e-2), f"relative error {error} (seed {SEED})"


PATHS = [("gemv", 3), ("gemm", 10), ("dequantize", 12)]


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose one path, as a tuning table would."""
    monkeypatch.setattr(tuning, "choose", lambda *_: Choice(request.param))


@pytest.mark.parametrize(("path", "M"), PATHS, indirect=["path"])
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_every_path_adds_bias_addend_and_sparse_part(path: None, M: int, dtype: torch.dtype) -> None:
    problem = random_problem(M, 4, 70, 3, sparse=True, dtype=dtype)
    addend = torch.randn(M, 4, device=DEVICE)
    y = linear(problem.x, problem.packed, 3, problem.bias, addend=addend)
    assert_close(y, problem.product + addend.double(), problem)


@pytest.mark.parametrize(("path", "M"), PATHS, indirect=["path"])
def test_every_path_does_without_bias_and_addend(path: None, M: int) -> None:
    problem = random_problem(M, 4, 70, 3)
    plain = problem.product - problem.bias.double()
    assert_close(linear(problem.x, problem.packed, 3), plain, problem)
    assert_close(linear(problem.x, problem.packed, 3, problem.bias), problem.product, problem)
    addend = torch.randn(M, 4, device=DEVICE).half()
    assert_close(linear(problem.x, problem.packed, 3, addend=addend), plain + addend, problem)


@pytest.mark.parametrize(("path", "M"), PATHS, indirect=["path"])
def test_every_path_has_swiglu(path: None, M: int) -> None:
    problem = random_problem(M, 6, 70, 4, sparse=True)
    addend = torch.randn(M, 6, device=DEVICE)
    y = swiglu_linear(problem.x, problem.packed, 4, problem.bias, addend=addend)
    assert y.shape == (M, 3)
    assert_close(y, silu_product(problem.product + addend.double()), problem)


@pytest.mark.parametrize(("path", "M"), PATHS, indirect=["path"])
def test_leading_dimensions_and_strides_are_kept(path: None, M: int) -> None:
    problem = random_problem(M, 6, 37, 2)
    expected = problem.product - problem.bias.double()
    wide = torch.cat([problem.x, problem.x], 1)[:, :37]
    assert not wide.is_contiguous()
    assert_close(linear(wide, problem.packed, 2), expected, problem)
    addend = torch.randn(1, M, 6, device=DEVICE)
    y = linear(wide[None], problem.packed, 2, addend=addend)
    assert y.shape == (1, M, 6)
    assert_close(y[0], expected + addend[0].double(), problem)
    assert linear(problem.x[0], problem.packed, 2).shape == (6,)
    assert swiglu_linear(wide[None], problem.packed, 2).shape == (1, M, 3)


def test_choice_is_asked_for_with_what_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tuning, "choose", lambda *question: asked.append(question) or Choice("dequantize"))
    problem = random_problem(10, 6, 37, 2)
    linear(problem.x.view(2, 5, 37), problem.packed, 2)
    swiglu_linear(problem.x, problem.packed, 2)
    assert asked == [
        (problem.x.device, "linear", 6, 37, 2, "permute", 10),
        (problem.x.device, "swiglu", 6, 37, 2, "permute", 10),
    ]


def bad_inputs() -> dict[str, tuple[dict[str, object], str]]:
    x = torch.zeros(9, 40, dtype=torch.float16, device=DEVICE)
    return {
        "width": ({"weight_bits": 5}, "weight_bits = 5: not stored; stored widths: 2"),
        "columns": ({"x": x[:, :39]}, r"x has shape \(9, 39\): must be \[..., 40\] with at least one vector"),
        "empty": ({"x": x[:0]}, r"x has shape \(0, 40\): must be \[..., 40\]"),
        "scalar": ({"x": x[0, 0]}, r"x has shape \(\): must be \[..., 40\]"),
        "dtype": ({"x": x.float()}, "x is torch.float32: must be torch.float16 or torch.bfloat16"),
        "bias": ({"bias": x[0, :4]}, r"bias has shape \(4,\)"),
        "addend": ({"addend": x[:, :5]}, r"addend has shape \(9, 5\): must be \(9, 6\)"),
        "dimensions": ({"x": x[None], "addend": x[:, :6]}, r"addend has shape \(9, 6\): must be \(1, 9, 6\)"),
        "addend dtype": ({"addend": x[:, :6].double()}, "addend is torch.float64"),
    }


@pytest.mark.parametrize("operation", [linear, swiglu_linear])
@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input_is_refused(name: str, operation: object) -> None:
    arguments, message = bad_inputs()[name]
    problem = random_problem(9, 6, 40, 2)
    with pytest.raises(KernelError, match=message):
        operation(**{"x": problem.x, "packed": problem.packed, "weight_bits": 2, **arguments})


def test_swiglu_of_an_odd_number_of_rows_is_refused() -> None:
    problem = random_problem(2, 5, 40, 2)
    with pytest.raises(KernelError, match="N = 5: must be even"):
        swiglu_linear(problem.x, problem.packed, 2)
