"""Compile what a benchmark will run, on all cores at once, before anything is timed.

Triton compiles a kernel when it is first launched, on one core, some seconds a variant; a benchmark of a hundred
variants would mostly wait for that. Processes that run the items' checks once leave the compiled kernels in Triton's
cache on disk, where the benchmark finds them. Whatever they do not get done, the benchmark compiles itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from kernels.bench.decode import DecodeSettings
from kernels.bench.plan import BenchOptions, plan

# Starting Python, torch and CUDA takes 5..10 s; then about 4 s a variant.
_LIMIT_S = 60.0
# Of the minutes given.
_LIMIT_SHARE = 0.25
# Beyond the limit, until processes are ended: the longest compilation.
_GRACE_S = 20.0
_MAX_JOBS = 12


def default_jobs() -> int:
    """As many processes as there are cores, but for two, and no more than twelve CUDA contexts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 2, _MAX_JOBS))


def precompile(options: BenchOptions, jobs: int, say: Callable[[str], None]) -> None:
    """Run the checks of all items, the first items' first, in ``jobs`` processes; nothing for one.

    Args:
        options: Of the benchmark.
        jobs: Processes.
        say: Takes a line of progress.
    """
    if jobs < 2:
        return
    limit_s = _LIMIT_S if options.minutes is None else min(_LIMIT_S, _LIMIT_SHARE * 60 * options.minutes)
    say(f"compiling in {jobs} processes, {limit_s:.0f} s at most")
    begin = time.monotonic()
    command = [sys.executable, "-m", "kernels.bench.precompile", json.dumps(asdict(options)), str(limit_s), str(jobs)]
    # One file for what all of them say would mix their lines; only how many failed matters.
    processes = [
        subprocess.Popen([*command, str(index)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for index in range(jobs)
    ]
    failed = 0
    try:
        for process in processes:
            try:
                failed += process.wait(max(0.0, limit_s + _GRACE_S - (time.monotonic() - begin))) != 0
            except subprocess.TimeoutExpired:
                failed += 1
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    missing = f", {failed} of them failed or ran out of time" if failed else ""
    say(f"compiled for {time.monotonic() - begin:.0f} s{missing}")


def options_from_json(text: str) -> BenchOptions:
    """What :func:`dataclasses.asdict` and JSON made of options."""
    fields = json.loads(text)
    lengths = DecodeSettings(**fields.pop("lengths"))
    minutes = fields.pop("minutes")
    return BenchOptions(**{name: tuple(value) for name, value in fields.items()}, minutes=minutes, lengths=lengths)


def run_share(options: BenchOptions, limit_s: float, jobs: int, index: int) -> int:
    """Run every ``jobs``-th check from ``index`` on until the time is up; how many failed."""
    import torch

    begin = time.monotonic()
    device = torch.device("cuda", torch.cuda.current_device())
    checks = [check for item in plan(options, Path()) for check in item.checks]
    failed = 0
    for check in checks[index::jobs]:
        if time.monotonic() - begin > limit_s:
            break
        try:
            check(device)
        except Exception:
            # The benchmark will meet the same error and report it with its item.
            traceback.print_exc()
            failed += 1
    return failed


if __name__ == "__main__":
    options_text, limit_text, jobs_text, index_text = sys.argv[1:]
    sys.exit(1 if run_share(options_from_json(options_text), float(limit_text), int(jobs_text), int(index_text)) else 0)
