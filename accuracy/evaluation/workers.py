"""Decoding on Dask workers: processes of this machine, or of a cluster that was started elsewhere.

Prompts are sent out in chunks of batches; each worker process loads the model once, from the same folder, and only the
process that began the run writes. Batches are those of a run without workers and every worker computes with the same
arithmetic (checked), so that the responses are the same. A chunk whose worker dies is decoded again by another.

Schedulers travel to the workers by pickle, as everything that Dask sends: one of your own must be picklable, and its
module importable there. No data file is ever unpickled.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import torch

from accuracy.decoding import Decoder, Response
from accuracy.evaluation.answers import Job
from accuracy.evaluation.arithmetic import arithmetic
from accuracy.model import load_model
from hwsim.trace import InputError

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

CHUNKS_PER_WORKER = 8
"""So many that workers end together, so few that what Dask adds to each (about 10 ms) does not count."""
MAX_CHUNK_PROMPTS = 64
"""A chunk is on disk only when it is whole; this bounds what a kill can lose."""
CONNECT_TIMEOUT_S = 10
# A worker process may have several threads; the model and its width are one.
_MODEL_LOCK = threading.Lock()


@dataclass(frozen=True)
class ModelSource:
    """Where a worker finds the model, and what must come out of it.

    Attributes:
        folder: The model's files, at the same path for every worker.
        device: ``cpu`` or ``cuda``.
        dtype: What to compute in.
        threads: Threads of one product.
        hashes: Of the weights, and of the store or None.
        arithmetic: As :func:`accuracy.evaluation.arithmetic.arithmetic` gives it, as pairs.
    """

    folder: str
    device: str
    dtype: torch.dtype
    threads: int
    hashes: tuple[str, str | None]
    arithmetic: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, lm: LanguageModel, threads: int) -> ModelSource:
        """Describe a model that was loaded.

        Raises:
            InputError: If it was never saved.
        """
        if lm.folder is None:
            raise InputError(f"workers: model '{lm.name}' was never saved, and workers load it from a folder; save it")
        parameter = next(lm.model.parameters())
        return cls(
            folder=str(lm.folder.resolve()),
            device=parameter.device.type,
            dtype=parameter.dtype,
            threads=threads,
            hashes=(lm.model_sha256, lm.store_sha256),
            arithmetic=tuple(arithmetic(lm, threads).items()),
        )


def decode_jobs(source: ModelSource, jobs: Sequence[Job]) -> list[list[list[Response]]]:
    """Run jobs in a worker process; ``[job][scheduler][prompt]``."""
    with _MODEL_LOCK:
        torch.set_num_threads(source.threads)
        decoder = _load_decoder(source)
        return [decoder.decode_batch(job.prompts, job.schedulers, sampling=job.sampling).responses for job in jobs]


@lru_cache(maxsize=1)
def _load_decoder(source: ModelSource) -> Decoder:
    """Load the model and make sure that it is the one meant.

    Raises:
        InputError: If the folder holds other weights, or this worker computes otherwise.
    """
    lm = load_model(source.folder, device=_worker_device(source.device), dtype=source.dtype)
    if (lm.model_sha256, lm.store_sha256) != source.hashes:
        raise InputError(f"workers: {source.folder} holds other weights on a worker; copy the same files there")
    here = arithmetic(lm, source.threads)
    for name, value in source.arithmetic:
        if here.get(name) != value:
            raise InputError(
                f"workers: {name} = {here.get(name)} on a worker, {value} where the run began; results would depend "
                "on the worker, so use machines of one kind"
            )
    return Decoder(lm)


def _worker_device(device: str) -> str:
    """Workers of this machine, which Dask numbers, take its GPUs in turn; others are given theirs from outside."""
    if device != "cuda":
        return device
    from distributed import get_worker

    name = get_worker().name
    return f"cuda:{name % torch.cuda.device_count()}" if isinstance(name, int) else device


class DaskWorkers:
    """A backend of :class:`accuracy.evaluation.answers.Answers`; use it as a context manager.

    Attributes:
        parallel: Number of workers when the run began.
    """

    def __init__(self, lm: LanguageModel, workers: int | str, threads: int) -> None:
        """Prepare.

        Args:
            lm: The model, which has a folder.
            workers: So many processes of this machine, or a Dask scheduler's address such as ``tcp://10.0.0.1:8786``.
            threads: Threads of one product.

        Raises:
            InputError: If the model was never saved, or the number is below 1.
        """
        if isinstance(workers, int) and workers < 1:
            raise InputError(f"workers = {workers}: must be >= 1")
        self._source, self._workers = ModelSource.of(lm, threads), workers
        self._stack = ExitStack()
        self.parallel = 1

    def __enter__(self) -> Self:
        """Start the processes, or connect.

        Raises:
            InputError: If Dask is not installed or nothing answers at the address.
        """
        try:
            from distributed import Client, LocalCluster
        except ModuleNotFoundError as error:
            raise InputError(
                f"workers = {self._workers}: needs the package '{error.name}': pip install 'bittaper[cluster]'"
            ) from None
        # What the client would log about a lost scheduler is raised by run() in one line.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        with ExitStack() as stack:
            if isinstance(self._workers, int):
                cluster = LocalCluster(
                    n_workers=self._workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
                self._client = stack.enter_context(Client(stack.enter_context(cluster)))
            else:
                try:
                    self._client = stack.enter_context(Client(self._workers, timeout=CONNECT_TIMEOUT_S))
                except (OSError, ValueError) as error:
                    raise InputError(
                        f"workers = {self._workers}: no Dask scheduler answers there ({error}); start one, "
                        "or give a number of processes"
                    ) from None
            known = len(self._client.ncores())
            if known == 0:
                warnings.warn(f"workers = {self._workers}: has no worker yet; waiting for the first", stacklevel=2)
                self._client.wait_for_workers(1)
            self.parallel = max(1, known)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, list[list[Response]]]]:
        """Give each job's responses as its chunk comes back.

        Raises:
            InputError: If a chunk killed its worker again and again, or the connection is lost.
        """
        from distributed import KilledWorker, as_completed

        chunks = chunked(jobs, self.parallel)
        futures = {
            self._client.submit(decode_jobs, self._source, [jobs[number] for number in chunk], pure=False): chunk
            for chunk in chunks
        }
        try:
            for future in as_completed(futures):
                yield from zip(futures[future], future.result(), strict=True)
        except KilledWorker as error:
            raise InputError(
                f"workers: a chunk of prompts ended {error.allowed_failures + 1} workers, one after another (out of "
                "memory?); use fewer workers or a smaller batch_size; finished batches are kept"
            ) from None
        except (CancelledError, OSError) as error:
            raise InputError(
                f"workers: the Dask scheduler is gone ({type(error).__name__}); start it and run the same command "
                "again; finished batches are kept"
            ) from None
        finally:
            self._client.cancel(list(futures))


def chunked(jobs: Sequence[Job], workers: int) -> list[list[int]]:
    """Numbers of the jobs, in chunks of neighbours for ``workers`` processes."""
    size = max(1, len(jobs) // (CHUNKS_PER_WORKER * workers))
    prompts = max((len(job.prompts) for job in jobs), default=1)
    size = min(size, max(1, MAX_CHUNK_PROMPTS // prompts))
    return [list(range(start, min(start + size, len(jobs)))) for start in range(0, len(jobs), size)]
