"""Time kernels the way a decoder meets them: cold weights, inside one CUDA graph, by events.

Every quantised matrix of a 7B model fits a modern GPU's L2 cache, so that running one matrix again and again would
time the cache. A *rotation* therefore runs the same kernel over enough distinct copies of its weights that a copy has
left the cache when its turn comes again; a real model does the same, layer by layer. All calls of a rotation are
captured into one CUDA graph, which leaves out Python and the driver, and whole replays of the graph are timed by
events on the stream they run on.

What a replay took divided by its calls is one sample, in microseconds a call. The gaps between the kernels of a graph
are part of it: a decoder pays them too.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeVar

from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]
Item = TypeVar("Item")

# Distinct bytes of a rotation: at least this, and this many times the L2 cache (an H100's holds 52 MB).
ROTATION_BYTES = 200_000_000
L2_FACTOR = 4
# A graph holds whole rotations: 3 x 200 MB take 200 us at 3 TB/s, many times what launching a graph costs the host,
# so that the queue never runs dry between the two events; and 24 calls even out their gaps.
MIN_ROTATIONS = 3
MIN_CALLS = 24
REPLAYS = 50
# Clocks rise from idle within some milliseconds of work.
WARM_UP_S = 0.02
_INTERPRET = "TRITON_INTERPRET"


@dataclass(frozen=True)
class Percentiles:
    """Time of one call in microseconds, over ``n`` samples.

    Attributes:
        p20_us: A fifth of the samples is at most this.
        p50_us: The median.
        p80_us: Four fifths of the samples are at most this.
        n: Samples.
    """

    p20_us: float
    p50_us: float
    p80_us: float
    n: int


def percentiles(samples_us: Sequence[float]) -> Percentiles:
    """Summarise samples, interpolating between neighbours.

    >>> percentiles([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    Percentiles(p20_us=2.0, p50_us=3.5, p80_us=5.0, n=6)

    Raises:
        KernelError: If there is no sample.
    """
    if not samples_us:
        raise KernelError("samples_us is empty: percentiles need at least 1 sample")
    ordered = sorted(samples_us)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return Percentiles(quantile(0.2), quantile(0.5), quantile(0.8), len(ordered))


@dataclass(frozen=True)
class Rotation:
    """How many copies of what a call reads take turns.

    Attributes:
        copies: Distinct copies.
        bytes_each: Bytes a call reads of one copy.
        l2_bytes: The device's L2 cache.
    """

    copies: int
    bytes_each: int
    l2_bytes: int

    @property
    def bytes(self) -> int:
        """Distinct bytes read in one turn over all copies."""
        return self.copies * self.bytes_each

    @property
    def l2_state(self) -> str:
        """``warm`` for one copy, ``partly warm`` for less than four times the L2 cache, else ``cold``."""
        if self.copies == 1:
            return "warm"
        return "cold" if self.bytes >= L2_FACTOR * self.l2_bytes else "partly warm"


def plan_rotation(bytes_each: int, l2_bytes: int, limit_bytes: int | None = None) -> Rotation:
    """Choose the number of copies that leaves the cache cold.

    Args:
        bytes_each: Bytes a call reads of one copy.
        l2_bytes: The device's L2 cache.
        limit_bytes: Memory the copies may take; the rotation then says that it is partly warm.

    >>> plan_rotation(4_194_304, 52_428_800).copies
    50

    Raises:
        KernelError: If ``bytes_each`` is not positive, or the limit leaves no room for two copies.
    """
    if bytes_each < 1:
        raise KernelError(f"bytes_each = {bytes_each}: must be >= 1")
    copies = max(2, -(-max(ROTATION_BYTES, L2_FACTOR * l2_bytes) // bytes_each))
    if limit_bytes is not None and copies * bytes_each > limit_bytes:
        copies = limit_bytes // bytes_each
        if copies < 2:
            raise KernelError(
                f"two copies of {bytes_each} bytes need more than the {limit_bytes} bytes of GPU memory left for them; "
                "time a smaller shape"
            )
    return Rotation(copies, bytes_each, l2_bytes)


def rotated_copies(item: Item, copies: int) -> list[Item]:
    """The item itself and copies of it whose tensors lie elsewhere in memory, holding the same values."""
    return [item, *(copy.deepcopy(item) for _ in range(copies - 1))]


class Timer(Protocol):
    """Runs calls and says how long all of them together took, replay by replay.

    Attributes:
        name: Written beside every figure; only those of :class:`GraphTimer` reach a results file.
    """

    name: str

    def replay_times_us(self, calls: Sequence[Call], distinct: int, replays: int) -> list[float]:
        """Microseconds of each of ``replays`` runs over all ``calls``; the first ``distinct`` hold every call once."""
        ...

    def step_times_us(self, steps: Sequence[Call]) -> list[float]:
        """Microseconds from the end of one step to the end of the next, each run once, in order."""
        ...


class GraphTimer:
    """Times by events: replays of calls captured into one CUDA graph, or steps that bring graphs of their own."""

    name = "cuda events"

    def __init__(self, device: torch.device) -> None:
        """Use one stream for warming up, capture and replays: the kernels' workspaces belong to a stream."""
        import torch

        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def replay_times_us(self, calls: Sequence[Call], distinct: int, replays: int) -> list[float]:
        """Microseconds of each of ``replays`` replays of one graph that holds all ``calls``."""
        import torch

        stream = self._stream
        with torch.cuda.device(self._device):
            # What the caller's stream still writes is there before anything reads it.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # Outside the capture: compiling, workspaces, cuBLAS handles.
                for call in calls[:distinct]:
                    call()
            stream.synchronize()
            graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, stream=stream):
                    for call in calls:
                        call()
            except Exception:
                # A capture that breaks leaves its stream the current one; what is timed next must not run there.
                torch.cuda.set_stream(current)
                raise
            events = [(_event(), _event()) for _ in range(replays)]
            with torch.cuda.stream(stream):
                begin = time.perf_counter()
                while time.perf_counter() - begin < WARM_UP_S:
                    graph.replay()
                    stream.synchronize()
                # Not timed, and not waited for: while it runs, the host queues the timed ones behind it.
                graph.replay()
                for start, end in events:
                    start.record()
                    graph.replay()
                    end.record()
            stream.synchronize()
            return [1e3 * start.elapsed_time(end) for start, end in events]

    def step_times_us(self, steps: Sequence[Call]) -> list[float]:
        """Microseconds from step to step on the current stream; the host waits only after the last."""
        import torch

        with torch.cuda.device(self._device):
            events = [_event() for _ in range(len(steps) + 1)]
            torch.cuda.synchronize()
            events[0].record()
            for step, event in zip(steps, events[1:], strict=True):
                step()
                event.record()
            torch.cuda.synchronize()
            return [1e3 * before.elapsed_time(after) for before, after in pairwise(events)]


def _event() -> torch.cuda.Event:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def graph_timer(device: torch.device | None = None) -> GraphTimer:
    """The one timer, and so the one stream, of a GPU (the current one by default).

    Raises:
        KernelError: If there is no GPU, the device is not one, or Triton interprets its kernels.
    """
    import torch

    if (device is not None and device.type != "cuda") or not torch.cuda.is_available():
        name = "no GPU is visible" if device is None else f"device is {device}"
        raise KernelError(f"{name}: timing needs an NVIDIA GPU; nothing was measured")
    if os.environ.get(_INTERPRET, "0") != "0":
        raise KernelError(f"{_INTERPRET} is set: interpreted kernels say nothing about a GPU; unset it")
    # One GPU has one index but two names, cuda and cuda:0.
    return _graph_timer(int(torch.empty(0, device=device or "cuda").get_device()))


@cache
def _graph_timer(index: int) -> GraphTimer:
    import torch

    return GraphTimer(torch.device("cuda", index))


def time_graph(
    calls: Sequence[Call],
    *,
    replays: int = REPLAYS,
    min_calls: int = MIN_CALLS,
    device: torch.device | None = None,
    timer: Timer | None = None,
) -> Percentiles:
    """Time one call, the calls taking turns inside one CUDA graph.

    Args:
        calls: What to time, without arguments: closures over the copies of a :class:`Rotation` for a cold cache, one
            closure alone for a warm one. A call must write into buffers that it already has, must not wait for the
            device, and must do the same work each time.
        replays: Samples.
        min_calls: Calls in the graph at least; the rotation is repeated whole, three times or more.
        device: The GPU; the current one by default.
        timer: Stands in for the GPU in tests.

    Returns:
        Percentiles of a replay's time divided by its calls.

    Raises:
        KernelError: If there is no call, no replay or no GPU.
    """
    if not calls or replays < 1:
        raise KernelError(f"calls = {len(calls)}, replays = {replays}: timing needs at least 1 of each")
    timer = timer or graph_timer(device)
    rotations = max(MIN_ROTATIONS, -(-min_calls // len(calls)))
    graph_calls = list(calls) * rotations
    times_us = timer.replay_times_us(graph_calls, len(calls), replays)
    return percentiles([time_us / len(graph_calls) for time_us in times_us])
