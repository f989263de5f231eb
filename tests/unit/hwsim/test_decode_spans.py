"""Steps whose cycles are proved take what running them takes, and few of them are run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsim.decode_spans
import hwsim.stacked_steps
from hwsim.checks import step_precision
from hwsim.decode_spans import DecodeSpans
from hwsim.fast import run_program
from hwsim.load import load_npu
from hwsim.lowering import build_lowering
from hwsim.npu_table import NpuTable
from hwsim.plan import DECODE
from hwsim.stacked_steps import NpuStacks, StackedSteps, StepKey, is_separable
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import decode_step
from hwsim_strategies import OVERRIDES, TINY, shapes

KEY = StepKey(DECODE, 4)


def header(shape):
    return synthetic_trace(shape, Schedule.uniform(4), prompt_tokens=1, decode_tokens=1).header


def run_each(npu, shape, tokens):
    """Cycles of every step, none of them proved."""
    precision = step_precision(npu, header(shape), KEY.weight_bits)
    program = build_lowering(npu, precision, shape.hidden_size).program(decode_step(shape, precision, tokens))
    return run_program(program, tokens.shape)


def stacked(npus, shape, tokens):
    steps = StackedSteps(NpuStacks(NpuTable.of(npus)), shape, header(shape))
    found = np.zeros((len(npus), len(tokens)), dtype=np.int64)
    for rows in steps.stacks:
        found[rows] = steps.cycles(KEY, tokens, rows)
    return found


@pytest.fixture
def runs(monkeypatch):
    """Lanes that were run, by where."""
    lanes = {"spans": 0, "whole": 0}

    def counting(where):
        def run(program, shape):
            lanes[where] += shape[0] * shape[1]
            return run_program(program, shape)

        return run

    monkeypatch.setattr(hwsim.decode_spans, "run_program", counting("spans"))
    monkeypatch.setattr(hwsim.stacked_steps, "run_program", counting("whole"))
    return lanes


def test_steps_are_arranged_by_their_last_tile():
    spans = DecodeSpans.of(np.array([9, 10, 11, 12, 13, 14]), 4)
    assert spans.tiles.tolist() == [3, 3, 3, 3, 4, 4]
    assert spans.kind.tolist() == [0, 1, 2, 3, 0, 1]  # last tiles of 1, 2, 3, 4, 1, 2 tokens
    assert (spans.first.tolist(), spans.last.tolist()) == ([0, 1, 2, 3], [4, 5, 2, 3])
    assert spans.ends.tolist() == [0, 1, 2, 3, 4, 5]


NO_WAIT = {"buffers.kv_kib": 4, "memory.timing.controller_latency_ns": 0}


# Half of 4 KiB holds 16 tokens of 128 bytes each: the steps are of 16 kinds.
@pytest.mark.parametrize(
    ("overrides", "spans", "whole"),
    [
        ({"memory.bandwidth_bytes_per_s": 1e9}, 3, 0),  # the memory decides: three corners of the box of all steps
        ({"matrix.macs": 64, "matrix.bit_serial": True}, 3, 0),  # the array decides
        ({"matrix.macs": 64, "sfu.lanes": 2, "memory.bandwidth_bytes_per_s": 64e9}, 3 + 2 * 16, 0),  # this or that
        ({"matrix.macs": 256, "memory.bandwidth_bytes_per_s": 64e9}, 3, 200),  # round trips decide: nothing is known
        ({"sfu.lanes": 1, "memory.bandwidth_bytes_per_s": 16e9}, 3 + 2 * 16, 200),  # more tiles make another decide
    ],
)
def test_few_steps_are_run(runs, overrides, spans, whole):
    npu = load_npu("pmpd-4k", NO_WAIT | overrides)
    tokens = np.arange(100, 300)
    np.testing.assert_array_equal(stacked([npu], TINY, tokens)[0], run_each(npu, TINY, tokens))
    assert runs == {"spans": spans, "whole": whole}


def test_steps_in_any_order_and_of_few_tiles_are_right():
    npus = [load_npu("pmpd-4k", {"buffers.kv_kib": 4, "sfu.lanes": lanes}) for lanes in (1, 5, 16)]
    tokens = np.random.default_rng(0).permutation(np.arange(1, 200))
    found = stacked(npus, TINY, tokens)
    for row, npu in enumerate(npus):
        np.testing.assert_array_equal(found[row], run_each(npu, TINY, tokens))


def check(shape, overrides, first, steps, beside):
    try:
        npus = [load_npu("pmpd-4k", {**overrides, **changes}) for changes in ({}, *beside)]
    except InputError:
        return
    tokens = np.arange(first, first + steps)
    if not all(is_separable(npu) for npu in npus):
        return
    found = stacked(npus, shape, tokens)
    for row, npu in enumerate(npus):
        try:
            expected = run_each(npu, shape, tokens)
        except InputError:
            expected = np.full(len(tokens), -1)
        np.testing.assert_array_equal(found[row], expected)


CHANGES = st.lists(
    st.fixed_dictionaries(
        {
            "memory.bandwidth_bytes_per_s": st.floats(1e8, 2e12),
            "sfu.lanes": st.integers(1, 64),
            "matrix.macs": st.integers(6, 16).map(lambda exponent: 1 << exponent),
        }
    ),
    max_size=4,
)
CASES = (shapes(), OVERRIDES, st.integers(1, 600), st.integers(7, 200), CHANGES)


@settings(max_examples=25, deadline=None)
@given(*CASES)
def test_proved_steps_take_what_running_them_takes(shape, overrides, first, steps, beside):
    check(shape, overrides, first, steps, beside)


@pytest.mark.full
@settings(max_examples=5000, deadline=None)
@given(*CASES)
def test_thousands_of_random_npus_and_models_take_what_running_them_takes(shape, overrides, first, steps, beside):
    check(shape, overrides, first, steps, beside)
