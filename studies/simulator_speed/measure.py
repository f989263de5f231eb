"""One measurement in a process of its own: ``python -m studies.simulator_speed.measure NAME`` prints JSON.

CPU seconds, not seconds by the clock: what else the machine does matters little. The process is tied to one core.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hwsim import NpuConfig, SimulationOptions, evaluate_grid, load_npu, load_shape, simulate
from hwsim.trace import ModelShape, Schedule, Trace, synthetic_trace

NPU = "pmpd-16k"
PROMPT_TOKENS, DECODE_TOKENS = 512, 256
HIGH_BITS, LOW_BITS = 4, 3
MACS = tuple(1 << exponent for exponent in range(12, 17))

Numbers = dict[str, float]


def _trace(shape: ModelShape, decode_tokens: int) -> Trace:
    """High precision for the prefill and the first half of the steps, low precision for the rest."""
    schedule = Schedule.from_pairs(HIGH_BITS, [(0, HIGH_BITS), (decode_tokens // 2, LOW_BITS)])
    return synthetic_trace(shape, schedule, prompt_tokens=PROMPT_TOKENS, decode_tokens=decode_tokens)


def _designs(bandwidths: int) -> list[NpuConfig]:
    """NPUs that differ in bandwidth and MACs."""
    return [
        load_npu(NPU, {"memory.bandwidth_bytes_per_s": 16e9 + index * 1e8, "matrix.macs": size})
        for index in range(bandwidths)
        for size in MACS
    ]


def events() -> Numbers:
    """A whole response of a 7B model by the event engine."""
    npu, shape = load_npu(NPU), load_shape("vicuna-7b")
    trace = _trace(shape, DECODE_TOKENS)
    begin = time.process_time()
    result = simulate(npu, shape, trace, SimulationOptions(engine="events"))
    cpu_s = time.process_time() - begin
    return {
        "cpu_s": cpu_s,
        "events_simulated": result.events_simulated,
        "events_memoised": result.events_memoised,
        "events_per_s": result.events_simulated / cpu_s,
        "cycles": result.cycles,
    }


def exact() -> Numbers:
    """A whole response of a 1.4B model, every stage simulated, and the same by the memo."""
    npu, shape = load_npu(NPU), load_shape("mobilellama-1.4b")
    trace = _trace(shape, 8)
    times, results = [], []
    for flag in (True, False):
        begin = time.process_time()
        results.append(simulate(npu, shape, trace, SimulationOptions(engine="events", exact=flag)))
        times.append(time.process_time() - begin)
    every, memo = results
    if every.columns.cycles.tolist() != memo.columns.cycles.tolist():
        raise AssertionError(f"exact simulation took {every.cycles} cycles, the memo {memo.cycles}")
    return {
        "cpu_s": times[0],
        "memo_cpu_s": times[1],
        "events_simulated": every.events_simulated,
        "events_per_s": every.events_simulated / times[0],
        "cycles": every.cycles,
        "memo_cycles": memo.cycles,
    }


def points() -> Numbers:
    """Distinct designs on one trace, every decode step evaluated."""
    shape = load_shape("vicuna-7b")
    trace = _trace(shape, DECODE_TOKENS)
    schedule = trace.header.schedule
    assert schedule is not None
    begin = time.process_time()
    npus = _designs(100)
    made = time.process_time()
    evaluate_grid(npus, shape, [schedule], prompt_tokens=PROMPT_TOKENS, decode_tokens=DECODE_TOKENS)
    end = time.process_time()
    simulate(npus[0], shape, trace, SimulationOptions(engine="fast"))
    single = time.process_time()
    return {
        "cpu_s": end - made,
        "points": len(npus),
        "points_per_s": len(npus) / (end - made),
        "configurations_per_s": len(npus) / (made - begin),
        "one_result_cpu_s": single - end,
    }


def grid() -> Numbers:
    """Bandwidth x MACs x schedule."""
    shape = load_shape("vicuna-7b")
    npus = _designs(40)
    schedules = [
        Schedule.from_pairs(HIGH_BITS, [(0, HIGH_BITS), (start, LOW_BITS)]) for start in range(1, DECODE_TOKENS)
    ]
    begin = time.process_time()
    evaluate_grid(npus, shape, schedules, prompt_tokens=PROMPT_TOKENS, decode_tokens=DECODE_TOKENS)
    cpu_s = time.process_time() - begin
    pairs = len(npus) * len(schedules)
    return {"cpu_s": cpu_s, "pairs": pairs, "pairs_per_s": pairs / cpu_s}


MEASUREMENTS: dict[str, Callable[[], Numbers]] = {"events": events, "exact": exact, "points": points, "grid": grid}


def _peak_rss_bytes() -> int:
    """Peak resident memory of this process; ``ru_maxrss`` would count what its parent held when it was started."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(name: str) -> None:
    """Print what one measurement found, with what the whole process took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = MEASUREMENTS[name]()
    print(json.dumps({**found, "process_cpu_s": time.process_time(), "peak_rss_bytes": _peak_rss_bytes()}))


if __name__ == "__main__":
    main(sys.argv[1])
