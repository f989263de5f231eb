"""Launch configurations of the kernels, and the defaults used where no measured table names a better one.

Plain data: importing this module needs neither torch nor triton.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.errors import KernelError

# Activation vectors the GEMV takes at once: the columns of the smallest tensor-core instruction, m16n8k16.
GEMV_MAX_M = 8
ROWS = (16, 32, 64, 128)
WARPS = (1, 2, 4, 8)
MAX_STAGES = 8
# Rows a warp multiplies by one tensor-core instruction.
WARP_ROWS = 16
# Two programs for each of an H100's 132 multiprocessors.
MIN_PROGRAMS = 264
# More partial sums than this cost more to add than the shorter runs of K save.
MAX_SPLITS = 16


@dataclass(frozen=True)
class GemvConfig:
    """How the GEMV is cut and launched.

    Attributes:
        rows: Output rows of a program.
        splits: Parts of K that run side by side; never more than K has blocks.
        warps: Warps of a program.
        stages: Depth of the software pipeline: ``stages - 1`` blocks are in flight while one is multiplied.
    """

    rows: int
    splits: int
    warps: int
    stages: int

    def __post_init__(self) -> None:
        """Refuse what no kernel is compiled for."""
        _check_launch(self.rows, self.splits, self.warps, self.stages)


@dataclass(frozen=True)
class GemmConfig:
    """How the fused GEMM is cut and launched.

    Attributes:
        rows: Output features of a program.
        columns: Activation vectors of a program (the M tile).
        splits: Parts of K that run side by side.
        warps: Warps of a program.
        stages: Depth of the software pipeline.
    """

    rows: int
    columns: int
    splits: int
    warps: int
    stages: int

    def __post_init__(self) -> None:
        """Refuse what no kernel is compiled for."""
        _check_launch(self.rows, self.splits, self.warps, self.stages)
        if self.columns not in (16, 32, 64, 128, 256):
            raise KernelError(f"columns = {self.columns}: must be 16, 32, 64, 128 or 256")


def _check_launch(rows: int, splits: int, warps: int, stages: int) -> None:
    if rows not in ROWS:
        raise KernelError(f"rows = {rows}: must be one of {', '.join(map(str, ROWS))}")
    if splits < 1:
        raise KernelError(f"splits = {splits}: must be at least 1")
    if warps not in WARPS or warps * WARP_ROWS > rows:
        raise KernelError(
            f"warps = {warps}: must be 1, 2, 4 or 8, and at most rows / {WARP_ROWS} = {rows // WARP_ROWS}"
        )
    if not 1 <= stages <= MAX_STAGES:
        raise KernelError(f"stages = {stages}: must be 1..{MAX_STAGES}")


def default_gemv_config(N: int, K: int, M: int, weight_bits: int, block_bytes: int) -> GemvConfig:
    """The configuration used where no measured table has one.

    The most rows whose row tiles, with K split as far as it can be, still make ``MIN_PROGRAMS`` programs.

    Args:
        N: Output features.
        K: Input features.
        M: Activation vectors.
        weight_bits: Bit-planes read.
        block_bytes: Bytes of a block of K in one plane.
    """
    blocks = -(-K // (8 * block_bytes))
    for rows in (64, 32, 16):
        tiles = -(-N // rows)
        splits = min(-(-MIN_PROGRAMS // tiles), blocks, MAX_SPLITS)
        if tiles * splits >= MIN_PROGRAMS or rows == WARP_ROWS:
            break
    return GemvConfig(rows, splits, rows // WARP_ROWS, 3)


# What a program may have on every GPU from sm_80 on; sm_86 and sm_89 have the least.
SHARED_BYTES = 99 * 1024


def default_gemm_config(N: int, K: int, M: int, weight_bits: int, block_bytes: int) -> GemmConfig:
    """The configuration of the fused GEMM used where no measured table has one.

    One tile of vectors where 64 hold them all, since each tile decodes the weight anew; a pipeline of two stages where
    two blocks of activations and one of every plane fit the shared memory of every GPU; K split until there are
    ``MIN_PROGRAMS`` programs, but not so far that a program has a single block.

    Args:
        N: Output features.
        K: Input features.
        M: Activation vectors.
        weight_bits: Bit-planes read.
        block_bytes: Bytes of a block of K in one plane.
    """
    rows = 64
    columns = next((size for size in (16, 32) if size >= M), 64)
    blocks = -(-K // (8 * block_bytes))
    tiles = -(-N // rows) * -(-M // columns)
    splits = max(1, min(-(-MIN_PROGRAMS // tiles), blocks // 2, MAX_SPLITS))
    activation_bytes = 2 * 8 * block_bytes * columns
    two_stages = 2 * activation_bytes + weight_bits * rows * block_bytes <= SHARED_BYTES
    return GemmConfig(rows, columns, splits, rows // WARP_ROWS, 2 if two_stages else 1)
