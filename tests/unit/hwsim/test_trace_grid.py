"""Traces of any lengths on many NPUs give what simulating each pair gives, and some steps give a lower bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.analytic import AnalyticSteps
from hwsim.load import load_npu
from hwsim.npu_table import NpuTable
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, Schedule, Trace, synthetic_trace
from hwsim.trace_grid import TraceCounts, evaluate_traces
from hwsim_strategies import TINY

OVERRIDES = (
    {},
    {"matrix.macs": 256, "sfu.lanes": 3, "memory.bandwidth_bytes_per_s": 0.7e9},
    {"buffers.codebook_kib": 2, "matrix.weight_widths": [2, 3, 4], "cost.node": "14nm"},
    {"clock_hz": 225e6, "control.decode_bucket_tokens": 8},
    {"buffers.weight_kib": 0.25},
    {"buffers.kv_kib": 1, "memory.capacity_bytes": 100_000},
)


def make_trace(widths: list[list[int]], prompts: list[int], scheduler: str = "static") -> Trace:
    """One sequence for each list of widths; the first is the prefill's, then runs of three steps each."""
    made = synthetic_trace(TINY, Schedule.uniform(4), prompt_tokens=1, decode_tokens=1, sequences=len(widths))
    sequences = tuple(
        one.model_copy(
            update={
                "prompt_tokens": prompt,
                "generated_tokens": 1 + 3 * len(bits[1:]),
                "prefill_weight_bits": bits[0],
                "decode_weight_bits": tuple((width, 3) for width in bits[1:]),
            }
        )
        for one, bits, prompt in zip(made.sequences, widths, prompts, strict=True)
    )
    return Trace(header=made.header.model_copy(update={"scheduler": scheduler}), sequences=sequences)


TRACES = (
    make_trace([[4, 4, 3], [4, 4, 3, 2]], [9, 30]),
    make_trace([[8, 5]], [17]),
    make_trace([[4, 2, 4, 2], [3, 3]], [5, 6], scheduler="learned"),
    make_trace([[16, 16]], [500]),
    make_trace([[4, 4]], [511]),
)


@pytest.mark.parametrize("mode", ["realistic", "pmpd-analytic"])
def test_every_pair_equals_its_own_simulation(mode):
    npus = [load_npu("pmpd-4k", overrides) for overrides in OVERRIDES]
    table = NpuTable.of(npus)
    steps = AnalyticSteps(table, TINY) if mode == "pmpd-analytic" else None
    grid = evaluate_traces(table, TINY, [TraceCounts.of(trace) for trace in TRACES], steps=steps)
    for row, npu in enumerate(npus):
        for column, trace in enumerate(TRACES):
            cell = row, column
            try:
                one = simulate(npu, TINY, trace, SimulationOptions(mode=mode, engine="fast"))
            except InputError:
                assert not grid.runs[cell]
                continue
            assert grid.runs[cell]
            cycles = one.columns.cycles
            assert grid.prefill_cycles[cell] == cycles[one.columns.step == -1].sum()
            assert grid.scheduler_cycles[cell] == cycles[one.columns.step == -2].sum()
            assert grid.decode_cycles[cell] == cycles[one.columns.step >= 0].sum()
            assert grid.dram_bytes[cell] == one.dram_bytes
            work = {name: joules for name, joules in one.energy_by_component_j.items() if name != "static"}
            assert grid.work_j[cell] == sum(work.values())
    assert grid.runs.any(axis=0).tolist() == [True, True, True, True, False]


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(2, 40),
    st.sampled_from([0.25, 1, 4]),
    st.sampled_from([0.125, 64]),
    st.sampled_from([256, 4096]),
    st.integers(1, 5),
)
def test_some_steps_bound_all_of_them(prompt, tokens, kv_kib, global_kib, macs, samples):
    overrides = {"buffers.kv_kib": kv_kib, "buffers.global_kib": global_kib, "matrix.macs": macs}
    table = NpuTable.of([load_npu("pmpd-4k", overrides), load_npu("pmpd-4k", {**overrides, "sfu.lanes": 1})])
    trace = synthetic_trace(
        TINY, Schedule.from_pairs(4, [(0, 4), (tokens // 2, 2)]), prompt_tokens=prompt, decode_tokens=tokens
    )
    counts = [TraceCounts.of(trace)]
    exact, bound = evaluate_traces(table, TINY, counts), evaluate_traces(table, TINY, counts, samples=samples)
    assert (bound.decode_cycles <= exact.decode_cycles).all()
    for name in ("runs", "prefill_cycles", "dram_bytes", "work_j"):
        np.testing.assert_array_equal(getattr(bound, name), getattr(exact, name))


def test_a_cache_buffer_too_small_for_a_token_stops_its_own_npu_only():
    """Found by fuzzing: the steps that bound the others are chosen for each stack, also for one that cannot run."""
    sizes = (0.05, 2, 64)
    table = NpuTable.of([load_npu("pmpd-4k", {"buffers.kv_kib": size}) for size in sizes])
    counts = [TraceCounts.of(synthetic_trace(TINY, Schedule.uniform(4), prompt_tokens=9, decode_tokens=40))]
    grid = evaluate_traces(table, TINY, counts, samples=3)
    assert grid.runs[:, 0].tolist() == [False, True, True]
    exact = evaluate_traces(table, TINY, counts)
    assert (grid.runs == exact.runs).all() and (grid.decode_cycles <= exact.decode_cycles).all()
