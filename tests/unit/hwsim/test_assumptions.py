"""Assumed numbers are read from the comments of an NPU file."""

from __future__ import annotations

import pytest

from hwsim import NPU_NAMES, load_npu
from hwsim.assumptions import assumed_numbers
from hwsim.trace import InputError

NPU_LINES = """\
name: mine
matrix:
  mv: [64, 64, 1]   # assumed: a list has no more or less
  cores: 4          # assumed
  bits: 8           # paper
cost:
  node: 7nm         # assumed
  functions: {a: 1, b: 2}  # assumed
  leak: 0.05        # Assumed? no: measured
"""


def test_numbers_on_a_line_that_says_assumed_are_found(tmp_path):
    path = tmp_path / "npu.yaml"
    path.write_text(NPU_LINES)
    assert assumed_numbers(path) == ["matrix.cores", "cost.functions.a", "cost.functions.b"]


@pytest.mark.parametrize("name", NPU_NAMES)
def test_every_assumed_number_of_a_shipped_npu_is_a_field_that_can_be_set(name):
    values = load_npu(name).model_dump()
    for path in assumed_numbers(name):
        value = values
        for part in path.split("."):
            value = value[int(part) if part.isdigit() else part]
        assert load_npu(name, {path: value}) == load_npu(name)


def test_an_unknown_npu_is_refused():
    with pytest.raises(InputError, match="unknown NPU 'pmpd-5k'"):
        assumed_numbers("pmpd-5k")
