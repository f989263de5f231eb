"""The product with a sparse part against float64, in the CPU interpreter or, where there is one, on the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernel_problems import DEVICE, SEED
from kernels import KernelError, SparsePart, naive
from kernels.aot import run_compiling

sparse_product = pytest.importorskip("kernels.sparse", reason="triton is not installed").sparse_product

pytestmark = pytest.mark.usefixtures("poisoned_allocations")


def part(lengths: list[int], K: int, seed: int = SEED) -> SparsePart:
    """Rows of the given lengths; columns in any order, some of them twice."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor([0, *lengths]).cumsum(0).int()
    cols = torch.randint(0, K, (sum(lengths),), generator=generator).int()
    vals = torch.randn(sum(lengths), generator=generator).half()
    return SparsePart.from_csr(rows.to(DEVICE), cols.to(DEVICE), vals.to(DEVICE), K)


def activations(M: int, K: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Random activations between rows of NaN."""
    guarded = torch.full((M + 2, K), float("nan"), dtype=dtype)
    guarded[1:-1] = torch.randn(M, K, generator=torch.Generator().manual_seed(SEED))
    return guarded.to(DEVICE)[1:-1]


def assert_close(y: torch.Tensor, x: torch.Tensor, sparse: SparsePart, addend: torch.Tensor | None = None) -> None:
    """Within float32 rounding of the sum of magnitudes."""
    expected = naive.sparse_product(x, sparse, addend)
    magnitudes = naive.sparse_product(
        x.double().abs(), replace(sparse, vals=sparse.vals.abs()), None if addend is None else addend.abs()
    )
    error = (y.double() - expected).abs() - 1e-6 * magnitudes
    assert y.dtype == torch.float32
    assert float(error.max()) <= 0, f"off by {float((y.double() - expected).abs().max())} (seed {SEED})"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("M", "lengths", "K"),
    [
        (1, [3], 5),
        (1, [0, 7, 0, 123, 1], 77),
        (2, [16] * 17, 300),
        (5, [300, 0, 2, 0], 64),
        (8, [0, 0, 0, 0, 0, 33], 123),
        (9, [5, 0, 70], 63),
        (19, [1, 2, 3, 4, 5, 6, 7], 1),
    ],
)
def test_product_is_within_float32_rounding(M: int, lengths: list[int], K: int, dtype: torch.dtype) -> None:
    sparse, x = part(lengths, K), activations(M, K, dtype)
    assert sparse.longest_row == max(lengths)
    assert_close(sparse_product(x, sparse), x, sparse)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_addend_of_any_dtype_is_added_once(dtype: torch.dtype) -> None:
    sparse, x = part([0, 40, 3], 50), activations(3, 50)
    addend = torch.randn(3, 3).to(DEVICE, dtype)
    assert_close(sparse_product(x, sparse, addend), x, sparse, addend)


def test_result_may_replace_the_addend() -> None:
    sparse, x = part([4, 0, 3], 50), activations(2, 50)
    running = torch.randn(2, 3, device=DEVICE)
    before = running.clone()
    assert sparse_product(x, sparse, running, out=running) is running
    assert_close(running, x, sparse, before)


@pytest.mark.parametrize("with_addend", [False, True])
def test_part_without_values_gives_the_addend_or_zero(with_addend: bool) -> None:
    sparse, x = part([0, 0, 0], 20), activations(2, 20)
    addend = torch.randn(2, 3, device=DEVICE) if with_addend else None
    expected = torch.zeros(2, 3, device=DEVICE) if addend is None else addend
    assert torch.equal(sparse_product(x, sparse, addend), expected)


def test_columns_without_a_value_are_not_read() -> None:
    sparse = SparsePart.from_csr(
        torch.tensor([0, 1, 1, 3], dtype=torch.int32, device=DEVICE),
        torch.tensor([2, 4, 4], dtype=torch.int32, device=DEVICE),
        torch.tensor([2.0, 3.0, 5.0], dtype=torch.float16, device=DEVICE),
        5,
    )
    nan = float("nan")
    x = torch.tensor([[nan, nan, 10.0, nan, 100.0]], dtype=torch.float16, device=DEVICE)
    assert sparse_product(x, sparse).tolist() == [[20.0, 0.0, 800.0]]


def test_same_input_gives_the_same_bits() -> None:
    sparse, x = part([200, 0, 37], 90), activations(8, 90)
    assert torch.equal(sparse_product(x, sparse), sparse_product(x, sparse))


def test_poisoned_output_is_overwritten_whole_and_nothing_beside_it() -> None:
    sparse, x = part([0, 5, 9, 0, 0], 30), activations(3, 30)
    guarded = torch.full((5, 5), float("nan"), device=DEVICE)
    returned = sparse_product(x, sparse, out=guarded[1:-1])
    assert returned.data_ptr() == guarded[1:-1].data_ptr()
    assert_close(guarded[1:-1], x, sparse)
    assert guarded[0].isnan().all()
    assert guarded[-1].isnan().all()


def bad_inputs() -> dict[str, tuple[dict[str, object], str]]:
    x = torch.zeros(2, 40, dtype=torch.float16, device=DEVICE)
    halves = torch.zeros(2, 3, dtype=torch.float16, device=DEVICE)
    return {
        "dtype": ({"x": x.float()}, r"x is torch\.float32: must be torch\.float16"),
        "columns": ({"x": x[:, :39].contiguous()}, r"x has shape \(2, 39\): must be \[M, 40\]"),
        "no vectors": ({"x": x[:0]}, r"x has shape \(0, 40\): .* M >= 1"),
        "strides": ({"x": torch.zeros(40, 2, dtype=torch.float16, device=DEVICE).T}, "must be contiguous"),
        "device": ({"x": x.to("meta")}, "x is on meta, the sparse part on"),
        "addend shape": ({"addend": halves[:1]}, r"addend torch\.float16 \(1, 3\): must be .* \(2, 3\)"),
        "addend dtype": ({"addend": halves.double()}, r"addend torch\.float64"),
        "addend strides": ({"addend": torch.zeros(3, 2, device=DEVICE).T}, "addend .* contiguous"),
        "addend device": ({"addend": halves.to("meta")}, "addend is on meta"),
        "out": ({"out": halves}, r"out torch\.float16 \(2, 3\) .* must be torch\.float32 \(2, 3\)"),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_input_that_does_not_fit_is_refused(name: str) -> None:
    changed, message = bad_inputs()[name]
    arguments: dict[str, object] = {"x": torch.zeros(2, 40, dtype=torch.float16, device=DEVICE), "addend": None}
    with pytest.raises(KernelError, match=message):
        sparse_product(sparse=part([0, 2, 1], 40), **(arguments | changed))


COMPILE = """
import torch
from kernels import SparsePart
from kernels.aot import compile_kernel
from kernels.check_compiled import recorded_launch
from kernels.sparse import sparse_product

result = []
for arch, M, longest, dtype in argument:
    rows = torch.tensor([0] + [longest] * 64, dtype=torch.int32)
    cols, vals = torch.zeros(longest, dtype=torch.int32), torch.zeros(longest).half()
    sparse = SparsePart.from_csr(rows, cols, vals, 256)
    x = torch.zeros(M, 256, dtype=getattr(torch, dtype))
    with recorded_launch("kernels.sparse", "_sparse_kernel") as launch:
        sparse_product(x, sparse, torch.zeros(M, 64))
    found = compile_kernel(
        launch.fn, launch.signature, launch.constants, arch, launch.aligned, launch.warps, launch.stages
    )
    result.append(found.stack_bytes + found.spills)
"""


@pytest.mark.slow
def test_kernel_compiles_without_spills() -> None:
    cases = [(90, 1, 20, "float16"), (90, 8, 999, "bfloat16"), (80, 8, 5, "float16"), (89, 3, 60, "float16")]
    assert run_compiling(COMPILE, cases) == [0] * len(cases)
