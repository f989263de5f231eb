from __future__ import annotations

import pytest
import torch

from kernels import KernelError, SparsePart, pack, pack_planes, unpack
from kernels.uniform import grid_points

# A GPU machine may have nothing but torch, triton and pytest.
hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_planes(N: int, K: int, bits: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return pack_planes(torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8), bits)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.one_of(st.integers(1, 700), st.sampled_from([128, 256, 512, 1024, 688, 1056])),
    st.integers(1, 8),
    st.sampled_from([None, 1, 100, 128, 256, 512]),
    st.integers(0, 2**31),
)
def test_conversion_there_and_back_keeps_every_bit(
    N: int, K: int, bits: int, group_size: int | None, seed: int
) -> None:
    planes = random_planes(N, K, bits, seed).to(DEVICE)
    packed = pack(planes, {}, K, group_size)
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


@pytest.mark.parametrize(
    ("K", "group_size", "block_bytes"),
    [
        (4096, 128, 16),
        (4096, 256, 32),
        (4096, 512, 64),
        (4096, 1024, 64),
        (4096, 384, 16),
        (11008, 512, 32),
        (11008, 256, 32),
        (300, 128, 16),
        (1500, 512, 16),
        (4096, 4096, 64),
        (4096, 9000, 64),
        (300, 9000, 16),
    ],
)
def test_block_lies_within_one_group_where_a_size_allows_it(K: int, group_size: int, block_bytes: int) -> None:
    packed = pack(random_planes(1, K, 1), {}, K, group_size)
    assert packed.block_bytes == block_bytes
    columns = 8 * block_bytes
    assert packed.blocks_per_group == (group_size // columns if packed.groups > 1 else packed.blocks)


@pytest.mark.parametrize(("group_size", "block_bytes"), [(32, 64), (64, 64), (200, 64), (320, 64)])
def test_groups_that_cut_blocks_leave_the_look_up_and_the_block_of_the_row(group_size: int, block_bytes: int) -> None:
    K = 1024
    groups = -(-K // group_size)
    lut = grid_points(torch.ones(2, groups).half(), torch.ones(2, groups).half(), 16)
    packed = pack(random_planes(2, K, 4), {4: lut}, K, group_size)
    assert (packed.block_bytes, packed.blocks_per_group) == (block_bytes, None)
    assert (packed.byte_luts, packed.grids) == ({}, {})
    assert packed.decoder(4) == "lookup"
    assert all(torch.equal(table, lut) for table in packed.tables(4))


def test_byte_tables_of_groups_lie_group_by_group() -> None:
    lut = torch.randn(3, 4, 8).half()
    low, high = pack(random_planes(3, 500, 3), {3: lut}, 500, group_size=128).byte_luts[3]
    assert low.shape == high.shape == (3, 4, 2)
    joined = low.contiguous().view(torch.uint8).int() | high.contiguous().view(torch.uint8).int() << 8
    assert torch.equal(joined, lut.view(torch.int16).int() & 0xFFFF)


def test_decoder_follows_the_width_and_its_codebooks() -> None:
    K = 256
    luts = {b: torch.randn(3, 2, 1 << b).half() for b in range(1, 9)}
    luts[4], luts[8] = (grid_points(torch.ones(3, 2).half(), torch.ones(3, 2).half(), 1 << b) for b in (4, 8))
    packed = pack(random_planes(3, K, 8), luts, K, 128)
    assert packed.widths == tuple(range(1, 9))
    decoders = [packed.decoder(b) for b in packed.widths]
    assert decoders == ["lookup", "permute", "permute", "grid", "lookup", "lookup", "lookup", "grid"]
    assert packed.tables(2) == packed.byte_luts[2]
    assert packed.tables(4) == (packed.grids[4].step, packed.grids[4].zero)
    assert packed.tables(5) == (packed.luts[5], packed.luts[5])
    held = {tensor.data_ptr() for tensor in packed.tensors()}
    assert {tensor.data_ptr() for b in packed.widths for tensor in packed.tables(b)} < held


def test_width_that_is_not_stored_has_no_decoder() -> None:
    packed = pack(random_planes(2, 64, 4), {b: torch.zeros(2, 1, 1 << b).half() for b in (2, 4)}, 64)
    with pytest.raises(KernelError, match="weight_bits = 3: not stored; stored widths: 2, 4"):
        packed.decoder(3)


def test_group_size_below_one_is_refused() -> None:
    with pytest.raises(KernelError, match="group_size = 0: must be >= 1"):
        pack(random_planes(2, 64, 2), {}, 64, 0)


def csr(rows: list[int], cols: list[int], K: int = 64) -> SparsePart:
    indices = torch.tensor(rows, dtype=torch.int32), torch.tensor(cols, dtype=torch.int32)
    return SparsePart.from_csr(*indices, torch.ones(len(cols)).half(), K)


def test_longest_row_of_a_sparse_part_is_kept() -> None:
    assert csr([0, 2, 2, 5], [63, 0, 7, 7, 1]).longest_row == 3
    assert csr([0, 0, 0], []).longest_row == 0


@pytest.mark.parametrize(
    ("rows", "cols", "message"),
    [
        ([0, 1, 3], [0, 1], "rows must rise from 0 to nnz = 2"),
        ([1, 1, 2], [0, 1], "rows must rise"),
        ([0, 2, 1, 2], [0, 1], "rows must rise"),
        ([0, 2], [0, 64], r"columns 0\.\.64 must be 0\.\.63"),
        ([0, 2], [-1, 6], r"columns -1\.\.6 must be"),
        ([], [], r"must be int32 \[N \+ 1\]"),
    ],
)
def test_rows_and_columns_that_cannot_be_are_refused(rows: list[int], cols: list[int], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        csr(rows, cols)


def test_sparse_tensors_of_another_dtype_or_shape_are_refused() -> None:
    rows, cols, vals = torch.tensor([0, 1]).int(), torch.tensor([0]).int(), torch.ones(1).half()
    for parts in (
        (rows.long(), cols, vals),
        (rows, cols.long(), vals),
        (rows, cols, vals.float()),
        (rows, cols[:0], vals),
    ):
        with pytest.raises(KernelError, match="sparse part: rows torch.* must be int32"):
            SparsePart.from_csr(*parts, 64)


def test_sparse_part_of_another_matrix_is_refused() -> None:
    planes = random_planes(2, 64, 2)
    for wrong in (csr([0, 0], []), csr([0, 0, 0], [], K=65)):
        with pytest.raises(KernelError, match=r"sparse part of \(.*: must be of \(2, 64\)|must be of \(2, 64\)"):
            pack(planes, {}, 64, sparse=wrong)
    fitting = csr([0, 0, 0], [])
    assert pack(planes, {}, 64, sparse=fitting).sparse is fitting


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


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
def test_codebook_that_is_not_finite_is_refused(number: float) -> None:
    lut = torch.zeros(2, 1, 4).half()
    lut[1, 0, 3] = number
    with pytest.raises(KernelError, match="codebook of width 2 holds infinity or NaN"):
        pack(random_planes(2, 64, 2), {2: lut}, 64)


def test_codebook_on_another_device_is_refused() -> None:
    with pytest.raises(KernelError, match="codebook of width 2 is on meta, the planes on cpu"):
        pack(random_planes(2, 64, 2), {2: torch.zeros(2, 1, 4).half().to("meta")}, 64)


def test_codebook_wider_than_the_planes_is_refused() -> None:
    with pytest.raises(KernelError, match="codebook of width 5: .* at most 4 bits"):
        pack(random_planes(2, 64, 4), {5: torch.zeros(2, 1, 32).half()}, 64)
