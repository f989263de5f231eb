"""What a trial costs besides its simulation, at 10^2 to 10^5 trials, and what a second worker gains.

Every number comes from a process of its own, since memory is never given back. A run's time is told apart: suggestion
(the sampler), log (a line written), evaluation (the stand-in, microseconds), tables (front, hypervolume, CSV)
and bookkeeping, which is all the rest. CPU seconds count, since others may use the machine too; its load is
recorded beside them.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from studies.common.output import write_rows
from studies.common.timing import measured_apart

if TYPE_CHECKING:
    from dse import StudyConfig
    from dse.space import Design

COUNTS = {
    "random": (100, 1_000, 10_000, 100_000),
    "nsga2": (100, 1_000),
    "exhaustive": (100, 1_000, 10_000, 100_000),
    "tpe": (100, 1_000),
}
"""Trials by sampler. TPE and NSGA-II stop earlier: Optuna's cost of a suggestion grows with the trials."""

EXPORTED = 10_000
"""Trials of the run whose export to an Optuna journal is timed."""

SPEED_UP_TRIALS, SPEED_UP_REPEATS = 240, 3
Numbers = dict[str, float]


def free_evaluator(design: Design) -> dict[str, float]:
    """Three metrics that pull in different directions, in a microsecond; most designs waste something."""
    bandwidth, clock = design.npu["memory.bandwidth_bytes_per_s"], design.npu["clock_hz"]
    waste = 1 + (7 * bandwidth + 13 * clock) % 1009 / 1009
    return {
        "decode_tokens_per_s": 1 / waste / (7e9 / bandwidth + 2e7 / clock),
        "area_mm2": waste * (20 + bandwidth / 1e10 + clock / 1e8),
        "energy_j_per_token": waste * (0.1 + bandwidth / 1e12 + clock * clock / 1e18),
    }


def free_study(sampler: str, trials: int) -> StudyConfig:
    """A study without an end; for an enumeration, one with that many designs."""
    from dse import parse_study

    clock: dict[str, Any] = {"type": "float", "low": 1e8, "high": 1e9}
    bandwidth: dict[str, Any] = {"type": "log", "low": 1e9, "high": 1e12}
    if sampler == "exhaustive":
        clock = {"type": "float", "low": 1e8, "high": 1e9, "step": 1e8}
        bandwidth = {"type": "int", "low": int(1e9), "high": int(1e9) + trials // 10 - 1}
    fields = {
        "name": "overhead",
        "workloads": [{"model": "vicuna-7b", "prompt_tokens": 32, "decode_tokens": 64}],
        "npu": "pmpd-16k",
        "schedules": ["p4:4"],
        "parameters": {"memory.bandwidth_bytes_per_s": bandwidth, "clock_hz": clock},
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "area_mm2", "direction": "minimize"},
            {"name": "energy_j_per_token", "direction": "minimize"},
        ],
        "sampler": "auto" if sampler == "exhaustive" else sampler,
        "budget": trials,
    }
    return parse_study(fields, "overhead")


@contextmanager
def _timed(cpu_s: Numbers, places: dict[str, list[tuple[Any, str]]]) -> Iterator[None]:
    """Add up the CPU seconds spent in functions, by the name of their group."""

    def timed(function: Callable[..., Any], group: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*args, **options)
            finally:
                cpu_s[group] = cpu_s.get(group, 0.0) + time.process_time() - begin

        return call

    before = [(owner, name, getattr(owner, name)) for group in places.values() for owner, name in group]
    for group, owners in places.items():
        for owner, name in owners:
            setattr(owner, name, timed(getattr(owner, name), group))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def measure_overhead(sampler: str, trials: int) -> Numbers:
    """Run a study with the free evaluator, and once more on what it recorded."""
    from dse import evaluation, explore, runner
    from dse.exact import EnumeratedSearch
    from dse.exploration import Exploration
    from dse.export import export
    from dse.log import LOG_NAME, LogWriter
    from dse.suggest import OptunaSuggester

    study = free_study(sampler, trials)
    cpu_s: Numbers = {}
    searches = (EnumeratedSearch, OptunaSuggester)
    places: dict[str, list[tuple[Any, str]]] = {
        "suggestion": [(owner, name) for owner in searches for name in ("__init__", "next_batch", "tell")],
        "log": [(LogWriter, "batch"), (LogWriter, "outcome")],
        "evaluation": [(evaluation, "evaluate_chunk")],
        "tables": [(runner, "build_exploration"), (Exploration, "write_tables")],
    }
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        with _timed(cpu_s, places):
            explore(study, out, evaluate=free_evaluator, progress=False)
        wall_s, total_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        again: Numbers = {}
        begin_cpu_s = time.process_time()
        with _timed(again, {"tables": places["tables"]}):
            explore(study, out, evaluate=free_evaluator, progress=False)
        resume_s = time.process_time() - begin_cpu_s
        found = {
            "wall_s": wall_s,
            "cpu_s": total_s,
            "trials_per_cpu_s": trials / (total_s - cpu_s["tables"]),
            **{f"{group}_ms": 1e3 * seconds / trials for group, seconds in cpu_s.items()},
            "bookkeeping_ms": 1e3 * (total_s - sum(cpu_s.values())) / trials,
            "resume_cpu_s": resume_s - again["tables"],
            "log_bytes": (out / LOG_NAME).stat().st_size / trials,
            "peak_rss_bytes": float(peak_bytes),
        }
        if trials == EXPORTED:
            begin_cpu_s = time.process_time()
            export(out, journal=out / "journal.log")
            found["export_cpu_s"] = time.process_time() - begin_cpu_s
    return found


def measure_speed_up(workers: int) -> Numbers:
    """Explore with the event engine by so many processes; 1 means this one alone."""
    from dse import explore, parse_study
    from studies.exploration_benchmark.kills import study_fields

    fields = study_fields("random", 0)
    fields |= {"budget": SPEED_UP_TRIALS, "batch_size": SPEED_UP_TRIALS}
    fields["workloads"] = [{"model": "vicuna-7b", "prompt_tokens": 32, "decode_tokens": 64}]
    with tempfile.TemporaryDirectory() as scratch:
        begin_s, times = time.perf_counter(), os.times()
        explore(parse_study(fields, "speed-up"), scratch, progress=False, workers=workers)
        now = os.times()
        cpu_s = sum(now[:4]) - sum(times[:4])
        return {"wall_s": time.perf_counter() - begin_s, "cpu_s": cpu_s}


def _in_a_process(*arguments: str | int) -> Numbers:
    found: Numbers = measured_apart("studies.exploration_benchmark.overhead", *arguments)
    return found | {"load": round(os.getloadavg()[0], 2)}


def _side_by_side() -> Numbers:
    """Two explorations at once that know nothing of each other: what the machine's second core gives."""
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(lambda _: _in_a_process("speed-up", 1), range(2)))
    return {
        "wall_s": max(one["wall_s"] for one in found),
        "cpu_s": sum(one["cpu_s"] for one in found),
        "load": max(one["load"] for one in found),
    }


def run(folder: Path, *, progress: bool) -> dict[str, Any]:
    """Measure everything; writes ``overhead.csv`` and ``speed_up.csv`` and returns the summary."""
    cells = [(sampler, count) for sampler, counts in COUNTS.items() for count in counts]
    rows = []
    for sampler, count in tqdm(cells, desc="overhead", disable=not progress, dynamic_ncols=True):
        rows.append({"sampler": sampler, "trials": count, **_in_a_process("overhead", sampler, count)})
        write_rows(folder / "overhead.csv", rows)
    ways: list[tuple[str, int, Callable[[], Numbers]]] = [
        ("one worker", SPEED_UP_TRIALS, lambda: _in_a_process("speed-up", 1)),
        ("two workers", SPEED_UP_TRIALS, lambda: _in_a_process("speed-up", 2)),
        ("two runs side by side", 2 * SPEED_UP_TRIALS, _side_by_side),
    ]
    speeds = [
        {"repeat": repeat, "way": way, "trials": trials, **measure()}
        for repeat, (way, trials, measure) in tqdm(
            list(product(range(SPEED_UP_REPEATS), ways)), desc="speed-up", disable=not progress, dynamic_ncols=True
        )
    ]
    write_rows(folder / "speed_up.csv", speeds)
    return summarise(rows, speeds)


def summarise(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Overhead by sampler and number of trials, and what a second worker gains."""
    ways = list(dict.fromkeys(row["way"] for row in speeds))
    middle = {
        number: {way: float(median(row[number] for row in speeds if row["way"] == way)) for way in ways}
        for number in ("wall_s", "cpu_s", "load")
    }
    wall_s = middle["wall_s"]

    def of(sampler: str) -> dict[str, Any]:
        return {str(row["trials"]): {name: row[name] for name in shown} for row in rows if row["sampler"] == sampler}

    shown = ("trials_per_cpu_s", "suggestion_ms", "log_ms", "bookkeeping_ms", "resume_cpu_s", "peak_rss_bytes")
    return {
        "overhead": {sampler: of(sampler) for sampler in COUNTS},
        "most_besides_the_sampler_ms": max(row["log_ms"] + row["bookkeeping_ms"] for row in rows),
        "export_of_10000_trials_cpu_s": {row["sampler"]: row["export_cpu_s"] for row in rows if "export_cpu_s" in row},
        "speed_up_with_2_workers": {
            "wall": wall_s["one worker"] / wall_s["two workers"],
            "most_this_machine_gives": 2 * wall_s["one worker"] / wall_s["two runs side by side"],
            "n": SPEED_UP_REPEATS,
            **middle,
        },
    }


if __name__ == "__main__":
    if sys.argv[1] == "overhead":
        print(json.dumps(measure_overhead(sys.argv[2], int(sys.argv[3]))))
    else:
        print(json.dumps(measure_speed_up(int(sys.argv[2]))))
