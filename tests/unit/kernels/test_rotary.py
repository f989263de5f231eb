"""The rotary embedding in plain torch, against closed forms."""

from __future__ import annotations

import math
import time

import pytest
import torch

from kernels import KernelError
from kernels.rotary import RotaryTable, rotate

# Fresh data in every run; the seed is printed with a failure.
SEED = time.time_ns() % 2**31


def test_columns_half_a_turn_apart_form_the_planes_that_are_turned() -> None:
    table = RotaryTable.from_base(8, 50, base=100.0)
    x = torch.randn(3, 2, 10, generator=torch.Generator().manual_seed(SEED), dtype=torch.float32)
    positions = torch.tensor([0, 7, 49])
    turned = rotate(x, *table.rows(positions))
    for row, position in enumerate(positions.tolist()):
        planes = torch.complex(x[row, :, :4].double(), x[row, :, 4:8].double())
        angles = position * torch.tensor([100.0 ** (-d / 4) for d in range(4)], dtype=torch.float64)
        expected = planes * torch.exp(1j * angles)
        torch.testing.assert_close(turned[row, :, :4].double(), expected.real, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(turned[row, :, 4:8].double(), expected.imag, atol=1e-5, rtol=1e-5)
    assert torch.equal(turned[..., 8:], x[..., 8:]), "columns past the rotary part must stay"
    assert torch.equal(turned[0], x[0]), "position 0 turns nothing"


def test_products_depend_on_the_distance_alone() -> None:
    table = RotaryTable.from_base(16, 200)
    query, key = torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(SEED))

    def product(at: int, other: int) -> float:
        turned = [rotate(x, *table.rows(torch.tensor([p]))) for x, p in ((query, at), (key, other))]
        return float((turned[0] * turned[1]).sum())

    assert math.isclose(product(20, 13), product(187, 180), abs_tol=1e-3), f"seed {SEED}"


def test_table_takes_frequencies_and_a_scale_as_they_are() -> None:
    table = RotaryTable.from_frequencies(torch.tensor([0.5, 0.25]), 4, scale=2.0)
    assert (table.positions, table.rotary_dim) == (4, 4)
    assert table.cos[3].tolist() == pytest.approx([2 * math.cos(1.5), 2 * math.cos(0.75)])
    assert table.sin[3].tolist() == pytest.approx([2 * math.sin(1.5), 2 * math.sin(0.75)])


def test_no_rotary_part_leaves_heads_alone() -> None:
    table = RotaryTable.from_base(0, 5)
    x = torch.ones(1, 2, 6, dtype=torch.float16)
    assert torch.equal(rotate(x, *table.rows(torch.tensor([4]))), x)


def test_result_has_the_dtype_of_the_heads() -> None:
    table = RotaryTable.from_base(4, 5)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert rotate(torch.ones(1, 1, 6, dtype=dtype), *table.rows(torch.tensor([3]))).dtype == dtype


def test_no_position_is_refused() -> None:
    with pytest.raises(KernelError, match="positions = 0: must be >= 1"):
        RotaryTable.from_base(4, 0)
