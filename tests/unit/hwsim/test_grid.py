"""A grid gives for each pair what simulating the pair gives."""

from __future__ import annotations

import numpy as np
import pytest

from hwsim.grid import evaluate_grid
from hwsim.load import load_npu
from hwsim.roofline import roofline_cycles
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim_strategies import TINY

SCHEDULES = (
    Schedule.uniform(4),
    Schedule.uniform(2, prefill_weight_bits=16),
    Schedule.from_pairs(4, [(0, 4), (3, 3), (7, 2)]),
    Schedule.from_pairs(8, [(0, 2), (5, 8)]),
    Schedule.from_pairs(3, [(0, 3), (100, 2)]),
)
# Pairwise different in every way a stack allows, and in some it does not (two clocks, two KV buffers, steps that
# depend on each other).
OVERRIDES = (
    {},
    {"matrix.macs": 256, "sfu.lanes": 3},
    {"memory.bandwidth_bytes_per_s": 0.7e9, "buffers.weight_kib": 2, "cost.node": "14nm"},
    {"memory.bandwidth_bytes_per_s": 1.1e12, "buffers.codebook_kib": 2, "matrix.macs": 65536},
    {"clock_hz": 225e6, "matrix.lookups_per_cycle.4": 2},
    {"buffers.kv_kib": 1, "sfu.lanes": 1},
    {"control.prefetch": "assume-unchanged"},
    {"buffers.resident_codebook_kib": 16},
)


def test_every_pair_equals_its_own_simulation():
    npus = [load_npu("pmpd-4k", overrides) for overrides in OVERRIDES]
    grid = evaluate_grid(npus, TINY, SCHEDULES, prompt_tokens=40, decode_tokens=12, kv_bits=8, lm_head_bits=4)
    for row, npu in enumerate(npus):
        for column, schedule in enumerate(SCHEDULES):
            trace = synthetic_trace(TINY, schedule, prompt_tokens=40, decode_tokens=12, kv_bits=8, lm_head_bits=4)
            one = simulate(npu, TINY, trace, SimulationOptions(engine="events"))
            cell = row, column
            assert grid.prefill_cycles[cell] == one.columns.cycles[0]
            assert grid.decode_cycles[cell] == one.columns.cycles[1:].sum()
            assert grid.dram_bytes[cell] == one.dram_bytes
            assert grid.decode_tokens_per_s[cell] == pytest.approx(one.decode_tokens_per_s)
            assert grid.e2e_s[cell] == pytest.approx(one.e2e_s)
            assert grid.energy_j[cell] == pytest.approx(one.energy_j)
            assert grid.area_mm2[row] == pytest.approx(one.area_mm2)


def test_a_grid_of_a_real_model_stays_above_its_roofline():
    shape = load_shape("mobilellama-1.4b")
    bandwidths = np.geomspace(4e9, 400e9, 7)
    npus = [load_npu("pmpd-4k", {"memory.bandwidth_bytes_per_s": float(value)}) for value in bandwidths]
    schedule = Schedule.from_pairs(4, [(0, 4), (6, 3)])
    grid = evaluate_grid(npus, shape, [schedule], prompt_tokens=100, decode_tokens=20)
    trace = synthetic_trace(shape, schedule, prompt_tokens=100, decode_tokens=20)
    total = grid.prefill_cycles[:, 0] + grid.decode_cycles[:, 0]
    assert (total >= [roofline_cycles(npu, shape, trace) for npu in npus]).all()
    assert (np.diff(total) <= 0).all()


def test_without_decode_steps_the_rate_is_undefined():
    grid = evaluate_grid([load_npu("pmpd-4k")], TINY, [Schedule.uniform(3)], prompt_tokens=5, decode_tokens=0)
    assert np.isnan(grid.decode_tokens_per_s).all()
    assert (grid.e2e_s > 0).all()


def test_bad_grids_are_refused_before_anything_runs():
    npu = load_npu("pmpd-4k")
    with pytest.raises(InputError, match="grid of 0 NPUs"):
        evaluate_grid([], TINY, SCHEDULES, prompt_tokens=5, decode_tokens=5)
    narrow = load_npu("pmpd-4k", {"matrix.weight_widths": [2, 3]})
    with pytest.raises(InputError, match="pmpd-4k supports 2, 3"):
        evaluate_grid([npu, narrow], TINY, SCHEDULES, prompt_tokens=5, decode_tokens=5)
    own = load_npu("pmpd-4k", {"matrix.weight_widths": [4, 8], "matrix.lookups_per_cycle": {4: 4096, 8: 256}})
    with pytest.raises(InputError, match="weight_bits = 2: pmpd-4k supports 4, 8"):
        evaluate_grid([own], TINY, [Schedule.uniform(2)], prompt_tokens=5, decode_tokens=5)
    small = load_npu("pmpd-4k", {"buffers.weight_kib": 0.05})
    with pytest.raises(InputError, match=r"buffers.weight_kib = 0.05: one row of"):
        evaluate_grid([npu, small], TINY, SCHEDULES, prompt_tokens=5, decode_tokens=5)
    with pytest.raises(InputError, match="tiny holds at most 512 tokens"):
        evaluate_grid([npu], TINY, SCHEDULES, prompt_tokens=506, decode_tokens=7)
