"""More processes for the grid: each arranges the space as the coordinator does and evaluates parts of it.

Which process evaluates a part does not show in its numbers. A worker that is killed is done without: its part is
evaluated here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.pool import Worker, answer

if TYPE_CHECKING:
    from dse.design_grid import DesignGrid, Metrics
    from dse.problem import Problem

CHUNK_NPUS, SLOW_CHUNK_NPUS = 4096, 8
"""NPUs of a part, and where every step has to be run."""

Rows = NDArray[np.intp]


class _Part(NamedTuple):
    """Designs to evaluate, and their places among all that are wanted."""

    places: Rows
    rows: Rows
    samples: int | None


def serve(spec: bytes, connection: Connection) -> None:
    """What a worker does: give the metrics of the rows that come through its pipe."""

    def prepare(problem: Problem) -> Callable[[Any], Any]:
        from dse.candidates import Candidates  # noqa: PLC0415 - importing this must not load the simulator
        from dse.design_grid import DesignGrid  # noqa: PLC0415
        from dse.simulator import Simulator  # noqa: PLC0415

        assert isinstance(problem.evaluate, Simulator), "what stands in has no grid"
        grid = DesignGrid(problem.evaluate, Candidates.enumerate(problem.space))
        return lambda given: grid.metrics(*given)

    answer(spec, connection, prepare)


class GridWorkers:
    """Processes that evaluate beside this one; they get ready while this one computes bounds.

    Args:
        spec: A pickled :class:`dse.evaluation.WorkerSpec`.
        workers: How many.
    """

    def __init__(self, spec: bytes, workers: int) -> None:
        self._workers = [Worker(spec, serve) for _ in range(workers)]
        self._parts: SimpleQueue[_Part | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[Rows, Any]] = SimpleQueue()
        for worker in self._workers:
            threading.Thread(target=self._attend, args=(worker,), name="grid-worker", daemon=True).start()

    def _attend(self, worker: Worker) -> None:
        """Hand a worker parts and take its answers, while this process evaluates too."""
        with suppress(EOFError, OSError):
            if worker.connection.recv() is not None:
                return  # it could not get ready
            while (part := self._parts.get()) is not None:
                answered: Any = None
                try:
                    worker.give((part.rows, part.samples))
                    answered = worker.connection.recv()
                finally:
                    self._done.put((part.places, answered))

    def metrics(self, grid: DesignGrid, rows: Rows, samples: int | None) -> Iterator[tuple[Rows, Metrics]]:
        """:meth:`dse.design_grid.DesignGrid.metrics` of some of the rows at a time, by their places.

        Raises:
            Exception: What evaluating raised in a worker.
        """
        parts = [_Part(places, rows[places], samples) for places in split(grid, grid.npu[rows])]
        if len(parts) == 1:
            yield parts[0].places, grid.metrics(parts[0].rows, samples)
            return
        for part in parts:
            self._parts.put(part)
        for _ in parts:
            try:
                mine = self._parts.get_nowait()
            except Empty:
                places, answered = self._done.get()
            else:
                assert mine is not None, "only closing ends a queue"
                places, answered = mine.places, None
            if isinstance(answered, BaseException):
                raise answered
            yield places, grid.metrics(rows[places], samples) if answered is None else answered

    def processes(self) -> list[int]:
        """Process ids."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def close(self) -> None:
        """End every worker, working or not."""
        for _ in self._workers:
            self._parts.put(None)
        for worker in self._workers:
            worker.end()
        self._workers.clear()


def split(grid: DesignGrid, npu: Rows) -> list[Rows]:
    """Places of designs of some NPUs each; the NPUs of a part stand together, so that they share what they can."""
    wanted = np.zeros(len(grid.table), dtype=bool)
    wanted[npu] = True
    npus = np.flatnonzero(wanted)
    size = SLOW_CHUNK_NPUS if grid.slow[npus].any() else CHUNK_NPUS
    part = np.zeros(len(grid.table), dtype=np.intp)
    part[npus] = np.arange(len(npus)) // size
    mine = part[npu]
    order = np.argsort(mine, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(mine[order])) + 1)
