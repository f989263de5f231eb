"""How long the exact search takes for 10^4 to 10^6 designs, the confirmation on the event engine aside.

Each search runs in a process of its own, since memory is never given back, alone and with a second process beside it,
each on one thread. The goal is one of wall-clock time on two cores; CPU seconds of all processes and the machine's load
stand beside it, since others may use the machine too. Time begins when this process has loaded its packages; the second
process loads them meanwhile. No quality was measured for so many schedules, so ``mean_decode_bits``, to be maximised,
stands where a study has quality.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from hwsim.trace import Schedule
from studies.common.output import write_rows
from studies.common.timing import measured_apart

REPEATS = {10_000: 3, 100_000: 3, 1_000_000: 3}
"""Searches by number of designs."""

WORKERS = (1, 2)
GOAL_DESIGNS, GOAL_S, GOAL_WORKERS = 1_000_000, 10.0, 2
PROMPT_TOKENS, DECODE_TOKENS = 512, 256
MODEL, NPU = "vicuna-7b", "pmpd-4k"

SPEED = {"name": "decode_tokens_per_s", "direction": "maximize"}
BITS = {"name": "mean_decode_bits", "direction": "maximize"}
BANDWIDTH = {"name": "bandwidth_bytes_per_s", "direction": "minimize"}
AREA = {"name": "area_mm2", "direction": "minimize"}

Numbers = dict[str, Any]


def schedules(count: int) -> list[str]:
    """Schedules that fall once, spread over widths and switch steps."""
    every = [
        Schedule.from_pairs(prefill, [(0, high), (step, low)]).label()
        for prefill in (4, 3)
        for high, low in ((4, 3), (4, 2), (3, 2))
        for step in range(1, DECODE_TOKENS)
    ]
    return [every[index] for index in np.linspace(0, len(every) - 1, count).round().astype(int)]


def _choices(values: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": [float(value) for value in values]}


def _hardware(bandwidths: int, buffers: int, lanes: int) -> dict[str, Any]:
    return {
        "memory.bandwidth_bytes_per_s": _choices(np.linspace(8e9, 512e9, bandwidths)),
        "matrix.macs": {"type": "categorical", "choices": [1 << exponent for exponent in range(10, 15)]},
        "buffers.weight_kib": _choices(64 * (1 + np.arange(buffers))),
        "sfu.lanes": {"type": "categorical", "choices": [4 * (1 + index) for index in range(lanes)]},
    }


def many_schedules(size: int) -> dict[str, Any]:
    """Few NPUs times 500 schedules."""
    npus = size // 500
    return {
        "parameters": _hardware(max(1, npus // 50), min(10, npus // 5 or 1), 1),
        "schedules": schedules(500),
        "objectives": [SPEED, BITS, BANDWIDTH],
    }


def many_npus(size: int) -> dict[str, Any]:
    """Many NPUs times 10 schedules."""
    return {
        "parameters": _hardware(size // 5_000, 10, 10),
        "schedules": schedules(10),
        "objectives": [SPEED, BITS, AREA],
    }


def conditional(size: int) -> dict[str, Any]:
    """Bit-serial arrays have one weight buffer, others ten; lanes matter for schedules with a prefill of 4 bits."""
    hardware = _hardware(size // 8_250, 10, 5)
    hardware["matrix.bit_serial"] = {"type": "categorical", "choices": [False, True]}
    hardware["buffers.weight_kib"] |= {"when": {"matrix.bit_serial": False}}
    hardware["sfu.lanes"] |= {"when": {"schedule.prefill_weight_bits": 4}}
    order = ["memory.bandwidth_bytes_per_s", "matrix.macs", "matrix.bit_serial", "buffers.weight_kib", "sfu.lanes"]
    return {
        "parameters": {path: hardware[path] for path in order},
        "schedules": schedules(50),
        "objectives": [SPEED, BITS, BANDWIDTH, AREA],
    }


SHAPES = {"many-schedules": many_schedules, "many-npus": many_npus, "conditional": conditional}


def measure(shape: str, size: int, workers: int) -> Numbers:
    """Search one space in this process, and in others beside it."""
    from dse.evaluation import WorkerSpec
    from dse.exact import EnumeratedSearch
    from dse.problem import prepare
    from dse.study import parse_study

    fields = {
        "name": shape,
        "npu": NPU,
        "workloads": [{"model": MODEL, "prompt_tokens": PROMPT_TOKENS, "decode_tokens": DECODE_TOKENS}],
        "engine": "fast",
        "sampler": "exact",
        "budget": None,
        "constraints": [{"name": "ttft_s", "op": "<=", "bound": 20}, {"name": "area_mm2", "op": "<=", "bound": 60}],
        **SHAPES[shape](size),
    }
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    problem = prepare(parse_study(fields, shape))
    spec = WorkerSpec.of(problem).pickled()
    search = EnumeratedSearch(problem, bounded=True, progress=False, spec=spec, workers=workers)
    bounds_s = time.perf_counter() - began_s
    counts = search.settle()
    wall_s, own_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "designs": problem.space.size(),
        **counts,
        "bounds_s": bounds_s,
        "settle_s": wall_s - bounds_s,
        "cpu_s": own_s + others.ru_utime + others.ru_stime,
        "wall_s": wall_s,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "load": os.getloadavg()[0],
    }


def run(folder: Path, *, progress: bool) -> dict[str, Any]:
    """Measure every shape at every size, write ``exact_speed.csv``, and say whether the goal is met."""
    rows: list[Numbers] = []
    every = [
        (shape, size, workers, repeat)
        for shape in SHAPES
        for size, repeats in REPEATS.items()
        for workers in WORKERS
        for repeat in range(repeats)
    ]
    for shape, size, workers, repeat in tqdm(every, desc="exact-speed", disable=not progress, dynamic_ncols=True):
        found = measured_apart("studies.exploration_benchmark.exact_speed", shape, size, workers)
        rows.append({"space": shape, "size": size, "workers": workers, "repeat": repeat, **found})
    write_rows(folder / "exact_speed.csv", rows)
    summary = []
    for shape, size, workers in dict.fromkeys((row["space"], row["size"], row["workers"]) for row in rows):
        mine = [row for row in rows if (row["space"], row["size"], row["workers"]) == (shape, size, workers)]
        numbers = {
            name: median(row[name] for row in mine)
            for name in (
                "designs",
                "npus",
                "left",
                "all_steps",
                "bounds_s",
                "cpu_s",
                "wall_s",
                "peak_rss_bytes",
                "load",
            )
        }
        judged = (size, workers) == (GOAL_DESIGNS, GOAL_WORKERS)
        goal = {"met": numbers["wall_s"] < GOAL_S} if judged else {}
        summary.append({"space": shape, "size": size, "workers": workers, "n": len(mine), **numbers, **goal})
    return {"goal_s": GOAL_S, "goal_designs": GOAL_DESIGNS, "goal_workers": GOAL_WORKERS, "medians": summary}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
