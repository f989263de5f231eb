"""More processes settle the space that one settles, to the same numbers, also where one of them is killed."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import dse.exact
from dse.candidates import Candidates
from dse.design_grid import DesignGrid
from dse.evaluation import WorkerSpec
from dse.exact import EnumeratedSearch
from dse.grid_workers import GridWorkers
from dse.problem import prepare
from dse.study import parse_study

FIELDS = {
    "workloads": [{"model": "phi-1.5", "prompt_tokens": 9, "decode_tokens": 7}],
    "npu": "pmpd-4k",
    "schedules": ["p4:4>3@5", "p4:3"],
    "parameters": {
        "memory.bandwidth_bytes_per_s": {"type": "log", "low": 4e9, "high": 64e9, "points": 60},
        "matrix.macs": {"type": "categorical", "choices": [1 << exponent for exponent in range(8, 15)]},
        "sfu.lanes": {"type": "int", "low": 1, "high": 16, "step": 1},
    },
    "objectives": [
        {"name": "decode_tokens_per_s", "direction": "maximize"},
        {"name": "area_mm2", "direction": "minimize"},
        {"name": "mean_decode_bits", "direction": "maximize"},
    ],
    "sampler": "exact",
    "budget": None,
}


@pytest.fixture(scope="module")
def problem():
    return prepare(parse_study(FIELDS, "s"))


def together(parts, count):
    """Metrics of all parts in their places; a place that no part has is NaN."""
    found = {}
    for places, metrics in parts:
        for name, values in metrics.items():
            found.setdefault(name, np.full(count, np.nan))[places] = values
    return found


@pytest.mark.slow
def test_parts_of_a_space_give_the_numbers_of_the_whole(problem):
    grid = DesignGrid(problem.evaluate, Candidates.enumerate(problem.space))
    rows = np.random.default_rng(0).permutation(len(grid.npu))
    alone = grid.metrics(rows)
    workers = GridWorkers(WorkerSpec.of(problem).pickled(), 1)
    try:
        shared = together(workers.metrics(grid, rows, None), len(rows))
        os.kill(workers.processes()[0], signal.SIGKILL)
        without = together(workers.metrics(grid, rows, None), len(rows))
    finally:
        workers.close()
    for found in (shared, without):
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.slow
def test_the_search_is_the_same_with_two_processes(problem, monkeypatch):
    monkeypatch.setattr(dse.exact, "SHARED_DESIGNS", 1)
    certificates = []
    for workers in (1, 2):
        spec = WorkerSpec.of(problem).pickled()
        search = EnumeratedSearch(problem, bounded=True, progress=False, spec=spec, workers=workers)
        certificates.append((search.settle(), search.next_batch(0, 10**6).designs))
    assert certificates[0] == certificates[1]
