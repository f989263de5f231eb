from __future__ import annotations

import pytest

from kernels import KernelError
from kernels.config import (
    MAX_SPLITS,
    MIN_PROGRAMS,
    SHARED_BYTES,
    GemmConfig,
    GemvConfig,
    default_gemm_config,
    default_gemv_config,
    fitting,
    gemm_candidates,
    gemm_shared_bytes,
    gemv_candidates,
    gemv_rows,
    gemv_shared_bytes,
)

# N, K and block bytes of the linears of the six models.
SHAPES = [
    (4096, 4096, 64),
    (12288, 4096, 64),
    (11008, 4096, 64),
    (22016, 4096, 64),
    (4096, 11008, 32),
    (14336, 4096, 64),
    (28672, 4096, 64),
    (4096, 14336, 64),
    (5120, 5120, 64),
    (5120, 13824, 64),
    (2048, 2048, 64),
    (5632, 2048, 64),
    (2048, 5632, 64),
    (8192, 2048, 64),
    (2048, 8192, 64),
    (2560, 2560, 64),
    (6912, 2560, 64),
    (2560, 6912, 32),
    (32000, 4096, 64),
]


@pytest.mark.parametrize("weight_bits", [2, 3, 4])
@pytest.mark.parametrize(("N", "K", "block_bytes"), SHAPES)
def test_default_fills_the_gpu_and_fits_every_gpu(N: int, K: int, block_bytes: int, weight_bits: int) -> None:
    config = default_gemv_config(N, K, 1, weight_bits, block_bytes)
    blocks = K // (8 * block_bytes)
    assert -(-N // config.rows) * config.splits >= MIN_PROGRAMS
    assert config.splits <= min(blocks, MAX_SPLITS)
    assert config.warps * 16 == config.rows
    assert gemv_shared_bytes(config.rows, config.stages, weight_bits, block_bytes) <= SHARED_BYTES


def test_large_matrix_is_not_split_and_small_one_as_far_as_it_goes() -> None:
    assert default_gemv_config(32000, 4096, 1, 4, 64) == GemvConfig(rows=64, splits=1, warps=4, stages=3)
    assert default_gemv_config(4096, 4096, 1, 4, 64) == GemvConfig(rows=64, splits=8, warps=4, stages=2)
    assert default_gemv_config(2048, 2048, 1, 4, 64) == GemvConfig(rows=16, splits=4, warps=1, stages=2)
    assert default_gemv_config(1, 1, 8, 8, 16).splits == 1


def test_a_single_warp_looks_nothing_up() -> None:
    assert default_gemv_config(2048, 2048, 1, 8, 64).rows == 16
    assert default_gemv_config(2048, 2048, 1, 8, 64, "lookup").rows > 16
    assert min(config.rows for config in gemv_candidates(2048, 2048, 1, 8, 64, "lookup")) == 32
    assert min(config.rows for config in gemv_candidates(2048, 2048, 1, 8, 64, "grid")) == 16


def test_pipeline_is_no_deeper_than_a_program_has_blocks() -> None:
    for K in (512, 1024, 2048, 8192):
        config = default_gemv_config(4096, K, 1, 2, 64)
        assert config.stages <= 1 + -(-(K // 512) // config.splits)


@pytest.mark.parametrize("decoder", ["permute", "lookup"])
def test_candidates_start_with_the_default_and_fit_every_gpu(decoder: str) -> None:
    found = gemv_candidates(11008, 4096, 1, 4, 64, decoder)
    assert found[0] == default_gemv_config(11008, 4096, 1, 4, 64, decoder)
    assert len(set(found)) == len(found) > 10
    assert all(gemv_shared_bytes(c.rows, c.stages, 4, 64, decoder) <= SHARED_BYTES for c in found)
    assert all(c.splits <= 8 for c in found)
    assert {c.rows for c in found} == set(gemv_rows(decoder))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((48, 1, 1, 3), "rows = 48: must be one of 16, 32, 64, 128"),
        ((64, 0, 4, 3), "splits = 0: must be at least 1"),
        ((32, 1, 4, 3), r"warps = 4: .* at most rows / 16 = 2"),
        ((64, 1, 3, 3), "warps = 3: must be 1, 2, 4 or 8"),
        ((64, 1, 4, 0), r"stages = 0: must be 1\.\.8"),
    ],
)
def test_configuration_no_kernel_has_is_refused(arguments: tuple[int, int, int, int], named: str) -> None:
    with pytest.raises(KernelError, match=named):
        GemvConfig(*arguments)


def test_measured_configuration_gives_up_stages_where_blocks_are_larger() -> None:
    gemv = GemvConfig(rows=128, splits=2, warps=8, stages=4)
    assert fitting(gemv, 4, 32, "permute") == gemv
    assert gemv_shared_bytes(128, 4, 4, 64) > SHARED_BYTES
    assert fitting(gemv, 4, 64, "permute") == GemvConfig(128, 2, 8, 3)
    # Planes of look-ups do not pass through shared memory.
    assert fitting(gemv, 4, 64, "lookup") == gemv
    gemm = GemmConfig(rows=32, columns=64, splits=2, warps=2, stages=3)
    assert fitting(gemm, 4, 32, "permute") == gemm
    assert fitting(gemm, 4, 64, "permute") == GemmConfig(32, 64, 2, 2, 2)


@pytest.mark.parametrize("M", [16, 64, 256])
def test_gemm_candidates_fit_every_gpu_and_keep_to_mma_sync(M: int) -> None:
    for bits, block_bytes in ((4, 64), (8, 64), (2, 16)):
        found = gemm_candidates(4096, 4096, M, bits, block_bytes)
        assert found[0] == default_gemm_config(4096, 4096, M, bits, block_bytes)
        assert len(found) > 5
        for config in found:
            assert gemm_shared_bytes(config, bits, block_bytes) <= SHARED_BYTES
            assert config.warps < 4 or config.rows % 64


def test_gemm_tile_no_kernel_has_is_refused() -> None:
    with pytest.raises(KernelError, match="columns = 24"):
        GemmConfig(64, 24, 1, 4, 2)
    with pytest.raises(KernelError, match="rows = 64, warps = 4: multiplied by warp groups on sm_90"):
        GemmConfig(64, 32, 1, 4, 2)
    assert GemmConfig(64, 32, 1, 2, 2).warps == 2
