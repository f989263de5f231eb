from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kernels import device_obstacle, dispatch, linear, matmul, obstacle, pack, pack_planes

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


def test_missing_triton_is_an_obstacle() -> None:
    code = (
        "import torch; torch.cuda.get_device_capability = lambda device: (9, 0)\n"
        "from kernels import device_obstacle; print(device_obstacle(torch.device('cuda', 0)))"
    )
    assert run(code, {"triton"}) == "triton is not installed"


def test_linear_keeps_the_leading_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch, "device_obstacle", lambda device: None)
    planes = pack_planes(torch.randint(0, 4, (5, 37)).to(torch.uint8), 2)
    lut = torch.randn(5, 1, 4).half()
    x = torch.randn(2, 3, 37).half()
    if torch.cuda.is_available():
        planes, lut, x = planes.cuda(), lut.cuda(), x.cuda()
    assert obstacle(x) is None
    y = linear(x, pack(planes, {2: lut}, 37), 2)
    assert y.shape == (2, 3, 5)
    expected = matmul(x.view(6, 37), planes, lut).view(2, 3, 5)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
