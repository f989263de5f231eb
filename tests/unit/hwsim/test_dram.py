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


def _load_ns(size, chunks=1, overrides=None, **timing):
    """Bus time free of rounding to cycles, and of refresh."""
    memory = _npu(overrides, **{"t_refi_ns": 1e9, **timing}).memory
    return build_dram(memory, 1e12).load_cycles(size, chunks) / 1e3


def test_without_overheads_a_load_takes_bytes_over_bandwidth():
    # 32 GB/s at 1 GHz is 32 bytes a cycle, in stripes of 4 channels x 32 bytes.
    assert _dram().load_cycles(32 * 1000) == 1000
    assert _dram().load_cycles(1) == 4
    assert _dram().latency_cycles == 0


def test_refresh_takes_its_share_of_the_time_with_the_rows_it_closes_and_opens_again():
    assert _dram(t_refi_ns=1000, t_rfc_ns=200).load_cycles(32 * 1000) == 1250
    assert _dram(t_refi_ns=1000, t_rp_ns=60, t_rfc_ns=200, t_rcd_ns=40).load_cycles(32 << 20) / (1 << 20) == (
        pytest.approx(1 / 0.7, rel=1e-3)
    )


# 8 banks, a stripe of four channels' bursts a 4 ns, and queues that hold 32 + 8 of them.
OPENING = {"t_rcd_ns": 18, "t_rp_ns": 12, "t_rtp_ns": 2}


def test_a_chunks_first_row_conflicts_once_in_as_many_chunks_as_there_are_banks():
    # 32 ns / 8 = 4 ns a chunk. Opening takes 30 ns, hidden behind the queues' 40 stripes of 4 ns.
    assert _load_ns(40 * 128, 1, **OPENING) == pytest.approx(160 + 4, rel=1e-5)
    assert _load_ns(40 * 128, 3, **OPENING) == pytest.approx(3 * (160 + 4), rel=1e-5)


@pytest.mark.parametrize(("share", "conflicts"), [(0, 0), (0.25, 1), (1, 4)])
def test_where_the_placement_is_known_it_says_how_many_chunks_conflict(share, conflicts):
    timing = {"t_rtp_ns": 10, "t_rp_ns": 20, "t_rcd_ns": 10}
    known = _load_ns(1 << 20, 4, {"memory.same_bank_share": share}, **timing)
    assert known == pytest.approx(_load_ns(1 << 20, 4, {"memory.same_bank_share": 0}, **timing) + 40 * conflicts)


def test_chunks_shorter_than_the_queues_share_their_conflicts():
    assert _load_ns(8 * 128, 1, **OPENING) == pytest.approx(32 + 4 * 8 / 40, rel=1e-4)


def test_queues_too_short_to_hide_an_opening_row_show_the_rest_of_it():
    short = {"memory.timing.queue_requests": 1, "memory.timing.bank_queue_requests": 1}
    # Two stripes of 4 ns hide 8 of 30 ns: a row takes 64 x 4 + 22 ns, and a chunk's first row shows the rest anew.
    assert _load_ns(64 * 128, 1, short, **OPENING) == pytest.approx(278 + 4 + 30 - 2 * 278 / 64, rel=1e-5)


@pytest.mark.parametrize(
    ("bank_groups", "row_bytes", "row_ns"),
    [
        # One group: a row of 64 bursts takes 64 times tCCD_L, 6 ns.
        (1, 2048, 64 * 6),
        # Queues of 40 bursts at 6 ns last 210 ns longer than the 30 ns of opening a row: 2 x 35 bursts, but no more
        # than all 64, are read in turn with another row's, one each 4 ns.
        (4, 2048, 64 * 4),
        # Of 128 bursts, 70 take 4 ns and 58 take 6 ns.
        (4, 4096, 70 * 4 + 58 * 6),
        # A row that the queues hold whole overlaps with its neighbours.
        (4, 1024, 32 * 4),
    ],
)
def test_a_stream_reads_two_bank_groups_in_turn_as_far_as_the_queues_reach(bank_groups, row_bytes, row_ns):
    organisation = {"ccd_l_bursts": 1.5, "bank_groups": bank_groups, "row_bytes": row_bytes, "banks_per_group": 4}
    changes = {f"memory.timing.{name}": value for name, value in organisation.items()}
    rows = _load_ns(row_bytes * 4 * 1000, 1, changes, t_rcd_ns=18, t_rp_ns=12) / 1000
    assert rows == pytest.approx(row_ns, rel=1e-3)


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
    memory = load_npu("pmpd-4k", {"memory.timing.ranks": ranks}).memory

    def requests():
        places = random.Random(7)
        while True:
            start = places.randrange(1 << 19) * 2048
            yield from ((start + offset, False) for offset in range(0, chunk_bytes, memory.burst_bytes))

    sustained = Channel(memory).stream(requests(), until=200_000_000)
    # The channel holds a quarter of each chunk that is interleaved over four.
    expected = chunk_bytes / build_dram(memory, 1e12).load_cycles(chunk_bytes * memory.channels) * 1e12
    assert sustained == pytest.approx(expected, rel=0.04)
