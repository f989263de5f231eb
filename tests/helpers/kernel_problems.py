"""Random products for the kernels, in the interpreter or on a GPU; needs torch and this package's kernels alone."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import PackedWeight, dequantize, pack, pack_planes
from kernels.layout import SparsePart

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Fresh data in every run; failure messages show the seed.
SEED = time.time_ns() % 2**31
# Of float16 products, over the largest output: 2**-11 for rounding the result; cuBLAS may round partial sums as well.
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Problem:
    """A product and its naive dequantisation.

    Attributes:
        x: ``[M, K]`` activations between two rows of NaN.
        packed: The weight.
        weight: ``[N, K]`` float16, what the dense part holds.
        sparse: ``[N, K]`` float16, what the sparse part adds.
        bias: ``[N]`` float16.
        width: The width of all this.
    """

    x: Tensor
    packed: PackedWeight
    weight: Tensor
    sparse: Tensor
    bias: Tensor
    width: int

    @property
    def product(self) -> Tensor:
        """``x (W + S)^T + bias`` ``[M, N]`` in float64."""
        return self.x.double() @ (self.weight.double() + self.sparse.double()).T + self.bias.double()


def random_problem(
    M: int,
    N: int,
    K: int,
    width: int,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    uniform: bool = False,
    sparse: bool = False,
    dtype: torch.dtype = torch.float16,
    device: torch.device = DEVICE,
) -> Problem:
    """Random planes, codebooks and activations.

    Args:
        M: Activation vectors.
        N: Rows of the weight.
        K: Columns of the weight.
        width: The width used.
        bits: Planes stored; ``width`` by default.
        group_size: Columns that share a codebook.
        uniform: Codebooks on uniform grids, so that the grid decoder takes them.
        sparse: With a sparse part, some rows of it empty, the first full.
        dtype: Of the activations.
        device: Where.
    """
    generator = torch.Generator(device).manual_seed(SEED)
    bits = bits or width
    indices = torch.randint(0, 1 << bits, (N, K), generator=generator, device=device).to(torch.uint8)
    planes = pack_planes(indices, bits)
    groups = -(-K // (group_size or K))
    if uniform:
        step = torch.rand(N, groups, 1, generator=generator, device=device).half() + 0.01
        zero = torch.randint(0, 1 << width, (N, groups, 1), generator=generator, device=device)
        lut = (step.float() * (torch.arange(1 << width, device=device) - zero)).half()
    else:
        lut = torch.randn(N, groups, 1 << width, generator=generator, device=device).half()
    added = torch.zeros(N, K, dtype=torch.float16, device=device)
    if sparse:
        chosen = torch.rand(N, K, generator=generator, device=device) < 0.02
        chosen[0] = True
        chosen[N // 2] = False
        added[chosen] = torch.randn(int(chosen.sum()), generator=generator, device=device).half()
    guarded = torch.full((M + 2, K), float("nan"), dtype=dtype, device=device)
    guarded[1:-1] = torch.randn(M, K, generator=generator, device=device)
    return Problem(
        x=guarded[1:-1],
        packed=pack(planes, {width: lut}, K, group_size, sparse=csr(added) if sparse else None),
        weight=dequantize(planes, lut, K, group_size),
        sparse=added,
        bias=torch.randn(N, generator=generator, device=device).half(),
        width=width,
    )


def csr(dense: Tensor) -> SparsePart:
    """The nonzero values of a matrix in compressed sparse rows."""
    rows, cols = dense.nonzero(as_tuple=True)
    ends = (rows[None, :] < torch.arange(1, len(dense) + 1, device=dense.device)[:, None]).sum(1)
    starts = torch.cat([ends.new_zeros(1), ends]).int()
    return SparsePart.from_csr(starts, cols.int(), dense[rows, cols], dense.shape[1])


def relative_error(y: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value expected; NaN where ``y`` holds one."""
    return float((y.double() - expected).abs().max() / expected.abs().max())
