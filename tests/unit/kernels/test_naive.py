from __future__ import annotations

import math

import pytest
import torch

from kernels import KernelError, PackedWeight, SparsePart, dequantize, matmul, naive, pack, pack_planes


@pytest.mark.parametrize(("K", "group_size"), [(40, None), (40, 16), (7, 3)])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_every_weight_is_its_codebook_entry(K: int, group_size: int | None, width: int) -> None:
    generator = torch.Generator().manual_seed(K)
    indices = torch.randint(0, 16, (3, K), generator=generator).to(torch.uint8)
    groups = -(-K // (group_size or K))
    lut = torch.randn(3, groups, 1 << width, generator=generator).half()
    weight = dequantize(pack_planes(indices, 4), lut, K, group_size)
    assert weight.dtype == torch.float16
    for n in range(3):
        for k in range(K):
            assert weight[n, k] == lut[n, k // (group_size or K), int(indices[n, k]) >> (4 - width)]


def test_product_by_hand() -> None:
    planes = pack_planes(torch.tensor([[0, 1, 2, 3], [3, 3, 0, 0]], dtype=torch.uint8), 2)
    lut = torch.tensor([[[-1.0, 0.0, 0.5, 2.0]], [[1.0, 2.0, 3.0, 4.0]]]).half()
    x = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    bias = torch.tensor([0.25, 0.0])
    assert matmul(x, planes, lut, bias).tolist() == [[-1 + 50 + 2000 + 0.25, 4 + 40 + 100 + 1000]]
    assert matmul(x, planes, lut, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 1, 3), (3, 1, 4), (2, 2, 4)])
def test_codebook_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    planes = pack_planes(torch.zeros(2, 4, dtype=torch.uint8), 2)
    with pytest.raises(KernelError, match="lut has shape"):
        dequantize(planes, torch.zeros(shape).half(), 4)


def by_hand() -> PackedWeight:
    """``[[-1, 0, .5, 2], [4, 4, 1, 1]]`` and a sparse part ``[[0, 0, 10, 0], [0, 0, 0, 3]]``, the 3 in two values."""
    planes = pack_planes(torch.tensor([[0, 1, 2, 3], [3, 3, 0, 0]], dtype=torch.uint8), 2)
    lut = torch.tensor([[[-1.0, 0.0, 0.5, 2.0]], [[1.0, 2.0, 3.0, 4.0]]]).half()
    rows, cols = torch.tensor([0, 1, 3]).int(), torch.tensor([2, 3, 3]).int()
    return pack(planes, {2: lut}, 4, sparse=SparsePart.from_csr(rows, cols, torch.tensor([10.0, 1.0, 2.0]).half(), 4))


def test_dense_weight_holds_the_sparse_part() -> None:
    assert naive.dense_weight(by_hand(), 2).tolist() == [[-1, 0, 10.5, 2], [4, 4, 1, 4]]


def test_sparse_product_by_hand() -> None:
    sparse = by_hand().sparse
    assert sparse is not None
    x = torch.tensor([[1.0, 10.0, 100.0, 1000.0], [float("nan"), 0.0, 1.0, 2.0]])
    assert naive.sparse_product(x, sparse).tolist() == [[1000, 3000], [10, 6]]
    assert naive.sparse_product(x, sparse, torch.tensor([[1, 2], [3, 4]])).tolist() == [[1001, 3002], [13, 10]]
    assert naive.dense_sparse(sparse).tolist() == [[0, 0, 10, 0], [0, 0, 0, 3]]


def test_linear_by_hand() -> None:
    x = torch.tensor([[[1.0, 10.0, 100.0, 1000.0]], [[0.0, 0.0, 0.0, 1.0]]])
    assert naive.linear(x, by_hand(), 2).tolist() == [[[-1 + 1050 + 2000, 4 + 40 + 100 + 4000]], [[2, 4]]]
    bias, addend = torch.tensor([0.25, -1.0]), torch.tensor([[[8.0, 16.0]], [[0.0, 32.0]]])
    assert naive.linear(x[1:], by_hand(), 2, bias, addend=addend[1:]).tolist() == [[[2.25, 35]]]


def test_swiglu_takes_gate_and_up_from_even_and_odd_rows() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    sigmoid = 1 / (1 + math.exp(-2.25))
    found = naive.swiglu_linear(x, by_hand(), 2, torch.tensor([0.25, -1.0]), addend=torch.tensor([[0.0, 5.0]]))
    assert found.tolist() == [[pytest.approx(2.25 * sigmoid * 8, rel=1e-15)]]


def test_grid_weights_by_hand() -> None:
    codes = torch.tensor([[0, 3, 1], [2, 2, 2]], dtype=torch.uint8)
    step, zero = torch.tensor([[0.5, 2.0], [1.0, 0.25]]).half(), torch.tensor([[1.0, 0.0], [0.0, 3.0]]).half()
    assert naive.grid_weights(codes, step, zero, 2).tolist() == [[-0.5, 1.0, 2.0], [2.0, 2.0, -0.25]]
    # 3 * 0.0999755859375 lies halfway between two fp16 numbers; the even one is taken.
    rounded = naive.grid_weights(codes[:1], torch.tensor([[0.1]]).half(), torch.tensor([[0.0]]).half())
    assert rounded[0, 1].item() == 0.2998046875
