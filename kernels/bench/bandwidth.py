"""What the memory of this GPU can do today: the ceiling the kernels are measured against."""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.bench.timing import Percentiles, Timer, time_graph
from kernels.errors import KernelError

# Many times any L2 cache, and 0.7 ms a copy at 3 TB/s.
COPY_BYTES = 1 << 30
# Of the free memory, so that a small GPU is measured too.
_FREE_SHARE = 4
_MIN_BYTES = 1 << 28
_READ_BLOCK = 4096


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second through device memory.

    Attributes:
        copy_bytes_per_s: Device-to-device copy, bytes read plus bytes written.
        read_bytes_per_s: A kernel that reads and keeps one number a block, as a GEMV only reads.
        copy: Time of one copy.
        read: Time of one read.
        buffer_bytes: What was copied, and read.
    """

    copy_bytes_per_s: float
    read_bytes_per_s: float
    copy: Percentiles
    read: Percentiles
    buffer_bytes: int


@triton.jit
def _read_kernel(source_ptr, folds_ptr, BLOCK: tl.constexpr):
    """Fold one block of int32 by exclusive or, so that nothing read can be left out."""
    program = tl.program_id(0).to(tl.int64)
    values = tl.load(source_ptr + program * BLOCK + tl.arange(0, BLOCK))
    tl.store(folds_ptr + program, tl.xor_sum(values, axis=0))


def read_folded(source: torch.Tensor, folds: torch.Tensor) -> None:
    """Fold each 16 KiB of ``source`` (``[blocks * 4096]`` int32) into one of ``folds`` (``[blocks]`` int32)."""
    _read_kernel[(folds.numel(),)](source, folds, BLOCK=_READ_BLOCK, num_warps=4)


def copy_bandwidth(device: torch.device, *, timer: Timer | None = None, buffer_bytes: int | None = None) -> Bandwidth:
    """Measure copying and reading a buffer of a gibibyte (less where a quarter of the free memory is less).

    Args:
        device: A CUDA device.
        timer: Stands in for the GPU in tests.
        buffer_bytes: Another size; a multiple of 16 KiB.

    Raises:
        KernelError: If the GPU has too little free memory for a buffer that no cache holds.
    """
    if buffer_bytes is None:
        free, _ = torch.cuda.mem_get_info(device)
        block_bytes = 4 * _READ_BLOCK
        buffer_bytes = min(COPY_BYTES, free // _FREE_SHARE // block_bytes * block_bytes)
        if buffer_bytes < _MIN_BYTES:
            raise KernelError(
                f"free GPU memory = {free} bytes: measuring bandwidth needs {_FREE_SHARE * _MIN_BYTES}; "
                "end other programs on this GPU"
            )
    # Not zeros, which some memories move with less energy and so at a higher clock.
    source = torch.randint(-(2**31), 2**31, (buffer_bytes // 4,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    folds = torch.empty(source.numel() // _READ_BLOCK, dtype=torch.int32, device=device)
    # One buffer is its own rotation: nothing of it is left in the cache when its turn comes again.
    copied = time_graph([lambda: target.copy_(source)], min_calls=5, replays=10, device=device, timer=timer)
    read = time_graph([lambda: read_folded(source, folds)], min_calls=5, replays=10, device=device, timer=timer)
    return Bandwidth(
        copy_bytes_per_s=2e6 * buffer_bytes / copied.p50_us,
        read_bytes_per_s=1e6 * buffer_bytes / read.p50_us,
        copy=copied,
        read=read,
        buffer_bytes=buffer_bytes,
    )
