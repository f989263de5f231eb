"""One CUDA graph per weight width over the same static buffers: a precision switch is the choice of a graph.

A decode step at a few microseconds a kernel is bound by its launches, so each width's step is captured once and
replayed. All graphs read and write the same buffers and share one memory pool for what lives within a step; nothing a
step allocates may be kept, since the next replay, of whichever width, uses the same memory. Without a GPU the same
interface runs the step itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class PrecisionGraphs:
    """Runs a step at any of its widths.

    Attributes:
        widths: The widths, rising.
        captures: How many graphs were captured so far; it stays at one a width however often widths change.
    """

    def __init__(
        self,
        step: Callable[[int], object],
        widths: Sequence[int],
        device: torch.device | str,
        *,
        state: Sequence[Tensor] = (),
    ) -> None:
        """Prepare; nothing is captured yet.

        Args:
            step: Runs one step at the width it is given: only work on ``device``, on buffers that stay where they
                are, without a look at any value and without keeping a tensor it allocates.
            widths: What it may be called with.
            device: Where it runs; graphs are captured on CUDA devices only.
            state: Buffers that a step moves on (token, position). A capture runs the step once beforehand and then
                puts these back.

        Raises:
            KernelError: If there is no width.
        """
        import torch

        if not widths:
            raise KernelError("widths: none given; a step needs at least 1")
        self.widths = tuple(sorted(set(widths)))
        self.captures = 0
        self._step, self._state = step, tuple(state)
        self._device = torch.device(device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: torch.cuda._POOL_HANDLE | None = None

    def run(self, bits: int) -> None:
        """Run one step: replay its graph, captured now if it was not; on a CPU run the step itself.

        Raises:
            KernelError: If the width is not one of :attr:`widths`, or capturing fails.
        """
        self._check(bits)
        if self._device.type != "cuda":
            self._step(bits)
            return
        if bits not in self._graphs:
            self._capture(bits)
        self._graphs[bits].replay()

    def prepare(self, widths: Sequence[int] | None = None) -> None:
        """Capture what :meth:`run` would capture on the way, all widths by default, so that it only replays.

        Raises:
            KernelError: As :meth:`run`.
        """
        for bits in self.widths if widths is None else widths:
            self._check(bits)
            if self._device.type == "cuda" and bits not in self._graphs:
                self._capture(bits)

    def release(self) -> None:
        """Drop the graphs and their memory; buffers may then move, and the next run captures anew."""
        if self._graphs:
            import torch

            # None of them may still run when its memory goes.
            torch.cuda.synchronize(self._device)
        self._graphs.clear()
        self._pool = None

    def _check(self, bits: int) -> None:
        if bits not in self.widths:
            raise KernelError(f"weight_bits = {bits}: no such step; widths: {', '.join(map(str, self.widths))}")

    def _capture(self, bits: int) -> None:
        """Capture one width; on failure the graphs captured before stay usable.

        The step runs once beforehand, on the stream of the capture, because compiling and loading kernels, choosing
        cuBLAS algorithms and allocating the kernels' workspaces are not allowed within a capture.
        """
        import torch

        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph, failure = torch.cuda.CUDAGraph(), None
            try:
                self._warm_up(bits, current, self._stream)
                # Other threads may go on using CUDA, as progress bars and loggers of GPU counters do.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    try:
                        self._step(bits)
                    except Exception as error:
                        # Ending the broken capture raises another error, which says less.
                        failure = error
                        raise
            except Exception as error:
                # Where ending the capture fails, torch leaves its stream the current one; and a pool that no graph
                # lives in cannot be used again.
                torch.cuda.set_stream(current)
                self._pool = self._pool if self._graphs else None
                cause = failure or error
                raise KernelError(
                    f"weight_bits = {bits}: the step cannot be captured in a CUDA graph: {_first_line(cause)}"
                ) from cause
        self._graphs[bits] = graph
        self.captures += 1

    def _warm_up(self, bits: int, current: torch.cuda.Stream, stream: torch.cuda.Stream) -> None:
        """Run the step once on ``stream`` and put the state back."""
        import torch

        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            before = [buffer.clone() for buffer in self._state]
            try:
                self._step(bits)
            finally:
                for buffer, value in zip(self._state, before, strict=True):
                    buffer.copy_(value)
        current.wait_stream(stream)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
