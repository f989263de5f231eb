from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels import KernelError, PackedWeight, SparsePart, interleave, naive, pack, pack_planes, stack, unpack
from kernels.uniform import grid_points

# A GPU machine may have nothing but torch, triton and pytest.
hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies


def weight(
    N: int, K: int, seed: int, bits: int = 4, group_size: int | None = None, sparse: bool = False, grid: bool = False
) -> PackedWeight:
    """A random matrix with every width's codebooks, the widest on a uniform grid if asked for."""
    generator = torch.Generator().manual_seed(seed)
    planes = pack_planes(torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8), bits)
    groups = -(-K // (group_size or K))
    luts = {b: torch.randn(N, groups, 1 << b, generator=generator).half() for b in range(1, bits + 1)}
    if grid:
        zero = torch.randint(0, 1 << bits, (N, groups), generator=generator).half()
        luts[bits] = grid_points(torch.rand(N, groups, generator=generator).half(), zero, 1 << bits)
    part = None
    if sparse:
        lengths = torch.randint(0, min(4, K + 1), (N,), generator=generator)
        rows = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
        cols = torch.randint(0, K, (int(rows[-1]),), generator=generator).int()
        part = SparsePart.from_csr(rows, cols, torch.randn(len(cols), generator=generator).half(), K)
    return pack(planes, luts, K, group_size, sparse=part)


def decoded(packed: PackedWeight, bits: int) -> torch.Tensor:
    """The matrix out of byte tables or grids where there are some, so that those are checked too."""
    if bits in packed.grids:
        entries = grid_points(packed.grids[bits].step, packed.grids[bits].zero, 1 << bits)
    elif bits in packed.byte_luts:
        low, high = (part.contiguous().view(torch.uint8) for part in packed.byte_luts[bits])
        entries = torch.stack([low, high], -1).flatten(-2).view(torch.float16)
    else:
        entries = packed.luts[bits]
    return naive.dense_weight(replace(packed, luts={bits: entries}), bits)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 300),
    st.integers(1, 8),
    st.sampled_from([None, 1, 50, 128, 256]),
    st.integers(0, 2**31),
)
def test_stacked_rows_follow_each_other_at_every_width(
    sizes: list[int], K: int, bits: int, group_size: int | None, seed: int
) -> None:
    parts = [weight(N, K, seed + n, bits, group_size, sparse=bool(n % 2)) for n, N in enumerate(sizes)]
    joined = stack(parts)
    assert joined.out_features == sum(sizes)
    assert torch.equal(unpack(joined), torch.cat([unpack(part) for part in parts], 1))
    for b in joined.widths:
        assert torch.equal(decoded(joined, b), torch.cat([decoded(part, b) for part in parts]))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 300),
    st.integers(1, 8),
    st.sampled_from([None, 1, 50, 128, 256]),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(0, 2**31),
)
def test_interleaved_rows_come_in_turn_at_every_width(
    N: int, K: int, bits: int, group_size: int | None, sparse: tuple[bool, bool], seed: int
) -> None:
    gate, up = (weight(N, K, seed + n, bits, group_size, sparse[n], grid=True) for n in range(2))
    joined = interleave(gate, up)
    for b in joined.widths:
        found = decoded(joined, b)
        assert torch.equal(found[0::2], decoded(gate, b))
        assert torch.equal(found[1::2], decoded(up, b))
    assert joined.decoder(bits) == gate.decoder(bits)
    if any(sparse):
        present = [part.sparse.longest_row for part in (gate, up) if part.sparse is not None]
        assert joined.sparse is not None
        assert joined.sparse.longest_row == max(present)


def test_joined_weights_can_be_joined_again() -> None:
    a, b, c = (weight(2, 140, seed, sparse=True) for seed in range(3))
    twice = stack([interleave(a, b), c])
    expected = [decoded(part, 3) for part in (a, b, c)]
    rows = [expected[0][0], expected[1][0], expected[0][1], expected[1][1], *expected[2]]
    assert torch.equal(decoded(twice, 3), torch.stack(rows))


def test_grid_in_some_matrices_only_is_decoded_by_its_codebooks() -> None:
    joined = stack([weight(2, 128, 0, grid=True), weight(3, 128, 1)])
    assert joined.grids == {}
    assert joined.decoder(4) == "permute"


def test_sparse_free_matrices_stay_so() -> None:
    assert stack([weight(2, 128, 0), weight(3, 128, 1)]).sparse is None
    assert interleave(weight(2, 128, 0), weight(2, 128, 1)).sparse is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"K": 256}, "differ in K: 512, 256; must be equal"),
        ({"bits": 3}, r"differ in stored widths: \(1, 2, 3, 4\), \(1, 2, 3\)"),
        ({"group_size": 128}, "differ in group size: None, 128"),
    ],
)
def test_weights_that_differ_are_not_joined(changed: dict[str, int], message: str) -> None:
    other = weight(**({"N": 2, "K": 512, "seed": 1} | changed))
    for join in (lambda a, b: stack([a, b]), interleave):
        with pytest.raises(KernelError, match=message):
            join(weight(2, 512, 0), other)


def test_other_planes_blocks_or_device_are_not_joined() -> None:
    one = weight(2, 512, 0)
    for other, message in (
        (replace(one, planes=one.planes[:3]), "differ in planes: 4, 3"),
        (replace(one, block_bytes=32), "differ in block bytes: 64, 32"),
        (replace(one, planes=one.planes.to("meta")), "differ in device: cpu, meta"),
    ):
        with pytest.raises(KernelError, match=message):
            stack([one, other])


def test_nothing_and_unequal_pairs_are_not_joined() -> None:
    with pytest.raises(KernelError, match="no weights to join"):
        stack([])
    with pytest.raises(KernelError, match="interleaved weights have N = 2 and 3: must be equal"):
        interleave(weight(2, 64, 0), weight(3, 64, 1))
