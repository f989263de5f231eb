"""Worker processes that are expected to be killed.

Each has a pipe of its own: nothing is shared that a killed one could leave locked (as a queue's lock would
be), and it is known which chunk it was working on. That chunk is done again, design by design; a design
that has killed its worker :data:`MAX_KILLS` times alone gets an outcome that says so. Workers end with the
coordinator, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, cast

from dse.evaluation import ChunkSizer, Numbered, evaluate_chunk, take_chunk
from dse.log import Outcome
from hwsim.trace import BittaperError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from dse.problem import Problem

MAX_KILLS = 3
"""Workers a design may take with it."""

MAX_FAILED_STARTS = 5
"""Workers in a row that may end before they can work."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


@contextmanager
def _for_workers() -> Iterator[None]:
    """What a process started inside inherits: one BLAS thread unless told otherwise, and no Ctrl-C.

    Ctrl-C reaches every process of a terminal, and only the coordinator should act on it; a handler in the
    worker would come too late, since starting takes it half a second.
    """
    added = [name for name in _THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for name in added:
            del os.environ[name]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _sendable(error: BaseException) -> BaseException:
    """The error with its traceback as a note; another in its place if it cannot be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"in a worker process:\n{text}")
    assert isinstance(copy, BaseException)
    if not isinstance(error, BittaperError):
        copy.add_note(f"in a worker process:\n{text}")
    return copy


def work(spec: bytes, connection: Connection) -> None:
    """What a worker does until its pipe closes.

    Args:
        spec: A pickled :class:`dse.evaluation.WorkerSpec`, unpickled here so that a failure can be told.
        connection: Gives ``(first, canonical designs)``; takes ``(outcomes, seconds)``, None when ready, or
            an error.
    """

    def evaluate(problem: Problem) -> Callable[[Any], Any]:
        def chunk(given: Any) -> Any:
            first, canonical = given
            started_s = time.perf_counter()
            outcomes = evaluate_chunk(problem, first, [problem.space.decode(design) for design in canonical])
            return outcomes, time.perf_counter() - started_s

        return chunk

    answer(spec, connection, evaluate)


def answer(spec: bytes, connection: Connection, prepare: Callable[[Problem], Callable[[Any], Any]]) -> None:
    """Answer what comes through a pipe until it closes, or the parent ends.

    Args:
        spec: A pickled :class:`dse.evaluation.WorkerSpec`.
        connection: Takes None when ready, then an answer to each thing it gives, or an error.
        prepare: Makes what answers of the problem.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):  # also of a reset: an answer was left unread
        try:
            reply = prepare(pickle.loads(spec).build())
            connection.send(None)
            while True:
                connection.send(reply(connection.recv()))
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            connection.send(_sendable(error))


class Worker:
    """A process and what it is doing.

    Args:
        spec: A pickled :class:`dse.evaluation.WorkerSpec`.
        task: What it does with that and its end of the pipe.
    """

    def __init__(self, spec: bytes, task: Callable[[bytes, Connection], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=task, args=(spec, theirs), daemon=True)
        with _for_workers():
            self.process.start()
        theirs.close()  # or a killed worker's pipe would never end
        self.ready = False
        self.chunk: list[Numbered] | None = None

    def give(self, given: Any) -> None:
        """Hand something over; that the worker is dead shows when its answer is awaited."""
        with suppress(BrokenPipeError):
            self.connection.send(given)

    def end(self) -> str:
        """End the process at once; returns how it ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class ProcessPool:
    """Evaluates chunks in worker processes; each is started when there is a chunk for it.

    Args:
        spec: A pickled :class:`dse.evaluation.WorkerSpec`.
        workers: Processes at most.
    """

    def __init__(self, spec: bytes, workers: int) -> None:
        self._spec = spec
        self._limit = workers
        self._workers: list[Worker] = []
        self._sizer = ChunkSizer()
        self._failed_starts = 0
        self._kills: dict[int, int] = {}

    def evaluate(self, designs: Sequence[Numbered]) -> Iterator[Outcome]:
        """Give the outcome of each design once, in the order of completion.

        Raises:
            BittaperError: If workers cannot start.
            Exception: What an evaluation raised, other than that a design cannot run.
        """
        waiting = deque(designs)
        again: deque[Numbered] = deque()
        while waiting or again or any(worker.chunk for worker in self._workers):
            self._start(len(waiting) + len(again))
            for worker in self._workers:
                if worker.ready and worker.chunk is None and (waiting or again):
                    size = self._sizer.size(len(waiting), self._limit)
                    worker.chunk = chunk = [again.popleft()] if again else take_chunk(waiting, size)
                    worker.give((chunk[0][0], [design.canonical() for _, design in chunk]))
            for connection in wait([worker.connection for worker in self._workers]):
                worker = next(worker for worker in self._workers if worker.connection is connection)
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    yield from self._bury(worker, again)
                else:
                    yield from self._take(worker, message)

    def _start(self, designs: int) -> None:
        chunks = -(-designs // self._sizer.size(designs, self._limit)) if designs else 0
        busy = sum(worker.chunk is not None for worker in self._workers)
        while len(self._workers) < min(self._limit, busy + chunks):
            self._workers.append(Worker(self._spec, work))

    def _take(self, worker: Worker, message: Any) -> Sequence[Outcome]:
        if isinstance(message, BaseException):
            raise message
        self._failed_starts = 0
        if message is None:
            worker.ready = True
            return ()
        outcomes, seconds = message
        self._sizer.learn(len(outcomes), seconds)
        worker.chunk = None
        return cast("Sequence[Outcome]", outcomes)

    def _bury(self, worker: Worker, again: deque[Numbered]) -> Iterator[Outcome]:
        """Have a dead worker's chunk done again."""
        self._workers.remove(worker)
        how = worker.end()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == MAX_FAILED_STARTS:
                raise BittaperError(
                    f"worker processes end before they can work ({how}); if this runs from a script of yours, put it "
                    f"below `if __name__ == '__main__':`, or use one worker"
                )
        chunk = worker.chunk or []
        if len(chunk) > 1:  # which of them it was is not known
            again.extend(chunk)
            return
        for number, design in chunk:
            kills = self._kills[number] = self._kills.get(number, 0) + 1
            if kills < MAX_KILLS:
                again.append((number, design))
            else:
                why = f"its worker process was ended {kills} times, the last time {how}"
                yield Outcome(number, {}, why, unknown=True)

    def close(self) -> None:
        """End every worker, working or not."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
