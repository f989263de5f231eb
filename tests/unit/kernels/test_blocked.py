from __future__ import annotations

import pytest
import torch

from kernels import KernelError, blocked, dequantize, dequantize_blocks, pack_planes

# A GPU machine may have nothing but torch, triton and pytest.
hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies


def joined(planes: torch.Tensor, lut: torch.Tensor, K: int, **options: object) -> torch.Tensor:
    rows, parts = zip(*dequantize_blocks(planes, lut, K, **options), strict=True)
    assert [part.start for part in rows] == [0, *(part.stop for part in rows[:-1])]
    assert rows[-1].stop == planes.shape[1]
    return torch.cat(parts)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 130), st.integers(1, 8), st.integers(0, 130), st.integers(0, 2**31))
def test_blocks_join_to_the_reference_at_every_width(N: int, K: int, bits: int, group: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    planes = pack_planes(torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8), bits)
    group_size = min(group, K) or None
    for width in range(1, bits + 1):
        lut = torch.randn(N, -(-K // (group_size or K)), 1 << width, generator=generator).half()
        expected = dequantize(planes, lut, K, group_size)
        assert torch.equal(joined(planes, lut, K, group_size=group_size), expected)


@pytest.mark.parametrize("block_weights", [1, 64, 100, 200])
def test_rows_are_cut_into_blocks_of_bounded_size(block_weights: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "BLOCK_WEIGHTS", block_weights)
    planes = pack_planes(torch.randint(0, 8, (7, 45)).to(torch.uint8), 3)
    lut = torch.randn(7, 1, 8).half()
    assert torch.equal(joined(planes, lut, 45, dtype=torch.float32), dequantize(planes, lut, 45).float())
    assert max(len(part) for _, part in dequantize_blocks(planes, lut, 45)) == max(1, block_weights // 64)


def test_codebook_or_planes_that_do_not_fit_are_refused() -> None:
    planes = pack_planes(torch.zeros(2, 40, dtype=torch.uint8), 2)
    with pytest.raises(KernelError, match="lut has shape"):
        next(dequantize_blocks(planes, torch.zeros(3, 1, 4).half(), 40))
    with pytest.raises(KernelError, match=r"weight_bits = 3: must be 1\.\.2"):
        next(dequantize_blocks(planes, torch.zeros(2, 1, 8).half(), 40))
    with pytest.raises(KernelError, match="in_features = 70: needs 3 words"):
        next(dequantize_blocks(planes, torch.zeros(2, 1, 4).half(), 70))
