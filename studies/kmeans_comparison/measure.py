"""Timing in a process of its own: ``python -m studies.kmeans_comparison.measure ROWS CORES REPEATS`` prints JSON.

On one core CPU seconds are counted, on several seconds by the clock. All methods take turns within a repeat, after one
round that compiles them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from studies.kmeans_comparison.methods import ORIGINAL_ITERATIONS, original, ours, scikit_learn
from studies.kmeans_comparison.rows import FISHER, Part

# Seed and parent width: the paper's, every width from each seed, and the seeds alone.
RANGES = ((2, 4), (2, 8), (3, 8), (4, 8), (2, 2), (3, 3), (4, 4))
OURS, JOINT, ORIGINAL = "ours", "ours, jointly", "original"
PRESORTED, SCIKIT_LEARN = "original, sorted by numpy", "scikit-learn"
# How many bits above the seed clusters are chosen jointly.
JOINT_BITS = 2
# scikit-learn takes milliseconds a row.
SCIKIT_LEARN_ROWS = 16


def jobs(part: Part) -> list[tuple[str, int, int, int, Callable[[], Any]]]:
    """Method, seed width, parent width, number of weights, and what to time."""
    few = Part(part.model, part.weighting, part.values[:SCIKIT_LEARN_ROWS], part.weights[:SCIKIT_LEARN_ROWS])
    found: list[tuple[str, int, int, int, Callable[[], Any]]] = []
    for low, high in RANGES:
        theirs = partial(original, part, low, high, ORIGINAL_ITERATIONS)
        found.append((OURS, low, high, part.values.size, partial(ours, part, low, high)))
        found.append((ORIGINAL, low, high, part.values.size, theirs))
        found.append((PRESORTED, low, high, part.values.size, partial(theirs, sorts_itself=False)))
        if low + JOINT_BITS <= high:
            found.append((JOINT, low, high, part.values.size, partial(ours, part, low, high, low + JOINT_BITS)))
        if low == high:
            found.append((SCIKIT_LEARN, low, high, few.values.size, partial(scikit_learn, few, low)))
    return found


def measure(parts: list[Part], cores: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds per million weights of every method, seed and parent width, and repeat."""
    clock = time.process_time if cores == 1 else time.perf_counter
    rows: list[dict[str, Any]] = []
    for repeat in range(-1, repeats):
        for part in parts:
            for method, low, high, weights, work in jobs(part):
                begin = clock()
                work()
                seconds = clock() - begin
                if repeat < 0:
                    continue
                rows.append(
                    {
                        "rows": part.model,
                        "cores": cores,
                        "clock": "CPU" if cores == 1 else "wall",
                        "method": method,
                        "seed_bits": low,
                        "parent_bits": high,
                        "repeat": repeat,
                        "seconds_per_million_weights": seconds / weights * 1e6,
                    }
                )
    return rows


def main(rows: str, cores: int, repeats: int) -> None:
    """Measure the rows of an npz file, ``{name}.values`` and ``{name}.weights``, on so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    with np.load(Path(rows)) as arrays:
        names = [key.removesuffix(".values") for key in arrays.files if key.endswith(".values")]
        parts = [Part(name, FISHER, arrays[f"{name}.values"], arrays[f"{name}.weights"]) for name in names]
    print(json.dumps(measure(parts, cores, repeats)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
