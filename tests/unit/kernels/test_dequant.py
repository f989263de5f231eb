"""Dequantisation on the GPU, or in the CPU interpreter, bit by bit against the naive one."""

from __future__ import annotations

import pytest
import torch

from kernel_problems import DEVICE, SEED, random_problem
from kernels import KernelError
from kernels.layout import SparsePart

dequantize = pytest.importorskip("kernels.gemm", reason="triton is not installed").dequantize

# N, K, group_size: blocks of 64, 32 and 16 bytes, tails in both directions, groups of whole blocks and of parts.
SHAPES = [
    (1, 1, None),
    (5, 123, None),
    (63, 63, None),
    (17, 512, None),
    (70, 768, None),
    (9, 640, 128),
    (33, 200, 33),
    (6, 700, 256),
]


def assert_bits_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype
    if found.dtype == torch.bfloat16 and DEVICE.type == "cpu":
        # The interpreter cuts where the GPU rounds: terms and sum, each below 8.
        torch.testing.assert_close(found, expected, rtol=0, atol=2**-4)
        return
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16)), f"seed {SEED}"


@pytest.mark.parametrize(
    ("N", "K", "group_size", "width"),
    [
        (1, 1, None, 2),
        (5, 123, None, 3),
        (17, 512, None, 4),
        (3, 130, 33, 4),
        pytest.param(9, 256, 128, 2, marks=pytest.mark.slow),
        (3, 77, None, 5),
        (2, 128, None, 8),
        pytest.param(70, 768, None, 6, marks=pytest.mark.slow),
        pytest.param(9, 640, 128, 7, marks=pytest.mark.slow),
        *(pytest.param(*shape, width, marks=pytest.mark.full) for shape in SHAPES for width in range(2, 9)),
    ],
)
def test_every_weight_is_that_of_the_naive_dequantisation(N: int, K: int, group_size: int | None, width: int) -> None:
    problem = random_problem(1, N, K, width, bits=8, group_size=group_size, uniform=(N + width) % 2 == 0)
    assert_bits_equal(dequantize(problem.packed, width), problem.weight)


@pytest.mark.parametrize("decoder", ["permute", "grid", "lookup"])
def test_every_decoder_gives_the_naive_weights(decoder: str) -> None:
    group_size = 33 if decoder == "lookup" else 128
    problem = random_problem(1, 6, 256, 3, group_size=group_size, uniform=decoder == "grid")
    assert problem.packed.decoder(3) == decoder
    assert_bits_equal(dequantize(problem.packed, 3), problem.weight)


def test_bfloat16_is_the_rounded_weight() -> None:
    problem = random_problem(1, 6, 70, 4)
    assert_bits_equal(dequantize(problem.packed, 4, torch.bfloat16), problem.weight.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("N", "K"), [(4, 70)])
def test_sparse_part_is_added_in_the_dtype_of_the_weight(N: int, K: int, dtype: torch.dtype) -> None:
    problem = random_problem(1, N, K, 3, sparse=True)
    expected = problem.weight.to(dtype) + problem.sparse.to(dtype)
    assert_bits_equal(dequantize(problem.packed, 3, dtype), expected)


def test_sparse_values_of_one_column_add_whatever_their_order() -> None:
    problem = random_problem(1, 3, 100, 2)
    cols = torch.tensor([7, 99, *range(40), 7, 0, 0], dtype=torch.int32, device=DEVICE)
    vals = torch.ones(len(cols), dtype=torch.float16, device=DEVICE)
    rows = torch.tensor([0, 0, len(cols) - 1, len(cols)], dtype=torch.int32, device=DEVICE)
    object.__setattr__(problem.packed, "sparse", SparsePart.from_csr(rows, cols, vals, 100))
    expected = problem.weight.float()
    expected[1, :40] += 1
    expected[1, [0, 99]] += 1
    expected[1, 7] += 2
    expected[2, 0] += 1
    assert_bits_equal(dequantize(problem.packed, 2), expected.half())


def test_empty_sparse_part_changes_nothing() -> None:
    problem = random_problem(1, 3, 40, 2)
    empty = torch.zeros(0, dtype=torch.int32, device=DEVICE)
    rows = torch.zeros(4, dtype=torch.int32, device=DEVICE)
    object.__setattr__(problem.packed, "sparse", SparsePart.from_csr(rows, empty, empty.half(), 40))
    assert_bits_equal(dequantize(problem.packed, 2), problem.weight)


@pytest.mark.parametrize(("N", "K"), [(16, 128), (3, 77)])
def test_poisoned_output_is_overwritten_whole_and_nothing_beside_it(N: int, K: int) -> None:
    problem = random_problem(1, N, K, 2)
    guarded = torch.full((N + 2, K), float("nan"), dtype=torch.float16, device=DEVICE)
    returned = dequantize(problem.packed, 2, out=guarded[1:-1])
    assert returned.data_ptr() == guarded[1:-1].data_ptr()
    assert_bits_equal(guarded[1:-1], problem.weight)
    assert guarded[[0, -1]].isnan().all()


BAD = {
    "width": ({"weight_bits": 3}, "weight_bits = 3: not stored; stored widths: 2"),
    "dtype": ({"dtype": torch.float32}, "dtype = torch.float32: must be torch.float16 or torch.bfloat16"),
    "shape": (
        {"out": torch.zeros(4, 39).half()},
        r"out torch.float16 \(4, 39\) on .*: must be torch.float16 \(4, 40\)",
    ),
    "other": ({"out": torch.zeros(4, 40).bfloat16()}, "must be torch.float16"),
    "strides": ({"out": torch.zeros(40, 4).half().T}, "contiguous"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    arguments, message = BAD[name]
    problem = random_problem(1, 4, 40, 2)
    moved = {key: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for key, value in arguments.items()}
    with pytest.raises(KernelError, match=message):
        dequantize(problem.packed, **{"weight_bits": 2, **moved})
