"""Products to time, with random weights, and what each must give: checked before any clock starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kernels.config import GemvConfig, default_gemv_config, fitting
from kernels.shapes import SHAPES, linears

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FULL_PRECISION_BITS = 16
# Largest error of an output over the largest output of the sample; float16 alone rounds by half of it.
TOLERANCE = 1e-3
# The same of cuBLAS, which torch lets add partial sums in half precision: the baseline must not fall for it.
CUBLAS_TOLERANCE = 5e-3
# Rows compared with float64, first and last among them; all other outputs must at least be finite.
SAMPLED_ROWS = 64
# As wide as trained weights' entries; activations are standard normal, so that no output leaves float16.
WEIGHT_SCALE = 0.05
GRID_GROUP_SIZE = 128
_HALF_BYTES = 2
_GRID_BYTES = 4


@dataclass(frozen=True)
class LinearCase:
    """One linear layer of the models' shapes.

    Attributes:
        N: Output rows of the weight.
        K: Input columns.
        swiglu: Rows of gate and up in turn; the result is ``SiLU(gate) * up``, half as wide.
        used_by: Where it occurs, such as ``vicuna-7b gate_up``.
    """

    N: int
    K: int
    swiglu: bool
    used_by: tuple[str, ...]

    @property
    def operation(self) -> str:
        """``linear`` or ``swiglu``."""
        return "swiglu" if self.swiglu else "linear"

    @property
    def name(self) -> str:
        """For example ``11008x4096 linear``."""
        return f"{self.N}x{self.K} {self.operation}"


def linear_cases(models: tuple[str, ...]) -> list[LinearCase]:
    """The distinct linears of some models, single and fused, in the order in which they first occur."""
    users: dict[tuple[int, int, bool], list[str]] = {}
    for model in models:
        for layer, (N, K) in linears(SHAPES[model]).items():
            users.setdefault((N, K, layer == "gate_up"), []).append(f"{model} {layer}")
    return [LinearCase(N, K, swiglu, tuple(names)) for (N, K, swiglu), names in users.items()]


@dataclass(frozen=True)
class Problem:
    """One product, ready to run.

    Attributes:
        weight: What rotates through the cache: a half-precision matrix, or a packed weight.
        run: Computes the product of a copy of ``weight`` into an output.
        out_shape: Of the output, float16.
        bytes_per_call: Planes (or weights), tables, activations and outputs: each counted once.
        decoder: How weights are decoded; ``cublas`` where they are not.
        config: The launch, and whether this device's table has it: ``tuned: rows 64 splits 2 warps 4 stages 3``.
        rows: Sampled columns of the output.
        expected: ``[M, rows]`` float64, the product of the same half-precision activations and dequantised weights.
    """

    weight: Any
    run: Callable[[Any, Tensor], object]
    out_shape: tuple[int, int]
    bytes_per_call: int
    decoder: str
    config: str
    rows: Tensor
    expected: Tensor

    @property
    def tolerance(self) -> float:
        """Of :meth:`error`."""
        return CUBLAS_TOLERANCE if self.decoder == "cublas" else TOLERANCE

    def poisoned_out(self) -> Tensor:
        """An output filled with NaN."""
        import torch

        return torch.full(self.out_shape, float("nan"), dtype=torch.float16, device=self.expected.device)

    def error(self) -> float:
        """Largest error over the largest output, on the sampled rows; infinite where any output is not finite."""
        out = self.poisoned_out()
        self.run(self.weight, out)
        if not bool(out.isfinite().all()):
            return float("inf")
        difference = out[:, self.rows].double() - self.expected
        return float(difference.abs().max() / self.expected.abs().max())


def full_precision_problem(case: LinearCase, M: int, device: torch.device) -> Problem:
    """The same matrix in half precision by cuBLAS; a SwiGLU's activation is left out, in the baseline's favour."""
    import torch

    weight = (torch.randn(case.N, case.K, device=device) * WEIGHT_SCALE).half()
    x = torch.randn(M, case.K, device=device).half()
    rows = sampled_rows(case.N, device)

    def run(copy: Tensor, out: Tensor) -> object:
        return torch.mm(x, copy.t(), out=out)

    return Problem(
        weight=weight,
        run=run,
        out_shape=(M, case.N),
        bytes_per_call=_HALF_BYTES * (case.N * case.K + M * case.K + M * case.N),
        decoder="cublas",
        config="",
        rows=rows,
        expected=x.double() @ weight[rows].double().T,
    )


def nested_problem(case: LinearCase, weight_bits: int, M: int, device: torch.device, *, uniform: bool) -> Problem:
    """A nested weight stored up to ``weight_bits`` bits and read at that width.

    Args:
        case: The layer.
        weight_bits: Width, 2..8.
        M: Activation vectors, 1..8.
        device: Where.
        uniform: Codebooks on a uniform grid a group of 128 columns, as RTN and GPTQ give; else one of random entries
            a row.
    """
    import torch

    from kernels.gemv import gemv, gemv_swiglu
    from kernels.layout import pack
    from kernels.naive import matmul
    from kernels.tuning import choose

    planes, lut, group_size = random_nested(case.N, case.K, weight_bits, device, uniform=uniform)
    x = torch.randn(M, case.K, device=device).half()
    packed = pack(planes, {weight_bits: lut}, case.K, group_size)
    decoder = packed.decoder(weight_bits)
    choice = choose(device, case.operation, case.N, case.K, weight_bits, decoder, M)
    tuned = isinstance(choice.config, GemvConfig)
    default = default_gemv_config(case.N, case.K, M, weight_bits, packed.block_bytes, decoder)
    chosen = choice.config if isinstance(choice.config, GemvConfig) else default
    # As kernels.dispatch takes it.
    config = fitting(chosen, weight_bits, packed.block_bytes, decoder)
    product = gemv_swiglu if case.swiglu else gemv

    def run(copy: Any, out: Tensor) -> object:
        return product(x, copy, weight_bits, out=out, config=config)

    def expected(rows: Tensor) -> Tensor:
        return matmul(x, planes[:, rows].contiguous(), lut[rows], group_size=group_size)

    width = case.N // 2 if case.swiglu else case.N
    rows = sampled_rows(width, device)
    wanted = swiglu(expected(2 * rows), expected(2 * rows + 1)) if case.swiglu else expected(rows)
    table_bytes = _GRID_BYTES * case.N * lut.shape[1] if decoder == "grid" else _HALF_BYTES * lut.numel()
    return Problem(
        weight=packed,
        run=run,
        out_shape=(M, width),
        bytes_per_call=packed.planes.numel() * 4 + table_bytes + _HALF_BYTES * M * (case.K + width),
        decoder=decoder,
        config=" ".join(
            ["tuned:" if tuned else "default:", *(f"{name} {value}" for name, value in asdict(config).items())]
        ),
        rows=rows,
        expected=wanted,
    )


def random_nested(
    N: int, K: int, weight_bits: int, device: torch.device, *, uniform: bool
) -> tuple[Tensor, Tensor, int | None]:
    """Random planes in storage order (K a multiple of 32), codebooks of one width, and their group size."""
    import torch

    planes = torch.randint(-(2**31), 2**31, (weight_bits, N, K // 32), dtype=torch.int32, device=device)
    entries = 1 << weight_bits
    if not uniform:
        return planes, (torch.randn(N, 1, entries, device=device) * WEIGHT_SCALE).half(), None
    groups = -(-K // GRID_GROUP_SIZE)
    # Six standard deviations over the grid, about its middle, as a grid fitted to such weights.
    step = ((0.5 + torch.rand(N, groups, 1, device=device)) * (6 * WEIGHT_SCALE / entries)).half()
    zero = torch.randint(entries // 2 - 1, entries // 2 + 1, (N, groups, 1), device=device)
    levels = torch.arange(entries, device=device) - zero
    return planes, (step.float() * levels).half(), GRID_GROUP_SIZE


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``SiLU(gate) * up`` in the dtype given."""
    import torch

    return torch.nn.functional.silu(gate) * up


def sampled_rows(count: int, device: torch.device) -> Tensor:
    """Output columns to compare with float64: the first, the last and some between."""
    import torch

    return torch.linspace(0, count - 1, min(SAMPLED_ROWS, count), device=device).round().long()
