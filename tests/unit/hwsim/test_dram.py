"""Service times against arithmetic done by hand, and against the burst-by-burst model."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.config import Timing
from hwsim.dram import build_dram
from hwsim.dram_channel import Channel
from hwsim.load import load_npu


def _npu(overrides=None, **timing):
    quiet = {name: 0 for name in Timing.model_fields if name.startswith("t_")} | {"t_refi_ns": 3904}
    changes = {f"memory.timing.{name}": value for name, value in {**quiet, **timing}.items()}
    return load_npu("pmpd-4k", {**changes, "memory.timing.controller_latency_ns": 0, **(overrides or {})})


def _dram(overrides=None, **timing):
    npu = _npu(overrides, **timing)
    return build_dram(npu.memory, npu.clock_hz)


def test_without_overheads_a_load_takes_bytes_over_bandwidth():
    # 32 GB/s at 1 GHz is 32 bytes a cycle, in stripes of 4 channels x 32 bytes.
    assert _dram().load_cycles(32 * 1000) == 1000
    assert _dram().load_cycles(1) == 4
    assert _dram().latency_cycles == 0


def test_refresh_takes_its_share_of_the_time():
    assert _dram(t_refi_ns=1000, t_rfc_ns=200).load_cycles(32 * 1000) == 1250


def test_a_chunks_first_row_conflicts_once_in_as_many_chunks_as_there_are_banks():
    dram = _dram(t_rcd_ns=18, t_rp_ns=12, t_rtp_ns=2)
    # 8 banks: 32 ns / 8 = 4 cycles a chunk. Opening takes 30 ns, hidden behind the queue's 32 stripes of 4 ns.
    assert dram.load_cycles(32 * 128, 1) == 128 + 4
    assert dram.load_cycles(32 * 128, 3) == 3 * (128 + 4)


def test_chunks_shorter_than_the_queue_share_its_conflicts():
    dram = _dram(t_rcd_ns=18, t_rp_ns=12, t_rtp_ns=2)
    assert dram.load_cycles(8 * 128, 1) == 32 + 1


def test_a_queue_too_short_to_hide_an_opening_row_shows_the_rest_of_it():
    dram = _dram({"memory.timing.queue_requests": 2}, t_rcd_ns=18, t_rp_ns=12, t_rtp_ns=2)
    # Two stripes of 4 cycles hide 8 of 30 ns.
    assert dram.load_cycles(32 * 128, 1) == 128 + 4 + 22


def test_a_stream_in_one_bank_group_is_limited_by_its_column_interval():
    assert _dram({"memory.timing.ccd_l_bursts": 1.5}).load_cycles(32 * 1000) == 1500


def test_a_stream_is_no_faster_than_rows_can_be_opened():
    # Rows of 2 KiB on 4 channels: 8 KiB take 256 cycles at the peak, or tFAW / 4, tRRD, tRC / banks if longer.
    assert _dram(t_faw_ns=1200).load_cycles(8192 * 10) == 3000
    assert _dram(t_rrd_ns=310).load_cycles(8192 * 10) == 3100
    assert _dram(t_ras_ns=2400).load_cycles(8192 * 10) == 3000


def test_a_store_pays_for_returning_to_reads():
    dram = _dram(t_wtr_ns=10, t_cl_ns=7, t_rtrs_ns=1)
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


@pytest.mark.parametrize("chunk_bytes", [256, 2048, 16384])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_closed_form_meets_the_burst_by_burst_model_on_scattered_chunks(chunk_bytes, ranks):
    npu = load_npu("pmpd-4k", {"memory.timing.ranks": ranks})
    per_channel = npu.memory.burst_bytes

    def requests():
        places = random.Random(7)
        while True:
            start = places.randrange(1 << 19) * 2048
            yield from ((start + offset, False) for offset in range(0, chunk_bytes, per_channel))

    sustained = Channel(npu.memory).stream(requests(), until=200_000_000)
    dram = build_dram(npu.memory, npu.clock_hz)
    # The channel holds a quarter of each chunk that is interleaved over four.
    expected = chunk_bytes * npu.memory.channels / dram.load_cycles(chunk_bytes * npu.memory.channels) * 1e9
    assert sustained * npu.memory.channels == pytest.approx(expected, rel=0.05)
