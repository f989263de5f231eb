"""Run a command and watch its memory and what it leaves on the disk."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.25


@dataclass(frozen=True)
class Sample:
    """One look at a running process.

    Attributes:
        seconds: Since its start.
        rss_bytes: Resident memory, mapped files included.
        anonymous_bytes: Resident memory that is no page of a file.
        disk_bytes: Size of the watched folder's files.
    """

    seconds: float
    rss_bytes: int
    anonymous_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Measured:
    """What a process needed.

    Attributes:
        seconds: Wall time.
        cpu_s: User and system time of all its threads.
        peak_rss_bytes: The kernel's own record of the largest resident size.
        returncode: Negative: the signal that ended it.
        output: Its standard output.
        error: The end of its standard error.
        samples: Taken four times a second.
    """

    seconds: float
    cpu_s: float
    peak_rss_bytes: int
    returncode: int
    output: str
    error: str
    samples: tuple[Sample, ...]


def run_measured(
    command: Sequence[str], watched: Path, kill_when: Callable[[], bool] | None = None, threads: int | None = None
) -> Measured:
    """Run a command to its end, or until ``kill_when`` is true: then it gets SIGKILL.

    Args:
        command: Program and arguments.
        watched: Folder whose size is sampled; need not exist.
        kill_when: Asked four times a second.
        threads: Of torch and BLAS; their own choice by default.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **({} if threads is None else dict.fromkeys(names, str(threads)))}
    samples: list[Sample] = []
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as error:
        start = time.perf_counter()
        process = subprocess.Popen(list(command), stdout=output, stderr=error, env=environment)
        while True:
            # wait4 gives this one child's usage; the usage of all children would mix several runs.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            with suppress(OSError):
                rss, anonymous = _memory(process.pid)
                samples.append(Sample(time.perf_counter() - start, rss, anonymous, _size(watched)))
            if kill_when is not None and kill_when():
                process.kill()
            time.sleep(_EVERY_S)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        error.seek(0)
        return Measured(
            seconds=seconds,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_rss_bytes=usage.ru_maxrss * 1024,
            returncode=process.returncode,
            output=output.read(),
            error=error.read()[-2000:],
            samples=tuple(samples),
        )


def _memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and those of them that are no page of a file."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if "VmRSS" not in fields:
        raise ProcessLookupError
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["RssAnon"].split()[0]) * 1024


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # Files come and go meanwhile.
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
