"""Sustained bandwidth from timing alone, against a cycle-level DRAM simulator."""

from __future__ import annotations

import pytest

from hwsim.config import Memory, Timing
from hwsim.dram_channel import Channel, alternating, sequential_reads

MIB = 1 << 20
CYCLES = 400_000


def _memory(clock_ns, burst_clocks, burst_bytes, **organisation_and_clocks):
    organisation = {"ranks", "bank_groups", "banks_per_group", "row_bytes", "ccd_l_bursts"}
    fields = {
        name if name in organisation else f"t_{name}_ns": value if name in organisation else value * clock_ns
        for name, value in organisation_and_clocks.items()
    }
    return Memory(
        bandwidth_bytes_per_s=burst_bytes / (burst_clocks * clock_ns * 1e-9),
        channels=1,
        burst_bytes=burst_bytes,
        capacity_bytes=1 << 33,
        timing=Timing(controller_latency_ns=0, **fields),
    )


# Timing in memory clocks, one 64-bit channel of two ranks; the slower of tWTR_S and tWTR_L.
LPDDR4_2400 = _memory(
    0.83, 8, 128, ranks=2, bank_groups=2, banks_per_group=4, row_bytes=8192, cl=17, cwl=14, rcd=15, rp=15, ras=32,
    rfc=392, refi=8660, rrd=8, faw=32, wtr=16, wr=30, rtp=12, rtrs=1,
)  # fmt: skip
DDR3_1600 = _memory(
    1.25, 4, 64, ranks=2, bank_groups=1, banks_per_group=8, row_bytes=16384, cl=11, cwl=8, rcd=11, rp=11, ras=28,
    rfc=280, refi=6240, rrd=6, faw=32, wtr=6, wr=12, rtp=6, rtrs=1,
)  # fmt: skip


def _requests(memory, pattern):
    burst = memory.burst_bytes
    if pattern == "sequential":
        return sequential_reads(burst)
    if pattern == "mixed reads":
        return alternating(burst, 64, 8, write=False, start=512 * MIB, stride=4096)
    return alternating(burst, 240, 16, write=True, start=512 * MIB, stride=16 * burst)


# Shares of the peak that DRAMsim3 (2981759) sustains over 400,000 cycles with the same timing.
@pytest.mark.parametrize(
    ("memory", "clock_ns", "pattern", "share"),
    [
        (LPDDR4_2400, 0.83, "sequential", 0.955),
        (LPDDR4_2400, 0.83, "mixed reads", 0.974),
        (LPDDR4_2400, 0.83, "reads and writes", 0.952),
        (DDR3_1600, 1.25, "sequential", 0.959),
        (DDR3_1600, 1.25, "mixed reads", 0.856),
        (DDR3_1600, 1.25, "reads and writes", 0.961),
    ],
)
def test_sustained_bandwidth_is_within_3_percent_of_dramsim3(memory, clock_ns, pattern, share):
    sustained = Channel(memory).stream(_requests(memory, pattern), until=int(CYCLES * clock_ns * 1000))
    assert sustained / memory.bandwidth_bytes_per_s == pytest.approx(share, rel=0.03)


IDEAL = dict.fromkeys((name for name in Timing.model_fields if name.startswith("t_")), 0.0) | {"t_refi_ns": 1e6}


def _ideal(**timing):
    fields = {"ranks": 1, "bank_groups": 2, "banks_per_group": 2, "row_bytes": 1024, "controller_latency_ns": 0}
    return Memory(
        bandwidth_bytes_per_s=64e9,
        channels=1,
        burst_bytes=64,
        capacity_bytes=1 << 30,
        timing=Timing(**{**fields, **IDEAL, **timing}),
    )


@pytest.mark.parametrize(
    ("timing", "share"),
    [
        ({}, 1.0),
        # A row of 16 bursts stays in its bank group, but the queue holds the next one, in another group.
        ({"ccd_l_bursts": 1.5}, 1.0),
        ({"ccd_l_bursts": 1.5, "bank_groups": 1}, 1 / 1.5),
        # A row of 16 bursts takes 16 ns: activates 25 ns apart, or 4 in 120 ns, are slower.
        ({"t_rrd_ns": 25}, 16 / 25),
        ({"t_faw_ns": 120}, 16 / 30),
        ({"t_refi_ns": 1000, "t_rfc_ns": 100}, 0.9),
        # Four banks in turn: each must be open for tRAS and closed for tRP, 100 ns, within 4 rows of 16 ns.
        ({"t_ras_ns": 80, "t_rp_ns": 20}, 64 / 100),
    ],
)
def test_each_limit_alone_gives_its_share(timing, share):
    memory = _ideal(**timing)
    sustained = Channel(memory).stream(sequential_reads(64), until=40_000_000)
    assert sustained / memory.bandwidth_bytes_per_s == pytest.approx(share, rel=0.01)


def test_the_bus_turns_around_after_each_drain_of_the_write_queue():
    memory = _ideal(t_wtr_ns=20, t_cl_ns=5)
    requests = alternating(64, 32, 32, write=True, start=1 << 20, stride=32 * 64)
    sustained = Channel(memory).stream(requests, until=20_000_000)
    # 64 bursts of 1 ns, then the next read command 20 ns after the last write and its data 5 ns later.
    assert sustained / memory.bandwidth_bytes_per_s == pytest.approx(64 / (64 + 25), rel=0.02)
