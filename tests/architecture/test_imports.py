"""Import rules that only a fresh interpreter can show."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
"""
ML_STACK = ("torch", "triton", "transformers", "datasets", "numba", "safetensors", "sacrebleu", "rouge_score")


def run_blocked(code: str, blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


def test_the_contracts_load_with_nothing_but_pydantic():
    blocked = ("numpy", "pandas", "simpy", "yaml", "optuna", "matplotlib", *ML_STACK)
    done = run_blocked("import hwsim.trace", blocked)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["hwsim", "dse", "studies.cli", "kernels"])
def test_the_architects_packages_load_without_the_ml_stack(package):
    done = run_blocked(f"import {package}", ML_STACK)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["hwsim", "dse", "accuracy", "kernels", "studies", "studies.cli"])
def test_importing_a_package_is_light(package):
    heavy = ["torch", "triton", "transformers", "optuna", "matplotlib", "pandas", "simpy"]
    code = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_exported_name_exists():
    code = (
        "import importlib\n"
        "for name in ['hwsim', 'hwsim.trace', 'dse', 'accuracy', 'kernels']:\n"
        "    module = importlib.import_module(name)\n"
        "    for public in getattr(module, '__all__', []):\n"
        "        getattr(module, public)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_our_version_is_not_taken_for_the_hub_package_named_kernels():
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    numbers = tuple(int(part) for part in version.split("."))
    assert not (0, 18, 2) <= numbers < (0, 20)
