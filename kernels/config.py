"""Launch configurations of the kernels, and the defaults used where no measured table names a better one.

Plain data: importing this module needs neither torch nor triton.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from kernels.errors import KernelError

# Activation vectors the GEMV takes at once: the columns of the smallest tensor-core instruction, m16n8k16.
GEMV_MAX_M = 8
ROWS = (16, 32, 64, 128)
WARPS = (1, 2, 4, 8)
MAX_STAGES = 8
# Rows a warp multiplies by one tensor-core instruction.
WARP_ROWS = 16
# Tiles that Triton multiplies by warp groups on sm_90.
WGMMA_ROWS, WGMMA_WARPS = 64, 4
# An H100's; an H200 has as many, an A100 108, an L40 142.
MULTIPROCESSORS = 132
MIN_PROGRAMS = 2 * MULTIPROCESSORS
# More partial sums than this cost more to add than the shorter runs of K save.
MAX_SPLITS = 16
# Eight warps hide the latency of instructions; 16 at up to 128 registers a thread fill the register file.
MIN_WARPS, MAX_WARPS = 8 * MULTIPROCESSORS, 16 * MULTIPROCESSORS
# 3 TB/s for a microsecond, the latency of a loaded memory, is 23 kB for each multiprocessor (Little's law).
IN_FLIGHT_BYTES = 32 * 1024
# What a program may have on every GPU from sm_80 on; sm_86 and sm_89 have the least.
SHARED_BYTES = 99 * 1024


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

    Warps multiply by ``mma.sync``, whose operands are laid out as the decoders make them; tiles that Triton would give
    to warp groups on an sm_90 are refused.

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
        if self.rows % WGMMA_ROWS == 0 and self.warps % WGMMA_WARPS == 0:
            raise KernelError(
                f"rows = {self.rows}, warps = {self.warps}: multiplied by warp groups on sm_90, whose operands hold "
                f"two neighbours where decoding makes four; give less than {WGMMA_WARPS} warps"
            )


_Config = TypeVar("_Config", bound=GemvConfig | GemmConfig)


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


def gemv_rows(decoder: str) -> tuple[int, ...]:
    """Row tiles worth compiling: a single warp's look-ups of eight bits in small groups spill."""
    return tuple(rows for rows in ROWS if rows > WARP_ROWS or decoder != "lookup")


def default_gemv_config(
    N: int, K: int, M: int, weight_bits: int, block_bytes: int, decoder: str = "permute"
) -> GemvConfig:
    """The configuration used where no measured table has one.

    Of all cuts into row tiles and splits, each warp multiplying 16 rows, in this order:

    1. at least ``MIN_PROGRAMS`` programs;
    2. a number of warps nearest to ``MIN_WARPS`` .. ``MAX_WARPS``, that is all of them resident at once;
    3. the fewest bytes that the busiest multiprocessor reads: ceil(programs / 132) programs, each of
       ceil(blocks / splits) blocks of ``rows * block_bytes * weight_bits`` bytes of weights and, from the second-level
       cache, ``16 * block_bytes * M`` bytes of activations;
    4. the fewest splits.

    The pipeline is as deep as it takes to have ``IN_FLIGHT_BYTES`` of weights in flight for each multiprocessor, with
    at least two blocks and at most four in flight, and never more than a program has.

    Args:
        N: Output features.
        K: Input features.
        M: Activation vectors.
        weight_bits: Bit-planes read.
        block_bytes: Bytes of a block of K in one plane.
        decoder: "permute", "grid" or "lookup".
    """
    blocks = -(-K // (8 * block_bytes))
    tiles = [rows for rows in (64, 32, 16) if rows in gemv_rows(decoder)]
    cuts = [(rows, splits) for rows in tiles for splits in range(1, min(blocks, MAX_SPLITS) + 1)]

    def rank(cut: tuple[int, int]) -> tuple[bool, int, int, int]:
        rows, splits = cut
        programs = -(-N // rows) * splits
        warps = programs * rows // WARP_ROWS
        program_bytes = -(-blocks // splits) * block_bytes * (rows * weight_bits + 16 * M)
        busiest_bytes = -(-programs // MULTIPROCESSORS) * program_bytes
        return programs < MIN_PROGRAMS, max(MIN_WARPS - warps, warps - MAX_WARPS, 0), busiest_bytes, splits

    rows, splits = min(cuts, key=rank)
    programs = -(-N // rows) * splits
    resident = min(programs, MAX_WARPS * WARP_ROWS // rows)
    wanted = -(-IN_FLIGHT_BYTES * MULTIPROCESSORS // (resident * rows * block_bytes * weight_bits))
    stages = 1 + min(max(wanted, 2), 4, -(-blocks // splits))
    while stages > 2 and gemv_shared_bytes(rows, stages, weight_bits, block_bytes) > SHARED_BYTES:
        stages -= 1
    return GemvConfig(rows, splits, rows // WARP_ROWS, stages)


def gemv_shared_bytes(rows: int, stages: int, weight_bits: int, block_bytes: int, decoder: str = "permute") -> int:
    """Shared memory of a program.

    ``stages - 1`` blocks of eight vectors of two-byte activations, and as many of the planes; weights that are looked
    up pass through it too, a slab of them at a time, and their planes do not. Tables of codebooks per group, at most
    32 bytes a row, are left out.
    """
    buffers = max(stages - 1, 1)
    activations = buffers * block_bytes * 16 * GEMV_MAX_M
    weights = 2 * rows * block_bytes if decoder == "lookup" else buffers * block_bytes * rows * weight_bits
    return activations + weights


def gemv_candidates(
    N: int, K: int, M: int, weight_bits: int, block_bytes: int, decoder: str = "permute"
) -> tuple[GemvConfig, ...]:
    """What to measure for one shape: the default first, then other rows, splits and depths around it.

    None is known to spill (Triton 3.6.0, sm_80, sm_89 and sm_90), and none needs more shared memory than the smallest
    GPU has.

    Args:
        N: Output features.
        K: Input features.
        M: Activation vectors.
        weight_bits: Bit-planes read.
        block_bytes: Bytes of a block of K in one plane.
        decoder: "permute", "grid" or "lookup".
    """
    default = default_gemv_config(N, K, M, weight_bits, block_bytes, decoder)
    blocks = -(-K // (8 * block_bytes))
    found = [default]
    for rows in gemv_rows(decoder):
        # 1, 1.5, 2, 3 and 4 programs of 64 rows for each multiprocessor, or as many warps in smaller ones.
        tiles = -(-N // rows)
        programs = [share * MULTIPROCESSORS * 64 // (2 * rows) for share in (2, 3, 4, 6, 8)]
        splits = {min(max(round(count / tiles), 1), blocks, MAX_SPLITS) for count in programs}
        if tiles >= MULTIPROCESSORS:
            # Fewer warps, but nothing to add up in the end.
            splits.add(1)
        for split in sorted(splits):
            depths = {min(stages, 1 + -(-blocks // split)) for stages in (2, 3, 4)}
            found += [
                GemvConfig(rows, split, rows // WARP_ROWS, stages)
                for stages in sorted(depths)
                if gemv_shared_bytes(rows, stages, weight_bits, block_bytes, decoder) <= SHARED_BYTES
            ]
    return tuple(dict.fromkeys(found))


def default_gemm_config(N: int, K: int, M: int, weight_bits: int, block_bytes: int) -> GemmConfig:
    """The configuration of the fused GEMM used where no measured table has one.

    Tiles of 32 rows and at most 32 vectors, whose sums leave the registers that decoding takes; a pipeline of two
    stages where a block of activations and one of every plane fit the shared memory of every GPU; K split until there
    are ``MIN_PROGRAMS`` programs, but not so far that a program has a single block.

    Args:
        N: Output features.
        K: Input features.
        M: Activation vectors.
        weight_bits: Bit-planes read.
        block_bytes: Bytes of a block of K in one plane.
    """
    rows = 32
    columns = 16 if M <= 16 else 32
    blocks = -(-K // (8 * block_bytes))
    tiles = -(-N // rows) * -(-M // columns)
    splits = max(1, min(-(-MIN_PROGRAMS // tiles), blocks // 2, MAX_SPLITS))
    config = GemmConfig(rows, columns, splits, rows // WARP_ROWS, 2)
    fits = gemm_shared_bytes(config, weight_bits, block_bytes) <= SHARED_BYTES
    return config if fits else replace(config, stages=1)


def gemm_shared_bytes(config: GemmConfig, weight_bits: int, block_bytes: int) -> int:
    """Shared memory of a program, about: ``stages - 1`` blocks of activations and of every plane."""
    activation_bytes = 2 * 8 * block_bytes * config.columns
    plane_bytes = weight_bits * config.rows * block_bytes
    return (activation_bytes + plane_bytes) * (config.stages - 1) if config.stages > 1 else plane_bytes


def fitting(config: _Config, weight_bits: int, block_bytes: int, decoder: str) -> _Config:
    """A configuration with no more stages than fit the shared memory of every GPU.

    What was measured for one shape may serve another one, whose blocks are larger.

    Args:
        config: The configuration.
        weight_bits: Bit-planes read.
        block_bytes: Bytes of a block of K in one plane.
        decoder: "permute", "grid" or "lookup".
    """
    while config.stages > 1:
        if isinstance(config, GemmConfig):
            needed = gemm_shared_bytes(config, weight_bits, block_bytes)
        else:
            needed = gemv_shared_bytes(config.rows, config.stages, weight_bits, block_bytes, decoder)
        if needed <= SHARED_BYTES:
            break
        config = replace(config, stages=config.stages - 1)
    return config


def gemm_candidates(N: int, K: int, M: int, weight_bits: int, block_bytes: int) -> tuple[GemmConfig, ...]:
    """What to measure for one shape: the default first, then other tiles, splits and depths.

    None needs more shared memory than the smallest GPU has.

    Args:
        N: Output features.
        K: Input features.
        M: Activation vectors.
        weight_bits: Bit-planes read.
        block_bytes: Bytes of a block of K in one plane.
    """
    default = default_gemm_config(N, K, M, weight_bits, block_bytes)
    blocks = -(-K // (8 * block_bytes))
    found = [default]
    for rows, columns, stages in product((16, 32), (16, 32, 64), (1, 2, 3)):
        # A tile twice as wide as all vectors wastes more than half of its products.
        if columns > 16 and columns >= 2 * M:
            continue
        tiles = -(-N // rows) * -(-M // columns)
        for programs in (MULTIPROCESSORS // 2, MULTIPROCESSORS, MIN_PROGRAMS):
            splits = min(max(round(programs / tiles), 1), blocks, MAX_SPLITS)
            config = GemmConfig(rows, columns, splits, rows // WARP_ROWS, stages)
            if gemm_shared_bytes(config, weight_bits, block_bytes) <= SHARED_BYTES:
                found.append(config)
    return tuple(dict.fromkeys(found))
