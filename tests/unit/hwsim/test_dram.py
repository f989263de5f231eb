from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwsim.dram import build_dram
from hwsim.load import load_npu


def _dram(**timing):
    zero = dict.fromkeys(("t_rcd_ns", "t_rp_ns", "t_cl_ns", "t_wtr_ns", "t_rtw_ns", "t_rfc_ns"), 0)
    overrides = {f"memory.timing.{key}": value for key, value in {**zero, **timing}.items()}
    npu = load_npu("pmpd-4k", {**overrides, "memory.timing.controller_latency_ns": 0})
    return build_dram(npu.memory, npu.clock_hz)


def test_without_overheads_a_load_takes_bytes_over_bandwidth():
    # 32 GB/s at 1 GHz is 32 bytes a cycle, in stripes of 4 channels x 32 bytes.
    assert _dram().load_cycles(32 * 1000) == 1000
    assert _dram().load_cycles(1) == 4
    assert _dram().latency_cycles == 0


def test_refresh_takes_its_share_of_the_time():
    assert _dram(t_refi_ns=1000, t_rfc_ns=200).load_cycles(32 * 1000) == 1250


def test_each_chunk_opens_one_row_of_its_own():
    dram = _dram(t_rcd_ns=18, t_rp_ns=12)
    assert dram.load_cycles(3200, 1) == 100 + 30
    assert dram.load_cycles(3200, 4) == 4 * (100 + 30)


def test_a_store_pays_both_turnarounds():
    dram = _dram(t_rtw_ns=8, t_wtr_ns=10)
    assert dram.store_cycles(3200, 2) == 200 + 18


def test_data_arrives_a_latency_after_the_bus():
    npu = load_npu("pmpd-4k")
    assert build_dram(npu.memory, npu.clock_hz).latency_cycles == 40 + 18
    assert build_dram(npu.memory, 225e6).latency_cycles == 14  # 58 ns at 4.44 ns a cycle, rounded up


@given(size=st.integers(1, 1 << 24), chunks=st.integers(1, 9), bandwidth=st.floats(1e8, 1e13))
def test_no_load_beats_the_peak_bandwidth(size, chunks, bandwidth):
    npu = load_npu("pmpd-4k", {"memory.bandwidth_bytes_per_s": bandwidth})
    cycles = build_dram(npu.memory, npu.clock_hz).load_cycles(size, chunks)
    assert cycles >= size * chunks * 1e9 / bandwidth * (1 - 1e-12)
