"""Scratch memory for kernels that split a sum over programs: partial sums, and counters that start and end at zero.

Calls on one stream run one after the other, so that one workspace a stream is enough. It grows, never shrinks and
never frees a buffer: a captured CUDA graph keeps the addresses it saw. Growing allocates and clears memory, which no
capture may do, so a graph is captured after the same calls ran once on the same stream. Graphs captured on one
stream share its workspace and must be replayed one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# 4 MiB of partial sums and 64 KiB of counters: enough for most calls without growing.
_MIN_PARTIALS = 1 << 20
_MIN_COUNTERS = 1 << 14


@dataclass
class Workspace:
    """The buffers of one stream.

    Attributes:
        partials: float32, any content.
        counters: int32, zero whenever no kernel that uses them runs.
        retired: Smaller buffers of before, kept for the graphs that were captured with them.
    """

    partials: Tensor
    counters: Tensor
    retired: list[Tensor] = field(default_factory=list)


_workspaces: dict[tuple[torch.device, int], Workspace] = {}


def workspace(device: torch.device, partials: int, counters: int) -> tuple[Tensor, Tensor]:
    """Partial sums and counters for a kernel on the current stream of ``device``.

    Args:
        device: Where the kernel runs; a CPU has one stream.
        partials: float32 values needed.
        counters: int32 counters needed.

    Returns:
        The two buffers, at least as long; the kernel must leave the counters at zero.

    Raises:
        KernelError: If a CUDA graph is being captured and the workspace has to grow.
    """
    import torch

    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = (device, stream)
    found = _workspaces.get(key)
    if found is not None and len(found.partials) >= partials and len(found.counters) >= counters:
        return found.partials, found.counters
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise KernelError(
            f"a CUDA graph is captured on stream {stream:#x}, whose workspace has to grow to {partials} partial sums "
            f"and {counters} counters; run the same calls once on this stream before capturing"
        )
    if found is None:
        found = Workspace(torch.empty(0, device=device), torch.zeros(0, dtype=torch.int32, device=device))
        _workspaces[key] = found
    if len(found.partials) < partials:
        found.retired.append(found.partials)
        found.partials = torch.empty(_grown(partials, _MIN_PARTIALS), dtype=torch.float32, device=device)
    if len(found.counters) < counters:
        found.retired.append(found.counters)
        found.counters = torch.zeros(_grown(counters, _MIN_COUNTERS), dtype=torch.int32, device=device)
    return found.partials, found.counters


def _grown(needed: int, least: int) -> int:
    """The next power of two, so that all the buffers of before take no more than the last one."""
    return max(least, 1 << (needed - 1).bit_length())
