"""The fused GEMM against float64, in the CPU interpreter or, where there is one, on the GPU."""

from __future__ import annotations

import pytest
import torch

from kernel_problems import DEVICE, SEED, Problem, random_problem, relative_error
from kernels import KernelError
from kernels.config import GemmConfig

module = pytest.importorskip("kernels.gemm", reason="triton is not installed")
gemm, gemm_swiglu = module.gemm, module.gemm_swiglu

pytestmark = pytest.mark.usefixtures("poisoned_allocations")

# float16 rounds the result by 2**-11 of it; bfloat16 the weights and the result by 2**-9 each, and the interpreter
# cuts instead of rounding.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 2e-2}


def assert_close(y: torch.Tensor, expected: torch.Tensor, problem: Problem) -> None:
    assert y.dtype == problem.x.dtype
    error = relative_error(y, expected)
    assert error < TOLERANCE[y.dtype], f"relative error {error} (seed {SEED})"


def silu_product(y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(y[:, 0::2]) * y[:, 1::2]


# M, N, K, width, options: tails in every direction, all decoders, blocks of 64, 32 and 16 bytes.
QUICK = [
    (9, 64, 512, 4, {}),
    (33, 5, 123, 2, {}),
    (16, 10, 128, 4, {"uniform": True}),
    (20, 9, 77, 5, {}),
    (1, 1, 1, 2, {}),
    (11, 18, 70, 4, {"dtype": torch.bfloat16}),
    pytest.param(17, 66, 200, 3, {}, marks=pytest.mark.slow),
    pytest.param(20, 10, 256, 3, {"group_size": 128}, marks=pytest.mark.slow),
    pytest.param(12, 6, 130, 4, {"group_size": 33}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("M", "N", "K", "width", "options"), QUICK)
def test_product_is_that_of_float64_within_rounding(
    M: int, N: int, K: int, width: int, options: dict[str, object]
) -> None:
    problem = random_problem(M, N, K, width, **options)
    assert_close(gemm(problem.x, problem.packed, width, problem.bias), problem.product, problem)


@pytest.mark.full
@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize("M", [9, 64, 130])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(("N", "K", "group_size"), [(63, 63, None), (130, 1100, None), (9, 700, 128), (5, 90, 33)])
def test_every_width_tile_and_odd_shape(
    M: int, N: int, K: int, group_size: int | None, uniform: bool, dtype: torch.dtype, width: int
) -> None:
    problem = random_problem(M, N, K, width, bits=8, group_size=group_size, uniform=uniform, dtype=dtype)
    assert_close(gemm(problem.x, problem.packed, width, problem.bias), problem.product, problem)


@pytest.mark.parametrize(
    ("rows", "columns", "splits", "warps"),
    [
        (32, 32, 2, 2),
        pytest.param(16, 16, 1, 1, marks=pytest.mark.slow),
        pytest.param(128, 16, 99, 2, marks=pytest.mark.slow),
    ],
)
def test_any_configuration_gives_the_product(rows: int, columns: int, splits: int, warps: int) -> None:
    problem = random_problem(18, 20, 300, 3)
    assert problem.packed.blocks == 3
    config = GemmConfig(rows, columns, splits, warps, stages=2)
    assert_close(gemm(problem.x, problem.packed, 3, problem.bias, config=config), problem.product, problem)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_addend_is_added_and_may_be_the_output(dtype: torch.dtype, splits: int) -> None:
    problem = random_problem(10, 9, 256, 4)
    config = GemmConfig(16, 16, splits, 1, 2)
    addend = torch.randn(10, 9, dtype=dtype, device=DEVICE)
    expected = problem.product - problem.bias.double() + addend.double()
    assert_close(gemm(problem.x, problem.packed, 4, addend=addend, config=config), expected, problem)
    if dtype == torch.float16:
        gemm(problem.x, problem.packed, 4, addend=addend, out=addend, config=config)
        assert_close(addend, expected, problem)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize(("M", "N"), [(10, 18), pytest.param(17, 2, marks=pytest.mark.slow)])
def test_swiglu_multiplies_the_activated_gate_by_the_next_row(M: int, N: int, splits: int) -> None:
    problem = random_problem(M, N, 256, 3)
    addend = torch.randn(M, N, device=DEVICE)
    config = GemmConfig(16, 16, splits, 1, 2)
    y = gemm_swiglu(problem.x, problem.packed, 3, problem.bias, addend=addend, config=config)
    assert y.shape == (M, N // 2)
    assert_close(y, silu_product(problem.product + addend.double()), problem)


def test_same_input_gives_the_same_bits_and_clears_its_counters() -> None:
    problem = random_problem(17, 9, 384, 4)
    config = GemmConfig(16, 16, 3, 1, 2)
    first = gemm(problem.x, problem.packed, 4, config=config)
    for _ in range(2):
        assert torch.equal(gemm(problem.x, problem.packed, 4, config=config), first)


@pytest.mark.parametrize("splits", [1, 2])
def test_poisoned_output_is_overwritten_whole_and_nothing_beside_it(splits: int) -> None:
    problem = random_problem(18, 17, 256, 2)
    guarded = torch.full((20, 17), float("nan"), dtype=torch.float16, device=DEVICE)
    config = GemmConfig(16, 16, splits, 1, 2)
    returned = gemm(problem.x, problem.packed, 2, problem.bias, out=guarded[1:-1], config=config)
    assert returned.data_ptr() == guarded[1:-1].data_ptr()
    assert_close(guarded[1:-1], problem.product, problem)
    assert guarded[[0, -1]].isnan().all()


def bad_inputs() -> dict[str, tuple[dict[str, object], str]]:
    x = torch.zeros(9, 40, dtype=torch.float16, device=DEVICE)
    half = {"dtype": torch.float16, "device": DEVICE}
    return {
        "width": ({"weight_bits": 5}, "weight_bits = 5: not stored; stored widths: 2"),
        "columns": ({"x": x[:, :39].contiguous()}, r"x has shape \(9, 39\): must be \[M, 40\]"),
        "empty": ({"x": x[:0]}, r"x has shape \(0, 40\): must be \[M, 40\] with M >= 1"),
        "dimensions": ({"x": x[0]}, r"x has shape \(40,\)"),
        "dtype": ({"x": x.float()}, "x is torch.float32: must be torch.float16 or torch.bfloat16"),
        "stride": ({"x": torch.zeros(40, 9, **half).T}, "x has strides .*: must be contiguous"),
        "device": ({"x": x.to("meta")}, "x is on meta, the weight on"),
        "bias": ({"bias": torch.zeros(4, **half)}, r"bias has shape \(4,\).*: must be \(6,\)"),
        "addend": ({"addend": torch.zeros(9, 5, **half)}, r"addend has shape \(9, 5\).*: must be \(9, 6\)"),
        "addend dtype": ({"addend": torch.zeros(9, 6, **half).double()}, "addend is torch.float64: must be"),
        "out": ({"out": torch.zeros(9, 5, **half)}, r"out has shape \(9, 5\).*: must be \(9, 6\)"),
        "out dtype": ({"out": torch.zeros(9, 6, device=DEVICE)}, "out is torch.float32: must be torch.float16"),
        "out stride": ({"out": torch.zeros(6, 9, **half).T}, "out has shape .* contiguous"),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input_is_refused(name: str) -> None:
    arguments, message = bad_inputs()[name]
    problem = random_problem(9, 6, 40, 2)
    with pytest.raises(KernelError, match=message):
        gemm(**{"x": problem.x, "packed": problem.packed, "weight_bits": 2, **arguments})


def test_swiglu_of_an_odd_number_of_rows_is_refused() -> None:
    problem = random_problem(9, 5, 40, 2)
    with pytest.raises(KernelError, match="N = 5: must be even"):
        gemm_swiglu(problem.x, problem.packed, 2)
