"""A second memory: what lies in it, when it helps, and that both engines see the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hwsim.config import NpuConfig
from hwsim.cost import DRAM_PJ_PER_BIT
from hwsim.load import load_npu
from hwsim.roofline import roofline_cycles
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import kv_cache_bytes
from hwsim_strategies import TINY

CONTENTS = {"kv": ("kv_read", "kv_append"), "embedding": ("embedding",), "activations": ("activations",)}


def _npu(holds, overrides=None, **memory) -> NpuConfig:
    fields = load_npu("pmpd-4k", overrides or {}).model_dump()
    second = fields["memory"] | {"holds": holds, "technology": "hbm2"} | memory
    return NpuConfig.model_validate(fields | {"second_memory": second})


def _run(npu, *, prompt=40, steps=10, engine="events", **options):
    trace = synthetic_trace(TINY, Schedule.from_pairs(4, [(0, 4), (5, 2)]), prompt_tokens=prompt, decode_tokens=steps)
    return simulate(npu, TINY, trace, SimulationOptions(engine=engine, **options))


@pytest.mark.parametrize("holds", [("kv",), ("embedding",), ("activations",), ("kv", "embedding", "activations")])
def test_only_what_it_holds_crosses_its_bus(holds):
    spills = {"buffers.activation_kib": 4, "buffers.kv_kib": 1}
    result = _run(_npu(holds, spills))
    held = sum(result.bytes_by_kind[kind] for content in holds for kind in CONTENTS[content])
    assert held > 0
    energy = result.energy_by_component_j
    assert energy["second_dram"] == pytest.approx(held * 8 * DRAM_PJ_PER_BIT["hbm2"] / 1e12)
    assert energy["dram"] == pytest.approx((result.dram_bytes - held) * 8 * DRAM_PJ_PER_BIT["lpddr4"] / 1e12)
    assert result.dram_bytes == _run(load_npu("pmpd-4k", spills)).dram_bytes


def test_reading_keys_beside_weights_is_faster_and_a_slow_second_memory_is_not():
    one, two = _run(load_npu("pmpd-4k"), steps=400), _run(_npu(("kv",)), steps=400)
    slow = _run(_npu(("kv",), bandwidth_bytes_per_s=1e8), steps=400)
    assert two.cycles < one.cycles < slow.cycles
    assert slow.utilisation["second"] > 0.9 > slow.utilisation["dram"]


def test_each_memory_must_hold_its_own():
    tokens = kv_cache_bytes(TINY, 16, 50)
    _run(_npu(("kv",), capacity_bytes=tokens))
    with pytest.raises(InputError, match=rf"second_memory.capacity_bytes = {tokens - 1}: .* needs {tokens} there"):
        _run(_npu(("kv",), capacity_bytes=tokens - 1))


@pytest.mark.parametrize("holds", [(), ("kv", "kv"), ("weights",)])
def test_contents_are_named_once_and_weights_are_none_of_them(holds):
    with pytest.raises(ValidationError, match="holds"):
        _npu(holds)


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(CONTENTS)), min_size=1),
    st.sampled_from([1e8, 1e9, 32e9, 1e12]),
    st.sampled_from([1, 8, 512]),
    st.sampled_from([2, 8192]),
    st.sampled_from(["none", "planned", "assume-unchanged"]),
)
def test_both_engines_and_no_memo_agree_and_stay_above_the_roofline(holds, bandwidth, kv_kib, activation_kib, prefetch):
    overrides = {
        "buffers.kv_kib": kv_kib,
        "buffers.activation_kib": activation_kib,
        "control.prefetch": prefetch,
    }
    npu = _npu(sorted(holds), overrides, bandwidth_bytes_per_s=bandwidth)
    fast, events, exact = _run(npu, engine="fast"), _run(npu), _run(npu, exact=True)
    assert fast.steps.equals(events.steps)
    assert fast.steps.equals(exact.steps)
    assert events.stall_cycles == exact.stall_cycles
    trace = synthetic_trace(TINY, Schedule.from_pairs(4, [(0, 4), (5, 2)]), prompt_tokens=40, decode_tokens=10)
    assert roofline_cycles(npu, TINY, trace) <= fast.cycles
