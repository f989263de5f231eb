from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import KernelError, pack, pack_planes, unpack


def random_planes(N: int, K: int, bits: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return pack_planes(torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8), bits)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.one_of(st.integers(1, 700), st.sampled_from([128, 256, 512, 1024, 688, 1056])),
    st.integers(1, 8),
    st.integers(0, 2**31),
)
def test_conversion_there_and_back_keeps_every_bit(N: int, K: int, bits: int, seed: int) -> None:
    planes = random_planes(N, K, bits, seed)
    packed = pack(planes, {}, K)
    assert torch.equal(unpack(packed), planes)
    assert packed.planes.shape[2] * 32 == packed.blocks * 8 * packed.block_bytes >= K


@pytest.mark.parametrize(
    ("K", "block_bytes"), [(4096, 64), (11008, 32), (5632, 64), (688, 16), (64, 16), (256, 32), (1, 16)]
)
def test_block_is_the_largest_that_divides_the_row_else_the_smallest(K: int, block_bytes: int) -> None:
    assert pack(random_planes(1, K, 1), {}, K).block_bytes == block_bytes


@pytest.mark.parametrize("K", [128, 256, 512, 1536, 300])
def test_each_column_lies_at_the_documented_bit(K: int) -> None:
    """Columns 4u + i of slab 2p + h at bit 16h + 4i + p of word u."""
    for column in {0, 1, 5, 77, 100, K // 2 + 3, K - 1}:
        indices = torch.zeros(1, K, dtype=torch.uint8)
        indices[0, column] = 1
        packed = pack(pack_planes(indices, 1), {}, K)
        B = packed.block_bytes
        block, within = divmod(column, 8 * B)
        slab, offset = divmod(within, B)
        p, h = divmod(slab, 2)
        u, i = divmod(offset, 4)
        words = packed.planes.flatten().tolist()
        word = block * B // 4 + u
        assert words[word] & 0xFFFFFFFF == 1 << (16 * h + 4 * i + p)
        assert sum(value != 0 for value in words) == 1


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_byte_tables_hold_the_codebook_entry_by_entry(bits: int) -> None:
    lut = torch.randn(3, 1, 1 << bits).half()
    low, high = pack(random_planes(3, 64, bits), {bits: lut}, 64).byte_luts[bits]
    for row in range(3):
        for entry in range(1 << bits):
            shift = 8 * (entry % 4)
            low_byte = (int(low[row, 0, entry // 4]) >> shift) & 255
            high_byte = (int(high[row, 0, entry // 4]) >> shift) & 255
            expected = int(lut.view(torch.int16)[row, 0, entry]) & 0xFFFF
            assert low_byte | high_byte << 8 == expected


def test_byte_tables_are_left_out_where_they_do_not_apply() -> None:
    planes = random_planes(3, 64, 5)
    per_row = pack(planes, {b: torch.zeros(3, 1, 1 << b).half() for b in (2, 5)}, 64)
    assert list(per_row.byte_luts) == [2]
    per_group = pack(planes, {2: torch.zeros(3, 2, 4).half()}, 64, group_size=32)
    assert per_group.byte_luts == {}


def test_planes_that_do_not_fit_the_row_are_refused() -> None:
    with pytest.raises(KernelError, match="must be int32 with 4 words a row"):
        pack(random_planes(2, 64, 2), {}, 100)
    with pytest.raises(KernelError, match="must be int32"):
        pack(random_planes(2, 64, 2).long(), {}, 64)


@pytest.mark.parametrize(
    "lut",
    [torch.zeros(2, 1, 8).half(), torch.zeros(3, 1, 4).half(), torch.zeros(2, 2, 4).half(), torch.zeros(2, 1, 4)],
)
def test_codebook_of_another_shape_or_dtype_is_refused(lut: torch.Tensor) -> None:
    with pytest.raises(KernelError, match="codebook of width 2"):
        pack(random_planes(2, 64, 4), {2: lut}, 64)


def test_codebook_wider_than_the_planes_is_refused() -> None:
    with pytest.raises(KernelError, match="codebook of width 5: .* at most 4 bits"):
        pack(random_planes(2, 64, 4), {5: torch.zeros(2, 1, 32).half()}, 64)
