"""Memories beyond the two that DRAMsim3 was asked about: given only their timing, against a clock-by-clock channel."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from clocked_channel import ClockedChannel, Clocks
from hwsim.dram import build_dram
from hwsim.dram_channel import Channel, alternating, sequential_reads

# One rank each: two ranks, refreshed in turn, would need far longer runs to average out which one is in use.
# Timing as in DRAMsim3's configurations (JEDEC values) for DDR4-2400 and -3200, LPDDR3 and HBM2's pseudo-channel but
# for its longer tCCD_L; typical data sheets, rounded, for the others.
MEMORIES = (
    Clocks("DDR4-2400", 0.83, 4, 64, 1, 4, 4, 8192,
           cl=17, cwl=12, rcd=17, rp=17, ras=39, rfc=420, refi=9360, ccd_l=6, rrd=4, faw=26,
           wtr=9, wr=18, rtp=9, rtrs=1),
    Clocks("DDR4-3200", 0.625, 4, 64, 1, 4, 4, 8192,
           cl=22, cwl=16, rcd=22, rp=22, ras=52, rfc=560, refi=12480, ccd_l=8, rrd=4, faw=34,
           wtr=12, wr=24, rtp=12, rtrs=1),
    Clocks("DDR5-4800", 0.416, 8, 64, 1, 8, 4, 8192,
           cl=40, cwl=38, rcd=39, rp=39, ras=77, rfc=708, refi=9375, ccd_l=12, rrd=8, faw=32,
           wtr=24, wr=72, rtp=18, rtrs=2),
    Clocks("LPDDR3-1600", 1.25, 4, 64, 1, 1, 8, 8192,
           cl=12, cwl=9, rcd=15, rp=15, ras=34, rfc=168, refi=3120, ccd_l=4, rrd=8, faw=40,
           wtr=6, wr=12, rtp=6, rtrs=1),
    Clocks("LPDDR4X-4267", 0.469, 8, 32, 1, 1, 8, 2048,
           cl=36, cwl=18, rcd=39, rp=39, ras=90, rfc=597, refi=8324, ccd_l=8, rrd=22, faw=86,
           wtr=22, wr=39, rtp=16, rtrs=2),
    Clocks("LPDDR5-6400", 0.3125, 8, 32, 1, 4, 4, 2048,
           cl=68, cwl=36, rcd=58, rp=58, ras=135, rfc=672, refi=12499, ccd_l=16, rrd=12, faw=48,
           wtr=39, wr=109, rtp=24, rtrs=2),
    Clocks("HBM2", 1.0, 2, 32, 1, 4, 4, 1024,
           cl=14, cwl=7, rcd=14, rp=14, ras=33, rfc=350, refi=3900, ccd_l=4, rrd=4, faw=16, wtr=8, wr=16, rtp=5, rtrs=1,
           dual_command=True),
    Clocks("GDDR6", 0.571, 2, 32, 1, 4, 4, 2048,
           cl=24, cwl=6, rcd=24, rp=24, ras=54, rfc=210, refi=3333, ccd_l=3, rrd=9, faw=36,
           wtr=11, wr=26, rtp=4, rtrs=1),
)  # fmt: skip
BY_NAME = {memory.name: memory for memory in MEMORIES}
PATTERNS = {
    "sequential": sequential_reads,
    "mixed reads": lambda burst: alternating(burst, 64, 8, write=False, start=512 << 20, stride=4096),
    "reads and writes": lambda burst: alternating(burst, 240, 16, write=True, start=512 << 20, stride=16 * burst),
}


def _shares(clocks, pattern, length):
    """Shares of the peak by the clocked channel and by hwsim's."""
    memory, requests = clocks.memory(), PATTERNS[pattern]
    by_clock = ClockedChannel(clocks).stream(requests(clocks.burst_bytes), length)
    until = int(length * clocks.clock_ns * 1000)
    by_burst = Channel(memory).stream(requests(clocks.burst_bytes), until) / memory.bandwidth_bytes_per_s
    return by_clock, by_burst


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["DDR4-2400", "LPDDR5-6400", "HBM2"])
def test_sustained_bandwidth_is_within_3_percent_of_a_clocked_channel(name, pattern):
    by_clock, by_burst = _shares(BY_NAME[name], pattern, 15_000)
    assert by_burst == pytest.approx(by_clock, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", BY_NAME)
def test_sustained_bandwidth_is_within_3_percent_of_a_clocked_channel_at_length(name, pattern):
    by_clock, by_burst = _shares(BY_NAME[name], pattern, 60_000)
    assert by_burst == pytest.approx(by_clock, rel=0.03)


def _random_memory(draw):
    burst, groups = draw.choice([2, 4, 8]), draw.choice([1, 2, 4, 8])
    burst_bytes, opening = draw.choice([32, 64, 128]), draw.randint(8, 50)
    return Clocks(
        "random",
        draw.choice([0.3125, 0.5, 0.83, 1.25]),
        burst,
        burst_bytes,
        1,
        groups,
        draw.choice([4, 8]) if groups == 1 else draw.choice([2, 4]),
        burst_bytes * draw.choice([16, 32, 64, 128, 256]),
        cl=draw.randint(10, 40),
        cwl=draw.randint(5, 20),
        rcd=opening,
        rp=opening,
        ras=draw.randint(opening + 8, 2 * opening + 20),
        rfc=draw.randint(100, 700),
        refi=draw.randint(3000, 12000),
        ccd_l=burst + draw.choice([0, 1, 2, burst]),
        rrd=draw.randint(4, 10),
        faw=draw.randint(20, 60),
        wtr=draw.randint(3, 14),
        wr=draw.randint(10, 40),
        rtp=draw.randint(4, 20),
        rtrs=draw.choice([1, 2]),
    )


@pytest.mark.slow
def test_random_memories_are_within_5_percent_too():
    draw = random.Random(1600)
    for _ in range(12):
        memory = _random_memory(draw)
        for pattern in PATTERNS:
            by_clock, by_burst = _shares(memory, pattern, 30_000)
            # Bursts of two clocks leave the command bus, which is not modelled, least room.
            assert by_burst == pytest.approx(by_clock, rel=0.05), (memory, pattern)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_closed_form_of_a_stream_is_within_3_percent_of_the_channel(name):
    memory = BY_NAME[name].memory()
    by_burst = Channel(memory).stream(sequential_reads(memory.burst_bytes), until=100_000_000)
    size = 1 << 24
    assert size / build_dram(memory, 1e12).load_cycles(size) * 1e12 == pytest.approx(by_burst, rel=0.03)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_faster_grade_of_the_same_memory_is_never_slower(name):
    base, timing = BY_NAME[name], BY_NAME[name].memory().timing
    grades = [
        replace(base, clock_ns=base.clock_ns / step).memory().model_copy(update={"timing": timing})
        for step in (1, 1.001, 1.1, 1.5, 2, 3, 10, 1000)
    ]
    rates = [build_dram(memory, 1e9).rate for memory in grades]
    assert rates == sorted(rates, reverse=True)
