"""What `import dse` offers, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dse


def test_every_public_name_can_be_had():
    for name in dse.__all__:
        assert getattr(dse, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dse' has no attribute 'explor'"):
        _ = dse.explor


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import dse", {"optuna", "pandas", "numpy", "torch", "pydantic"}),
        ("import dse; dse.read_study; dse.Space", {"optuna", "pandas", "torch"}),
        ("import dse; dse.explore", {"torch", "scipy", "matplotlib"}),
    ],
)
def test_importing_loads_no_more_than_needed(code, unwanted):
    check = f"{code}; import sys; print(*({unwanted!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
