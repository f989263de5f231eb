"""hwsim loads nothing heavy until a name is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hwsim

BLOCK = """
import sys
for name in ("simpy", "pandas", "numpy", "yaml"):
    sys.modules[name] = None
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_the_contracts_import_without_any_simulator_dependency():
    done = _run(BLOCK + "import hwsim.trace; print(hwsim.trace.Schedule.uniform(3).label())")
    assert (done.returncode, done.stdout.strip()) == (0, "p3:3"), done.stderr


def test_the_simulator_itself_needs_them():
    done = _run(BLOCK + "import hwsim; hwsim.simulate")
    assert done.returncode != 0
    assert "ModuleNotFoundError" in done.stderr


def test_simulating_needs_neither_torch_nor_pandas():
    code = """
import sys
sys.modules["torch"] = sys.modules["pandas"] = None
import hwsim
from hwsim.trace import Schedule, synthetic_trace
shape = hwsim.load_shape("mobilellama-1.4b")
trace = synthetic_trace(shape, Schedule.uniform(3), prompt_tokens=4, decode_tokens=1)
print(hwsim.simulate(hwsim.load_npu("pmpd-4k"), shape, trace).decode_steps)
"""
    done = _run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


@pytest.mark.parametrize("name", hwsim.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hwsim, name) is not None
    assert name in dir(hwsim)


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="simulat_"):
        _ = hwsim.simulat_
