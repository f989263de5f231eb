from __future__ import annotations

import pytest
import torch

from kernels import KernelError, dequantize, matmul, pack_planes


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
