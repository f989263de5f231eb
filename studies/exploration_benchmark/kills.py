"""Real explorations, struck with SIGKILL at random moments until they are through; nothing may be lost.

Each exploration is ``bittaper explore run`` in processes of its own with two workers, on the event engine. It
is struck again and again, started again where its coordinator died, and in the end compared with the same
study run to its end undisturbed.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from dse import explore, load_exploration, read_study
from dse.log import LOG_NAME, Outcome, read_log
from hwsim.trace import atomic_writer

STRIKES = 50
WORKERS = 2
KINDS = {
    "worker": "one worker",
    "coordinator": "the coordinator",
    "both": "coordinator and workers at once",
    "write": "the coordinator as it writes, its last line then cut at a random byte as by a power failure",
}
LONGEST_WAIT_S = 1.5
"""Of a strike, at most, after the run has begun to write, or since the strike before."""

EARLY_SHARE = 0.25
"""Of strikes that do not wait for the run to write: they hit processes that only start."""

SAMPLERS = ("random", "nsga2", "exact")


@dataclass(frozen=True)
class Strike:
    """One strike and what it cost.

    Attributes:
        run: Number of the exploration.
        sampler: Its sampler.
        kind: Out of :data:`KINDS`.
        early: Whether it did not wait for the run to write.
        wait_s: Since the run began to write, or since the start or the strike before where that came first.
        killed: Processes that were killed.
        trials_before: Completed trials in the log at that moment.
        cut_bytes: Cut off the last line.
        lost: Completed trials that the finished record lacks or holds otherwise.
        duplicates: Designs that the finished record holds twice.
        same_trials: Whether the finished record has the trials of the undisturbed run.
        same_front: Whether it has its front.
    """

    run: int
    sampler: str
    kind: str
    early: bool
    wait_s: float
    killed: int
    trials_before: int
    cut_bytes: int
    lost: int = 0
    duplicates: int = 0
    same_trials: bool = False
    same_front: bool = False


def study_fields(sampler: str, seed: int) -> dict[str, Any]:
    """A study of some dozens of trials of some 50 ms each."""
    return {
        "name": "kills",
        "workloads": [{"model": "vicuna-7b", "prompt_tokens": 32, "decode_tokens": 8}],
        "npu": "pmpd-16k",
        "engine": "events",
        "schedules": ["p4:4", "p4:3", "p4:2", "p4:4>3@2", "p4:4>3@6", "p4:3>2@4"],
        "parameters": {
            "memory.bandwidth_bytes_per_s": {"type": "float", "low": 16e9, "high": 96e9, "step": 16e9},
            "clock_hz": {"type": "categorical", "choices": [2e8, 4e8, 8e8]},
            "buffers.weight_kib": {"type": "categorical", "choices": [256, 512, 1024]},
        },
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "bandwidth_bytes_per_s", "direction": "minimize"},
            {"name": "mean_decode_bits", "direction": "maximize"},
        ],
        "sampler": sampler,
        "budget": 60,
        "batch_size": 20,
        "seed": seed,
    }


def children(process: int) -> list[int]:
    """Worker processes of a coordinator, from ``/proc``; the helper that Python starts beside them is none."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if parent == process and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


@contextmanager
def _coordinator(study: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "studies.cli", "explore", "run", str(study), "--out", str(out), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [*command, "--workers", str(WORKERS)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _completed(log: Path) -> dict[int, Outcome]:
    """Completed trials in a log; none before its header is written."""
    return dict(read_log(log).outcomes) if log.exists() and b"\n" in log.read_bytes() else {}


def _end(*processes: int) -> int:
    ended = 0
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
        ended += 1
    return ended


def _cut(log: Path, rng: random.Random) -> int:
    """Cut the last line at a random byte, unless only the header is there; returns the bytes that are gone."""
    content = log.read_bytes() if log.exists() else b""
    if content.count(b"\n") < 2:
        return 0
    begin = content.rstrip(b"\n").rfind(b"\n") + 1
    size = rng.randrange(begin, len(content) - 1)
    os.truncate(log, size)
    return len(content) - size


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _strike(process: subprocess.Popen[bytes], log: Path, kind: str, rng: random.Random) -> Strike | None:
    """Wait, then kill; None where the exploration ended first."""
    size, early, wait_s = _size(log), rng.random() < EARLY_SHARE, rng.random() * LONGEST_WAIT_S
    while process.poll() is None and not early and _size(log) == size:
        time.sleep(0.001)
    end_s = time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < end_s:
        time.sleep(0.001)
    if kind == "write":
        size = _size(log)
        while process.poll() is None and _size(log) == size:
            time.sleep(0.0002)
    workers = children(process.pid)
    while kind == "worker" and process.poll() is None and not workers:
        time.sleep(0.001)
        workers = children(process.pid)
    if process.poll() is not None:
        return None
    if kind == "worker":
        killed = _end(rng.choice(workers))
    else:
        killed = _end(process.pid, *(workers if kind == "both" else ()))
        process.wait()
    cut = _cut(log, rng) if kind == "write" else 0
    return Strike(-1, "", kind, early, round(wait_s, 3), killed, len(_completed(log)), cut)


def _struck(
    study: Path, out: Path, kinds: list[str], rng: random.Random
) -> Iterator[tuple[Strike, dict[int, Outcome]]]:
    """Run a study to its end under strikes; gives each, with what was completed then."""
    log = out / LOG_NAME
    while True:
        with _coordinator(study, out) as process:
            while kinds:
                found = _strike(process, log, kinds[0], rng)
                if found is None:
                    break
                kinds.pop(0)
                if found.killed:
                    yield found, _completed(log)
                if found.kind != "worker":
                    break
            if process.poll() is None:
                process.wait()
            if process.returncode == 0:
                return
            if process.returncode != -signal.SIGKILL:
                assert process.stderr is not None
                raise RuntimeError(process.stderr.read().decode())


def strike_until(strikes: int, folder: Path, *, progress: bool, seed: int = 0) -> list[Strike]:
    """Run explorations under strikes until there were enough.

    Args:
        strikes: How many strikes must have killed something.
        folder: For the explorations' own folders.
        progress: Show a progress bar.
        seed: Of kinds and moments.

    Returns:
        Every strike, with what its exploration came to.
    """
    rng = random.Random(seed)
    rows: list[Strike] = []
    with tqdm(total=strikes, desc="kills", unit="strike", disable=not progress, dynamic_ncols=True) as bar:
        for run in range(10 * strikes):
            if len(rows) >= strikes:
                break
            sampler = SAMPLERS[run % len(SAMPLERS)]
            study = folder / f"study-{run}.yaml"
            study.write_text(yaml.safe_dump(study_fields(sampler, seed + run), sort_keys=False), encoding="utf-8")
            out = folder / f"struck-{run}"
            kinds = [list(KINDS)[(len(rows) + index) % len(KINDS)] for index in range(min(8, strikes - len(rows)))]
            found = []
            for strike in _struck(study, out, kinds, rng):
                found.append(strike)
                bar.update()
            rows += _judged(run, sampler, found, study, out, folder / f"whole-{run}")
    return rows


def _judged(
    run: int, sampler: str, strikes: list[tuple[Strike, dict[int, Outcome]]], study: Path, out: Path, whole: Path
) -> list[Strike]:
    """Compare a struck exploration with an undisturbed one, in this process and without workers."""
    expected = explore(read_study(study), whole, progress=False)
    found, record = load_exploration(out), read_log(out / LOG_NAME)
    designs = [str(design) for batch in record.batches for design in batch.designs]
    return [
        replace(
            strike,
            run=run,
            sampler=sampler,
            lost=sum(record.outcomes.get(number) != outcome for number, outcome in before.items()),
            duplicates=len(designs) - len(set(designs)),
            same_trials=found.trials.equals(expected.trials),
            same_front=found.pareto.equals(expected.pareto),
        )
        for strike, before in strikes
    ]


def run(folder: Path, *, progress: bool) -> dict[str, Any]:
    """Strike 50 times; writes ``kills.csv`` and returns its summary."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        rows = strike_until(STRIKES, Path(scratch), progress=progress)
    with atomic_writer(folder / "kills.csv") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Strike)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return summarise(rows)


def summarise(rows: list[Strike]) -> dict[str, Any]:
    """What the strikes came to, in all and by kind."""
    return {
        "strikes": len(rows),
        "explorations": len({row.run for row in rows}),
        "processes_killed": sum(row.killed for row in rows),
        "by_kind": {kind: sum(row.kind == kind for row in rows) for kind in KINDS},
        "before_the_first_trial": sum(row.trials_before == 0 for row in rows),
        "completed_trials_lost": sum(row.lost for row in rows),
        "duplicates": sum(row.duplicates for row in rows),
        "other_trials": sum(not row.same_trials for row in rows),
        "other_front": sum(not row.same_front for row in rows),
    }
