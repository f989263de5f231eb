"""The Triton GEMV against float64, in the CPU interpreter or, where there is one, on the GPU."""

from __future__ import annotations

import pytest
import torch

from kernel_problems import SEED, relative_error
from kernels import KernelError, PackedWeight, matmul, pack, pack_planes, unpack_planes
from kernels.config import GemvConfig
from kernels.workspace import workspace

pytest.importorskip("triton", reason="triton is not installed")
from kernels.gemv import gemv, gemv_swiglu

pytestmark = pytest.mark.usefixtures("poisoned_allocations")

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
# Of the largest result: the promise for float16, and the rounding of a bfloat16 result, which a GPU rounds to the
# nearest and Triton's interpreter towards zero.
HALF_ERROR = 1e-3
BFLOAT_ERROR = 2**-8 + HALF_ERROR if DEVICE.type == "cuda" else 2**-7 + HALF_ERROR
WHOLE, SPLIT = GemvConfig(64, 1, 4, 2), GemvConfig(32, 3, 2, 3)


@pytest.fixture(autouse=True)
def _own_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.workspace._workspaces", {})


class Problem:
    """Random activations (between NaN guards), planes, codebooks, bias and the packed weight."""

    def __init__(
        self,
        M: int,
        N: int,
        K: int,
        bits: int,
        widths: tuple[int, ...],
        group_size: int | None = None,
        dtype: torch.dtype = torch.float16,
        grid: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(SEED)
        indices = torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8)
        self.planes = pack_planes(indices, bits).to(DEVICE)
        self.group_size = group_size
        groups = -(-K // (group_size or K))
        self.luts = {}
        for b in widths:
            lut = torch.randn(N, groups, 1 << b, generator=generator).half()
            if grid:
                step = (torch.rand(N, groups, 1, generator=generator) + 0.1).half()
                lut = (step.float() * (torch.arange(1 << b) - (1 << b) // 2 + 1)).half()
            self.luts[b] = lut.to(DEVICE)
        guarded = torch.full((M + 2, K), float("nan"), dtype=dtype)
        guarded[1:-1] = torch.randn(M, K, generator=generator)
        self.x = guarded.to(DEVICE)[1:-1]
        self.bias = torch.randn(N, generator=generator).half().to(DEVICE)
        self.addend = torch.randn(M, N, generator=generator).to(DEVICE)
        self.packed: PackedWeight = pack(self.planes, self.luts, K, group_size)

    def expected(self, width: int, bias: torch.Tensor | None = None, x: torch.Tensor | None = None) -> torch.Tensor:
        """The product in float64."""
        return matmul(self.x if x is None else x, self.planes, self.luts[width], bias, self.group_size)


def assert_close(y: torch.Tensor, expected: torch.Tensor) -> None:
    error = relative_error(y, expected)
    bound = HALF_ERROR if y.dtype == torch.float16 else BFLOAT_ERROR
    assert error < bound, f"relative error {error} (seed {SEED})"


@pytest.mark.parametrize(
    ("M", "N", "K", "bits", "width", "group_size", "config"),
    [
        (1, 64, 512, 4, 4, None, None),
        (1, 63, 300, 4, 3, None, WHOLE),
        (8, 65, 640, 4, 2, None, GemvConfig(64, 5, 4, 2)),
        (5, 5, 123, 8, 5, None, None),
        (3, 1, 1, 2, 2, None, None),
        (2, 130, 128, 6, 6, None, GemvConfig(128, 1, 8, 3)),
        (7, 33, 77, 7, 7, None, WHOLE),
        (4, 12, 1024, 8, 8, None, SPLIT),
        (2, 6, 200, 4, 3, 64, WHOLE),
        (1, 6, 200, 5, 4, 33, SPLIT),
        (3, 17, 384, 4, 4, 128, SPLIT),
        (2, 3, 130, 1, 1, None, WHOLE),
    ],
)
def test_product_is_within_a_thousandth_of_float64(
    M: int, N: int, K: int, bits: int, width: int, group_size: int | None, config: GemvConfig | None
) -> None:
    problem = Problem(M, N, K, bits, (width,), group_size)
    y = gemv(problem.x, problem.packed, width, problem.bias, config=config)
    assert y.dtype == torch.float16
    assert_close(y, problem.expected(width, problem.bias))


@pytest.mark.parametrize(("width", "group_size"), [(4, None), (8, None), (3, 128)])
def test_weights_on_a_uniform_grid_are_decoded_as_such(width: int, group_size: int | None) -> None:
    problem = Problem(2, 20, 384, width, (width,), group_size, grid=True)
    assert problem.packed.decoder(width) == "grid"
    assert_close(gemv(problem.x, problem.packed, width, config=WHOLE), problem.expected(width))


@pytest.mark.parametrize(
    ("width", "group_size", "decoder"),
    [(4, 128, "permute"), (2, 256, "permute"), (3, 32, "lookup"), (5, 128, "lookup")],
)
def test_codebooks_per_group_are_decoded_by_whatever_fits(width: int, group_size: int, decoder: str) -> None:
    problem = Problem(2, 9, 512, width, (width,), group_size)
    assert problem.packed.decoder(width) == decoder
    assert_close(gemv(problem.x, problem.packed, width, config=SPLIT), problem.expected(width))


@pytest.mark.slow
@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize(("M", "dtype"), [(1, torch.float16), (8, torch.bfloat16)])
@pytest.mark.parametrize(("N", "K", "group_size"), [(63, 63, None), (66, 300, None), (9, 520, 128)])
def test_every_width_and_odd_shape_is_right(
    M: int, dtype: torch.dtype, N: int, K: int, group_size: int | None, width: int
) -> None:
    problem = Problem(M, N, K, 8, (width,), group_size, dtype)
    y = gemv(problem.x, problem.packed, width, problem.bias, config=GemvConfig(64, 3, 4, 3))
    assert_close(y, problem.expected(width, problem.bias))


@pytest.mark.full
@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("M", [1, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize(
    ("N", "K", "group_size"),
    [(1, 1, None), (63, 63, None), (123, 123, None), (64, 512, None), (33, 256, 128), (9, 700, 128), (7, 96, 32)],
)
def test_everything_is_right(
    M: int, N: int, K: int, group_size: int | None, width: int, dtype: torch.dtype, grid: bool
) -> None:
    problem = Problem(M, N, K, 8, (width,), group_size, dtype, grid)
    expected = problem.expected(width, problem.bias)
    for config in (None, WHOLE, GemvConfig(16, 99, 1, 4), GemvConfig(128, 2, 8, 2)):
        assert_close(gemv(problem.x, problem.packed, width, problem.bias, config=config), expected)


@pytest.mark.parametrize("splits", [1, 3, 99])
def test_any_split_of_the_row_gives_the_product(splits: int) -> None:
    problem = Problem(2, 40, 500, 3, (3,))
    assert problem.packed.blocks == 4
    config = GemvConfig(64, splits, 4, 3)
    assert_close(gemv(problem.x, problem.packed, 3, problem.bias, config=config), problem.expected(3, problem.bias))


def test_one_packed_weight_serves_every_width() -> None:
    problem = Problem(1, 20, 128, 4, (2, 3, 4))
    for width in (4, 2, 3, 4):
        assert_close(gemv(problem.x, problem.packed, width), problem.expected(width))


def test_result_is_the_sum_of_the_partial_sums_in_rising_order() -> None:
    """Whatever program comes last: equal inputs give equal bits."""
    M, N, splits = 2, 33, 3
    problem = Problem(M, N, 384, 4, (4,), dtype=torch.bfloat16)
    y = gemv(problem.x, problem.packed, 4, config=GemvConfig(32, splits, 2, 3))
    partials, counters = workspace(DEVICE, 1, 1)
    parts = partials[: 2 * splits * 8 * 32].view(2, splits, 8, 32)[:, :, :M]
    total = torch.zeros(2, M, 32, device=DEVICE)
    for split in range(splits):
        total += parts[:, split]
    written = total.transpose(0, 1).reshape(M, 64)[:, :N]
    assert not written.isnan().any()
    rounded = written.bfloat16() if DEVICE.type == "cuda" else (written.contiguous().view(torch.int32) >> 16 << 16)
    expected = rounded if DEVICE.type == "cuda" else rounded.view(torch.float32).bfloat16()
    assert torch.equal(y, expected)
    for _ in range(30 if DEVICE.type == "cuda" else 1):
        assert torch.equal(gemv(problem.x, problem.packed, 4, config=GemvConfig(32, splits, 2, 3)), y)
    assert not counters.any(), "counters must end at zero for the next call"


def test_calls_of_other_shapes_share_the_workspace() -> None:
    first, second = Problem(2, 40, 500, 3, (3,)), Problem(1, 70, 256, 4, (4,))
    for _ in range(2):
        assert_close(gemv(first.x, first.packed, 3, config=SPLIT), first.expected(3))
        assert_close(gemv(second.x, second.packed, 4, config=GemvConfig(16, 2, 1, 2)), second.expected(4))


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs CUDA graphs")
def test_captured_calls_replay_to_the_same_bits() -> None:
    problem = Problem(1, 256, 2048, 4, (2, 4))
    config, stream = GemvConfig(32, 4, 2, 3), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        direct = [gemv(problem.x, problem.packed, width, config=config) for width in (2, 4)]
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = [gemv(problem.x, problem.packed, width, config=config) for width in (2, 4)]
    for _ in range(3):
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(direct, captured, strict=True))


@pytest.mark.parametrize("config", [WHOLE, SPLIT])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_addend_in_either_dtype_is_added_once(config: GemvConfig, dtype: torch.dtype) -> None:
    problem = Problem(3, 21, 300, 2, (2,), dtype=dtype)
    for addend in (problem.addend, problem.addend.to(dtype)):
        y = gemv(problem.x, problem.packed, 2, problem.bias, addend=addend, config=config)
        assert y.dtype == dtype
        assert_close(y, problem.expected(2, problem.bias) + addend.double())


def test_residual_is_updated_in_place() -> None:
    problem = Problem(2, 33, 300, 3, (3,))
    residual = problem.addend.half()
    expected = problem.expected(3) + residual.double()
    assert gemv(problem.x, problem.packed, 3, addend=residual, out=residual, config=SPLIT) is residual
    assert_close(residual, expected)


@pytest.mark.parametrize("config", [WHOLE, SPLIT])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_swiglu_multiplies_silu_of_even_rows_by_odd_rows(config: GemvConfig, dtype: torch.dtype) -> None:
    problem = Problem(3, 70, 300, 4, (4,), dtype=dtype)
    rows = problem.expected(4, problem.bias) + problem.addend.double()
    gate, up = rows[:, 0::2], rows[:, 1::2]
    y = gemv_swiglu(problem.x, problem.packed, 4, problem.bias, addend=problem.addend, config=config)
    assert y.shape == (3, 35)
    assert_close(y, torch.nn.functional.silu(gate) * up)


def test_poisoned_output_is_overwritten_whole_and_nothing_beside_it() -> None:
    problem = Problem(3, 22, 96, 2, (2,))
    for run, columns in ((gemv, 22), (gemv_swiglu, 11)):
        guarded = torch.full((5, columns), float("nan"), dtype=torch.float16, device=DEVICE)
        returned = run(problem.x, problem.packed, 2, out=guarded[1:-1])
        assert returned.data_ptr() == guarded[1:-1].data_ptr()
        assert not guarded[1:-1].isnan().any()
        assert guarded[0].isnan().all()
        assert guarded[-1].isnan().all()


@pytest.mark.parametrize("exponent", [-115, -60, 17, 60, 118])
def test_bfloat16_keeps_its_range(exponent: int) -> None:
    problem = Problem(2, 20, 256, 3, (3,), dtype=torch.bfloat16)
    x = (problem.x.double() * 2.0**exponent).bfloat16()
    assert_close(gemv(x, problem.packed, 3, config=SPLIT), problem.expected(3, x=x))


def test_bfloat16_vectors_are_scaled_each_by_its_own_largest_value() -> None:
    problem = Problem(4, 20, 256, 4, (4,), dtype=torch.bfloat16)
    x = problem.x.clone()
    for m, scale in enumerate((1.0, 2.0**90, 2.0**-90, 0.0)):
        x[m] *= scale
    y, expected = gemv(x, problem.packed, 4, config=WHOLE), problem.expected(4, x=x)
    for m in range(3):
        assert_close(y[m], expected[m])
    assert not y[3].any()


def test_small_bfloat16_values_beside_a_large_one_keep_their_bits() -> None:
    """The largest value meets weights of zero, so that all there is comes from values 2**-28 of it."""
    problem = Problem(1, 20, 256, 4, (4,), dtype=torch.bfloat16)
    x = problem.x.clone()
    x[0, 3] = 2.0**28
    indices = unpack_planes(problem.planes, 4, 256)
    problem.luts[4].scatter_(2, indices[:, None, 3:4].long(), 0.0)
    y = gemv(x, pack(problem.planes, problem.luts, 256), 4, config=WHOLE)
    assert_close(y, problem.expected(4, x=x))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activation_that_is_not_finite_gives_no_plausible_number(dtype: torch.dtype, value: float) -> None:
    problem = Problem(3, 20, 384, 4, (4,), dtype=dtype)
    x = problem.x.clone()
    x[1, 200] = value
    for config in (WHOLE, SPLIT):
        y = gemv(x, problem.packed, 4, config=config)
        assert not y[1].isfinite().any()
        finite = torch.stack([y[0], y[2]])
        assert_close(finite, problem.expected(4)[[0, 2]])


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_result_beyond_float16_is_infinite_and_bfloat16_holds_it() -> None:
    problem = Problem(2, 20, 256, 4, (4,))
    x = torch.full_like(problem.x, 60000.0)
    problem.luts[4].fill_(30.0)
    packed = pack(problem.planes, problem.luts, 256)
    assert (gemv(x, packed, 4, config=WHOLE) == float("inf")).all()
    y = gemv(x.bfloat16(), packed, 4, config=WHOLE)
    assert_close(y, matmul(x.bfloat16(), problem.planes, problem.luts[4]))


def bad_inputs() -> dict[str, tuple[dict[str, object], str]]:
    x = torch.zeros(2, 40, dtype=torch.float16, device=DEVICE)
    wide = torch.zeros(40, 2, dtype=torch.float16, device=DEVICE).T
    y = torch.zeros(2, 6, device=DEVICE)
    return {
        "width": ({"weight_bits": 5}, "weight_bits = 5: not stored; stored widths: 2, 3"),
        "columns": ({"x": x[:, :39].contiguous()}, r"x has shape \(2, 39\)"),
        "batch": ({"x": x.repeat(5, 1)}, r"M = 10: must be 1\.\.8"),
        "empty": ({"x": x[:0]}, r"x has shape \(0, 40\)"),
        "dtype": ({"x": x.float()}, "x is torch.float32"),
        "stride": ({"x": wide}, "must be contiguous"),
        "bias": ({"bias": x[0, :7]}, r"bias has shape \(7,\)"),
        "out": ({"out": y}, r"out is torch\.float32: must be torch\.float16"),
        "out shape": ({"out": y.half()[:1]}, r"out has shape \(1, 6\)"),
        "addend": ({"addend": y.bfloat16()}, r"addend is torch\.bfloat16: must be torch\.float16 or torch\.float32"),
        "addend shape": ({"addend": y[:, :5]}, r"addend has shape \(2, 5\)"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_input_the_kernel_cannot_take_is_refused_by_name(case: str) -> None:
    changes, named = bad_inputs()[case]
    packed = Problem(1, 6, 40, 3, (2, 3)).packed
    x = torch.zeros(2, 40, dtype=torch.float16, device=DEVICE)
    arguments = {"x": x, "packed": packed, "weight_bits": 3, **changes}
    with pytest.raises(KernelError, match=named):
        gemv(**arguments)


def test_odd_number_of_rows_has_no_gate_and_up() -> None:
    problem = Problem(1, 5, 40, 3, (3,))
    with pytest.raises(KernelError, match="N = 5: must be even"):
        gemv_swiglu(problem.x, problem.packed, 3)
