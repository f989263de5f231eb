"""What every part of one benchmark run shares: the device, its clock, its ceilings, and where they come from."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.bench.device import describe_device, l2_bytes
from kernels.bench.tables import Row
from kernels.bench.timing import Call, Percentiles, Rotation, Timer, graph_timer, plan_rotation, time_graph

if TYPE_CHECKING:
    import torch

# Of the free memory, so that what else a part needs fits beside its copies.
_ROTATION_SHARE = 2


@dataclass(frozen=True)
class Session:
    """One device on one day.

    Attributes:
        device: Where everything runs.
        timer: What times it.
        facts: :func:`kernels.bench.device.describe_device`.
        l2_bytes: Its L2 cache.
        copy_bytes_per_s: Device-to-device copy, read plus written, of this run.
        read_bytes_per_s: A kernel that only reads, of this run.
    """

    device: torch.device
    timer: Timer
    facts: dict[str, str]
    l2_bytes: int
    copy_bytes_per_s: float
    read_bytes_per_s: float

    @classmethod
    def open(cls, device: torch.device) -> Session:
        """Describe the GPU and measure its bandwidth.

        Raises:
            KernelError: If it is none, or its memory is taken.
        """
        timer = graph_timer(device)
        from kernels.bench.bandwidth import copy_bandwidth

        bandwidth = copy_bandwidth(device)
        return cls(
            device=device,
            timer=timer,
            facts=describe_device(device),
            l2_bytes=l2_bytes(device),
            copy_bytes_per_s=bandwidth.copy_bytes_per_s,
            read_bytes_per_s=bandwidth.read_bytes_per_s,
        )

    def provenance(self) -> Row:
        """The columns that every row ends with."""
        return {
            **self.facts,
            "timer": self.timer.name,
            "copy_gb_per_s": self.copy_bytes_per_s / 1e9,
            "read_gb_per_s": self.read_bytes_per_s / 1e9,
        }

    def free_bytes(self) -> int | None:
        """Free memory of the GPU, what torch keeps for itself included; None on a CPU."""
        import torch

        if self.device.type != "cuda":
            return None
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + kept

    def rotation(self, bytes_each: int) -> Rotation:
        """Copies that leave this device's cache cold.

        Raises:
            KernelError: If not even two fit.
        """
        free = self.free_bytes()
        return plan_rotation(bytes_each, self.l2_bytes, None if free is None else free // _ROTATION_SHARE)

    def time(self, calls: list[Call], *, min_calls: int, replays: int) -> Percentiles:
        """Time calls that take turns."""
        return time_graph(calls, min_calls=min_calls, replays=replays, timer=self.timer)


def times(measured: Percentiles) -> Row:
    """The columns of a time."""
    return {"p20_us": measured.p20_us, "p50_us": measured.p50_us, "p80_us": measured.p80_us, "n": measured.n}


def release_memory() -> None:
    """Give back what the last item held, its graphs included, so that the next one may use the whole GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
