from __future__ import annotations

import pytest
import torch

from kernels import KernelError, pack_planes, unpack_planes

# A GPU machine may have nothing but torch, triton and pytest.
hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies


def random_indices(N: int, K: int, bits: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 100), st.integers(1, 8), st.integers(0, 2**31))
def test_top_planes_are_the_top_bits_of_the_index(N: int, K: int, bits: int, seed: int) -> None:
    indices = random_indices(N, K, bits, seed)
    planes = pack_planes(indices, bits)
    assert planes.dtype == torch.int32
    assert planes.shape == (bits, N, -(-K // 32))
    for width in range(1, bits + 1):
        assert torch.equal(unpack_planes(planes, width, K), indices >> (bits - width))


@pytest.mark.parametrize("K", [64, 37])
def test_indices_may_lie_in_memory_in_any_order(K: int) -> None:
    rows = random_indices(6, K, 3, 0)
    by_column = rows.T.contiguous().T
    every_second = torch.stack([rows, rows], 2).flatten(1)[:, ::2]
    assert torch.equal(pack_planes(by_column, 3), pack_planes(rows, 3))
    assert torch.equal(pack_planes(every_second, 3), pack_planes(rows, 3))
    planes = pack_planes(rows, 3).transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(unpack_planes(planes, 2, K), rows >> 1)


def test_bit_j_of_word_w_is_column_32w_plus_j_and_the_first_plane_is_the_most_significant() -> None:
    indices = torch.zeros(1, 70, dtype=torch.uint8)
    indices[0, 0], indices[0, 33], indices[0, 69] = 0b100, 0b010, 0b101
    words = pack_planes(indices, 3).view(3, 3).tolist()
    assert words == [[1, 0, 1 << 5], [0, 1 << 1, 0], [0, 0, 1 << 5]]


def test_column_31_is_the_sign_bit_of_its_word() -> None:
    indices = torch.zeros(1, 32, dtype=torch.uint8)
    indices[0, 31] = 1
    assert pack_planes(indices, 1).item() == -(2**31)


def test_columns_past_the_end_are_zero_bits() -> None:
    planes = pack_planes(torch.full((2, 5), 3, dtype=torch.uint8), 2)
    assert planes.flatten().tolist() == [0b11111] * 4


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_number_of_planes_is_refused(bits: int) -> None:
    with pytest.raises(KernelError, match=f"bits = {bits}: must be 1..8"):
        pack_planes(random_indices(1, 4, 1, 0), bits)


def test_index_too_large_for_its_planes_is_refused() -> None:
    with pytest.raises(KernelError, match="index 4 does not fit in 2 bits"):
        pack_planes(torch.tensor([[0, 4]], dtype=torch.uint8), 2)


def test_plane_that_is_not_stored_is_refused() -> None:
    planes = pack_planes(random_indices(2, 40, 4, 0), 4)
    with pytest.raises(KernelError, match=r"weight_bits = 5: must be 1\.\.4"):
        unpack_planes(planes, 5, 40)
    with pytest.raises(KernelError, match="in_features = 65: needs 3 words a row, planes have 2"):
        unpack_planes(planes, 4, 65)
