"""Length buckets: one instruction stream for all lengths up to the next multiple."""

from __future__ import annotations

import numpy as np
import pytest

from hwsim.checks import check_trace, step_precision
from hwsim.grid import evaluate_grid
from hwsim.load import load_npu
from hwsim.precision import Precision
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.step_profile import profile_step
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import Attention, KvAppend, Linear, decode_step, learned_scheduler_step, prefill_step

BUCKETS = {"control.prefill_bucket_tokens": 128, "control.decode_bucket_tokens": 16}
PADDED = Precision(4, prefill_bucket_tokens=128, decode_bucket_tokens=16)
SHAPE = load_shape("mobilellama-1.4b")


def _operators(step, kind):
    return [operator for part in (step.runs[0].block, step.tail) for operator in part if isinstance(operator, kind)]


@pytest.mark.parametrize(("prompt", "computed"), [(1, 128), (127, 128), (128, 128), (129, 256)])
def test_a_prefill_is_that_of_the_next_multiple_with_one_lm_head(prompt, computed):
    step = prefill_step(SHAPE, PADDED, prompt)
    exact = prefill_step(SHAPE, Precision(4), computed)
    assert step == exact
    assert _operators(step, Linear)[-1].tokens == 1


@pytest.mark.parametrize(("cached", "read"), [(0, 15), (14, 15), (15, 15), (16, 31), (31, 31), (32, 47)])
def test_a_decode_step_attends_to_the_next_multiple_of_its_context(cached, read):
    step = decode_step(SHAPE, PADDED, cached)
    assert _operators(step, Attention)[0].cached == read
    # Its own token is the only new one.
    assert _operators(step, KvAppend)[0].bytes == _operators(decode_step(SHAPE, Precision(4), 5), KvAppend)[0].bytes
    assert [linear.tokens for linear in _operators(step, Linear)] == [1] * 8


def test_many_contexts_are_padded_one_by_one_and_so_is_the_learned_scheduler():
    attention = _operators(decode_step(SHAPE, PADDED, np.array([3, 15, 16])), Attention)[0]
    assert attention.cached.tolist() == [15, 15, 31]
    assert _operators(learned_scheduler_step(SHAPE, PADDED, 17), Attention)[0].cached == 31


def test_every_length_of_a_bucket_takes_the_same_cycles_in_every_way_to_run_it():
    npu = load_npu("pmpd-4k", BUCKETS)
    schedule = Schedule.uniform(3)
    trace = synthetic_trace(SHAPE, schedule, prompt_tokens=100, decode_tokens=30)
    fast, events = (simulate(npu, SHAPE, trace, SimulationOptions(engine=engine)) for engine in ("fast", "events"))
    cycles = fast.columns.cycles
    assert cycles.tolist() == events.columns.cycles.tolist()
    # Contexts 101..112, 113..128 and 129, 130 make three streams behind the prefill's.
    changes = np.flatnonzero(np.diff(cycles[1:])) + 1
    assert changes.tolist() == [12, 28]
    longer = synthetic_trace(SHAPE, schedule, prompt_tokens=128, decode_tokens=30)
    exact = simulate(load_npu("pmpd-4k"), SHAPE, longer, SimulationOptions(engine="fast"))
    assert cycles[0] == exact.columns.cycles[0]
    grid = evaluate_grid([npu], SHAPE, [schedule], prompt_tokens=100, decode_tokens=30)
    assert (grid.prefill_cycles[0, 0], grid.decode_cycles[0, 0]) == (cycles[0], cycles[1:].sum())
    batched = trace.model_copy(update={"header": trace.header.model_copy(update={"execution": "batched"})})
    assert simulate(npu, SHAPE, batched, SimulationOptions(engine="fast")).columns.cycles.tolist() == cycles.tolist()
    profile = profile_step(npu, SHAPE, trace.header, weight_bits=3, cached_tokens=105)
    assert profile.cycles == cycles[6]


def test_npus_of_other_buckets_are_not_evaluated_as_one():
    npus = [load_npu("pmpd-4k", {"control.decode_bucket_tokens": bucket}) for bucket in (1, 64)]
    lengths = {"prompt_tokens": 70, "decode_tokens": 4}
    grid = evaluate_grid(npus, SHAPE, [Schedule.uniform(3)], **lengths)
    for row, npu in enumerate(npus):
        alone = evaluate_grid([npu], SHAPE, [Schedule.uniform(3)], **lengths)
        assert grid.decode_cycles[row] == alone.decode_cycles[0]
    assert grid.decode_cycles[0] < grid.decode_cycles[1]


def test_the_cache_has_room_for_the_padding():
    assert PADDED.cache_tokens(100, 0) == 128
    assert PADDED.cache_tokens(100, 29) == 144
    assert PADDED.cache_tokens(200, 3) == 256
    assert Precision(4).cache_tokens(100, 29) == 129
    trace = synthetic_trace(SHAPE, Schedule.uniform(4), prompt_tokens=1, decode_tokens=0)
    exact = load_npu("pmpd-4k")
    with pytest.raises(InputError, match="needs (\\d+)") as caught:
        check_trace(load_npu("pmpd-4k", {"memory.capacity_bytes": 1}), SHAPE, trace)
    needed = int(str(caught.value).split("needs ")[1].split()[0])
    fits = {"memory.capacity_bytes": needed}
    check_trace(load_npu("pmpd-4k", fits), SHAPE, trace)
    with pytest.raises(InputError, match="128 tokens of KV cache"):
        check_trace(load_npu("pmpd-4k", {**fits, **BUCKETS}), SHAPE, trace)
    assert step_precision(exact, trace.header, 4) == Precision(4)


def test_the_flightllm_npus_have_its_buckets():
    for name in ("flightllm-u280", "flightllm-vhk158"):
        control = load_npu(name).control
        assert (control.prefill_bucket_tokens, control.decode_bucket_tokens) == (128, 16)


@pytest.mark.parametrize("path", BUCKETS)
@pytest.mark.parametrize("value", [0, -16, 1 << 17, "many"])
def test_a_bucket_is_a_positive_number_of_tokens(path, value):
    with pytest.raises(InputError, match=f"{path} = "):
        load_npu("pmpd-4k", {path: value})
