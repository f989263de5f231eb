"""The linear layer on a GPU against the same layer on the CPU; needs the project's other packages."""

from __future__ import annotations

import pytest
import torch

from kernels import pack_planes

pytest.importorskip("pydantic", reason="accuracy needs pydantic")
AnyPrecisionLinear = pytest.importorskip("accuracy.linear").AnyPrecisionLinear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def random_layer() -> torch.nn.Module:
    layer = AnyPrecisionLinear(300, 40, min_bits=2, max_bits=4, bias=True, full_precision=True, sparse_values=3)
    layer.planes.copy_(pack_planes(torch.randint(0, 16, (40, 300)).to(torch.uint8), 4))
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.randn(buffer.shape))
    layer.sparse_rows[1:] = 3
    layer.sparse_cols.copy_(torch.tensor([0, 7, 299]))
    return layer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_layer_gives_the_numbers_of_the_cpu(dtype: torch.dtype) -> None:
    layer = random_layer()
    x = torch.randn(130, 300)
    expected = {}
    for bits in (2, 3, 4, 16):
        layer.weight_bits = bits
        expected[bits] = layer(x.to(dtype).float())
    layer.to("cuda", dtype)
    layer.prepare()
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-4}[dtype]
    assert not torch.backends.cuda.matmul.allow_tf32, "TF32 products would differ by 2**-11"
    for bits in (4, 2, 3, 16):
        layer.weight_bits = bits
        for M in (1, 20, 130):
            y = layer(x[:M].to("cuda", dtype))
            assert y.dtype == dtype
            error = float((y.float().cpu() - expected[bits][:M]).abs().max() / expected[bits].abs().max())
            assert error < tolerance, f"{bits} bits, M = {M}: relative error {error}"


def test_calls_after_the_first_wait_for_nothing() -> None:
    layer = random_layer().cuda()
    x = torch.randn(130, 300, device="cuda").half()
    for bits in (4, 2):
        layer.weight_bits = bits
        for M in (1, 20, 130):
            layer(x[:M])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for bits in (4, 2):
            layer.weight_bits = bits
            for M in (1, 20, 130):
                layer(x[:M])
    finally:
        torch.cuda.set_sync_debug_mode("default")
