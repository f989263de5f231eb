"""Every decoder's slabs, bit for bit, in the CPU interpreter or on the GPU."""

from __future__ import annotations

import time

import pytest
import torch

from kernels import dequantize, pack, pack_planes

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
tiles = pytest.importorskip("kernels.tiles")

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
SEED = time.time_ns() % 2**31


@triton.jit
def _decode_kernel(
    planes_ptr,
    first_ptr,
    second_ptr,
    out_ptr,
    N,
    groups,
    group_size,
    row_bytes,
    plane_bytes,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    DECODER: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """All columns of every block, those past K too, into ``out[N, blocks, 8 BLOCK_BYTES]``."""
    block = tl.program_id(0)
    row = tl.arange(0, ROWS)
    source = tl.minimum(row, N - 1)
    tables = source
    if DECODER != "lookup" and not GROUPED:
        tables = tiles.load_decoder(first_ptr, second_ptr, source, DECODER, BITS)
    slabs = tiles.decode_block(
        planes_ptr + source[:, None] * row_bytes + block * BLOCK_BYTES,
        plane_bytes,
        tables,
        first_ptr,
        second_ptr,
        source,
        block,
        groups,
        group_size,
        DECODER,
        BITS,
        BLOCK_BYTES,
        GROUPED,
    )
    column = block * 8 * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    for slab in tl.static_range(8):
        target = out_ptr + row[:, None] * (8 * row_bytes) + (column + slab * BLOCK_BYTES)[None, :]
        tl.store(target, slabs[slab], mask=(row < N)[:, None])


def decoded(
    N: int, K: int, width: int, group_size: int | None, grid: bool, decoder: str | None = None
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """What the device functions and the reference make of random planes ``[N, K]``, and the decoder."""
    generator = torch.Generator().manual_seed(SEED)
    planes = pack_planes(torch.randint(0, 256, (N, K), generator=generator).to(torch.uint8), 8)
    groups = -(-K // (group_size or K))
    lut = torch.randn(N, groups, 1 << width, generator=generator).half()
    if grid:
        step = (torch.rand(N, groups, 1, generator=generator) + 0.01).half()
        zero = torch.randint(0, 1 << width, (N, groups, 1), generator=generator)
        lut = (step.float() * (torch.arange(1 << width) - zero)).half()
    planes, lut = planes.to(DEVICE), lut.to(DEVICE)
    packed = pack(planes, {width: lut}, K, group_size)
    decoder = decoder or packed.decoder(width)
    first, second = (lut, lut) if decoder == "lookup" else packed.tables(width)
    row_bytes = packed.blocks * packed.block_bytes
    out = torch.full((N, 8 * row_bytes), float("nan"), dtype=torch.float16, device=DEVICE)
    _decode_kernel[(packed.blocks,)](
        packed.planes.view(torch.int8),
        first,
        second,
        out,
        N,
        groups,
        group_size or K,
        row_bytes,
        row_bytes * N,
        BITS=width,
        ROWS=16,
        BLOCK_BYTES=packed.block_bytes,
        DECODER=decoder,
        GROUPED=groups > 1,
        num_warps=1,
    )
    # Columns past K are decoded too, as the first entry: never as what would poison a sum.
    assert not out.isnan().any()
    return out[:, :K], dequantize(planes, lut, K, group_size), decoder


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize(("K", "group_size"), [(123, None), (96, 32)])
def test_looked_up_weights_are_the_entries(width: int, K: int, group_size: int | None) -> None:
    weight, expected, decoder = decoded(13, K, width, group_size, grid=False, decoder="lookup")
    assert decoder == "lookup"
    assert torch.equal(weight, expected), f"seed {SEED}"


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize(("K", "group_size"), [(123, None), (512, None), (256, 128), (512, 256)])
def test_permuted_weights_are_the_entries(width: int, K: int, group_size: int | None) -> None:
    weight, expected, decoder = decoded(11, K, width, group_size, grid=False)
    assert decoder == "permute"
    assert torch.equal(weight, expected), f"seed {SEED}"


@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize(("K", "group_size"), [(123, None), (256, 128)])
def test_weights_on_a_grid_are_the_entries(width: int, K: int, group_size: int | None) -> None:
    weight, expected, decoder = decoded(7, K, width, group_size, grid=True)
    assert decoder == "grid"
    assert torch.equal(weight, expected), f"seed {SEED}"
