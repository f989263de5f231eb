"""The Triton GEMV against float64, in the CPU interpreter or, where there is one, on the GPU."""

from __future__ import annotations

import time

import pytest
import torch

from kernels import KernelError, PackedWeight, matmul, pack, pack_planes
from kernels.config import GemvConfig

gemv = pytest.importorskip("kernels.gemv", reason="triton is not installed").gemv

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Fresh data in every run; the seed is printed with a failure.
SEED = time.time_ns() % 2**31


@pytest.fixture(autouse=True)
def _poisoned_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernels' host code allocates with NaN: reading before writing then shows."""
    empty = torch.empty

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr("kernels.gemv.torch.empty", poisoned)


def problem(
    M: int, N: int, K: int, bits: int, widths: tuple[int, ...], group_size: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, dict[int, torch.Tensor], torch.Tensor, PackedWeight]:
    """Random activations (between NaN guards), planes, codebooks, bias and the packed weight."""
    generator = torch.Generator().manual_seed(SEED)
    planes = pack_planes(torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8), bits)
    groups = -(-K // (group_size or K))
    luts = {b: torch.randn(N, groups, 1 << b, generator=generator).half() for b in widths}
    guarded = torch.full((M + 2, K), float("nan"), dtype=torch.float16)
    guarded[1:-1] = torch.randn(M, K, generator=generator)
    bias = torch.randn(N, generator=generator).half()
    planes, bias = planes.to(DEVICE), bias.to(DEVICE)
    luts = {b: lut.to(DEVICE) for b, lut in luts.items()}
    return guarded.to(DEVICE)[1:-1], planes, luts, bias, pack(planes, luts, K, group_size)


def assert_close(y: torch.Tensor, expected: torch.Tensor) -> None:
    error = float((y.double() - expected).abs().max() / expected.abs().max())
    assert error < 1e-3, f"relative error {error} (seed {SEED})"


@pytest.mark.parametrize(
    ("M", "N", "K", "bits", "width", "group_size"),
    [
        (1, 64, 512, 4, 4, None),
        (1, 63, 300, 4, 3, None),
        (1, 70, 256, 3, 2, None),
        (8, 65, 640, 4, 2, None),
        (5, 5, 123, 8, 5, None),
        (3, 1, 1, 2, 2, None),
        (2, 130, 128, 6, 6, None),
        (7, 33, 77, 7, 7, None),
        (4, 12, 1024, 8, 8, None),
        (2, 16, 1536, 2, 2, None),
        (2, 6, 200, 4, 3, 64),
        (1, 6, 200, 5, 4, 33),
        (2, 3, 130, 1, 1, None),
    ],
)
def test_product_is_within_a_thousandth_of_float64(
    M: int, N: int, K: int, bits: int, width: int, group_size: int | None
) -> None:
    x, planes, luts, bias, packed = problem(M, N, K, bits, (width,), group_size)
    expected = matmul(x, planes, luts[width], bias, group_size)
    assert_close(gemv(x, packed, width, bias), expected)


@pytest.mark.slow
@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize("M", [1, 8])
@pytest.mark.parametrize(("N", "K", "group_size"), [(63, 63, None), (130, 1100, None), (9, 700, 128)])
def test_every_width_batch_and_odd_shape_is_within_a_thousandth(
    M: int, N: int, K: int, group_size: int | None, width: int
) -> None:
    x, planes, luts, bias, packed = problem(M, N, K, 8, (width,), group_size)
    expected = matmul(x, planes, luts[width], bias, group_size)
    for splits in (1, None):
        assert_close(gemv(x, packed, width, bias, config=GemvConfig(32, splits or 99, 2, 3)), expected)


@pytest.mark.parametrize("splits", [1, 3, 99])
def test_any_split_of_the_row_gives_the_product(splits: int) -> None:
    x, planes, luts, bias, packed = problem(2, 40, 500, 3, (3,))
    assert packed.blocks == 4
    assert_close(gemv(x, packed, 3, bias, config=GemvConfig(32, splits, 2, 3)), matmul(x, planes, luts[3], bias))
    assert_close(gemv(x, packed, 3, config=GemvConfig(32, splits, 2, 3)), matmul(x, planes, luts[3]))


def test_one_packed_weight_serves_every_width() -> None:
    x, planes, luts, _, packed = problem(1, 20, 128, 4, (2, 3, 4))
    for width in (4, 2, 3, 4):
        assert_close(gemv(x, packed, width), matmul(x, planes, luts[width]))


def test_same_input_gives_the_same_bits() -> None:
    x, _, _, bias, packed = problem(3, 33, 300, 4, (4,))
    assert torch.equal(gemv(x, packed, 4, bias), gemv(x, packed, 4, bias))


def test_poisoned_output_is_overwritten_whole_and_nothing_beside_it() -> None:
    x, planes, luts, _, packed = problem(3, 21, 96, 2, (2,))
    guarded = torch.full((5, 21), float("nan"), dtype=torch.float16, device=DEVICE)
    returned = gemv(x, packed, 2, out=guarded[1:-1])
    assert returned.data_ptr() == guarded[1:-1].data_ptr()
    assert_close(guarded[1:-1], matmul(x, planes, luts[2]))
    assert guarded[0].isnan().all()
    assert guarded[-1].isnan().all()


def bad_inputs() -> dict[str, tuple[dict[str, object], str]]:
    x = torch.zeros(2, 40, dtype=torch.float16, device=DEVICE)
    wide = torch.zeros(40, 2, dtype=torch.float16, device=DEVICE).T
    return {
        "width": ({"weight_bits": 5}, "weight_bits = 5: not stored; stored widths: 2, 3"),
        "columns": ({"x": x[:, :39].contiguous()}, r"x has shape \(2, 39\)"),
        "batch": ({"x": x.repeat(5, 1)}, r"M = 10: must be 1\.\.8"),
        "empty": ({"x": x[:0]}, "M = 0"),
        "dtype": ({"x": x.float()}, "x is torch.float32"),
        "stride": ({"x": wide}, "must be contiguous"),
        "bias": ({"bias": x[0, :7]}, r"bias has shape \(7,\)"),
        "out": ({"out": torch.zeros(2, 6, device=DEVICE)}, r"out torch\.float32 \(2, 6\)"),
    }


@pytest.mark.parametrize("case", ["width", "columns", "batch", "empty", "dtype", "stride", "bias", "out"])
def test_input_the_kernel_cannot_take_is_refused_by_name(case: str) -> None:
    changes, named = bad_inputs()[case]
    _, _, _, _, packed = problem(1, 6, 40, 3, (2, 3))
    x = torch.zeros(2, 40, dtype=torch.float16, device=DEVICE)
    arguments = {"x": x, "packed": packed, "weight_bits": 3, **changes}
    with pytest.raises(KernelError, match=named):
        gemv(**arguments)
