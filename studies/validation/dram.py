"""Check 7: sustained DRAM bandwidth from timing alone, against a cycle-level DRAM simulator (DRAMsim3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hwsim.config import Memory, Timing
from hwsim.dram import Dram, build_dram
from hwsim.dram_channel import Channel, Request, alternating, sequential_reads
from studies.validation.table import Cell, Outcome, within

CHECK = "7 DRAM"
BOUND = 0.03
CLOCKS = 400_000  # memory clocks, as the reference ran
PLACEMENT_CLOCKS = 100_000
PLACEMENT_TURNS = 1 << 12
MIB = 1 << 20
OTHER_REGION = 512 * MIB
STREAM_BURSTS = 1 << 16
FINE_CLOCK_HZ = 1e11  # of the closed forms, so that rounding up to cycles does not show


def _memory(
    clock_ns: float, burst_clocks: int, burst_bytes: int, organisation: dict[str, int], **clocks: int
) -> Memory:
    timing = {f"t_{name}_ns": value * clock_ns for name, value in clocks.items()}
    return Memory(
        bandwidth_bytes_per_s=burst_bytes / (burst_clocks * clock_ns * 1e-9),
        channels=1,
        burst_bytes=burst_bytes,
        capacity_bytes=1 << 33,
        timing=Timing.model_validate({**organisation, **timing, "controller_latency_ns": 0}),
    )


# Timing in memory clocks of DRAMsim3's own configurations (revision 2981759): one 64-bit channel of two ranks.
# Of tWTR_S and tWTR_L the longer one; tCCD_L of LPDDR4 is below its burst and so never limits.
_LPDDR4 = _memory(
    0.83, 8, 128, {"ranks": 2, "bank_groups": 2, "banks_per_group": 4, "row_bytes": 8192},
    cl=17, cwl=14, rcd=15, rp=15, ras=32, rfc=392, refi=8660, rrd=8, faw=32, wtr=16, wr=30, rtp=12, rtrs=1,
)  # fmt: skip
_DDR3 = _memory(
    1.25, 4, 64, {"ranks": 2, "bank_groups": 1, "banks_per_group": 8, "row_bytes": 16384},
    cl=11, cwl=8, rcd=11, rp=11, ras=28, rfc=280, refi=6240, rrd=6, faw=32, wtr=6, wr=12, rtp=6, rtrs=1,
)  # fmt: skip


def _mixed_reads(burst_bytes: int, other_region: int) -> Iterator[Request]:
    return alternating(burst_bytes, 64, 8, write=False, start=other_region, stride=4096)


@dataclass(frozen=True)
class _Pattern:
    """A traffic pattern burst by burst, and as the requests whose service times the engines use.

    Attributes:
        turn: Bursts of one turn, and the time the closed forms give it.
        strides: Bytes by which both regions move on in a turn, for a burst of so many bytes.
    """

    requests: Callable[[int], Iterator[Request]]
    turn: Callable[[Dram, int], tuple[int, int]]
    strides: Callable[[int], tuple[int, int]]

    def placed(self, memory: Memory) -> Memory:
        """The memory with the share of turns in which both regions lie in one bank, from their addresses."""
        row, banks = memory.timing.row_bytes, memory.timing.banks
        own, other = self.strides(memory.burst_bytes)
        same = [
            (turn * own // row - (OTHER_REGION + turn * other) // row) % banks == 0 for turn in range(PLACEMENT_TURNS)
        ]
        return memory.model_copy(update={"same_bank_share": sum(same) / len(same)})


MIXED_READS = "64 reads, 8 reads elsewhere"
PATTERNS = {
    "sequential reads": _Pattern(
        sequential_reads,
        lambda dram, burst: (STREAM_BURSTS, int(dram.load_cycles(STREAM_BURSTS * burst))),
        lambda burst: (STREAM_BURSTS * burst, 0),
    ),
    MIXED_READS: _Pattern(
        lambda burst: _mixed_reads(burst, OTHER_REGION),
        lambda dram, burst: (72, int(dram.load_cycles(64 * burst) + dram.load_cycles(8 * burst))),
        lambda burst: (64 * burst, 4096),
    ),
    "240 reads, 16 writes elsewhere": _Pattern(
        lambda burst: alternating(burst, 240, 16, write=True, start=OTHER_REGION, stride=16 * burst),
        lambda dram, burst: (256, int(dram.load_cycles(240 * burst) + dram.store_cycles(16 * burst))),
        lambda burst: (240 * burst, 16 * burst),
    ),
}

# GB/s that DRAMsim3 sustained, in the order of the patterns.
CASES = {
    "LPDDR4-2400": (_LPDDR4, 0.83, (18.42, 18.77, 18.35)),
    "DDR3-1600": (_DDR3, 1.25, (12.28, 10.95, 12.30)),
}


def _mean_over_placements(memory: Memory, clock_ns: float) -> float:
    """GB/s of mixed reads, averaged over the bank in which the second region starts."""
    timing = memory.timing
    sustained = [
        Channel(memory).stream(
            _mixed_reads(memory.burst_bytes, OTHER_REGION + bank * timing.row_bytes),
            until=int(PLACEMENT_CLOCKS * clock_ns * 1000),
        )
        for bank in range(timing.banks)
    ]
    return sum(sustained) / len(sustained) / 1e9


def _sustained(traffic: _Pattern, dram: Dram, burst_bytes: int) -> float:
    """GB/s of the closed forms."""
    bursts, cycles = traffic.turn(dram, burst_bytes)
    return bursts * burst_bytes * FINE_CLOCK_HZ / cycles / 1e9


def check() -> Outcome:
    """Compare the burst-by-burst channel and the closed forms with every sustained bandwidth.

    Closed forms know of addresses only how often two regions share a bank. The reference's regions say it (always, for
    mixed reads of DDR3); where nothing is known they stand for the average over placements, and are held against the
    channel's.
    """
    rows = []
    details: list[dict[str, Cell]] = []
    for name, (memory, clock_ns, references) in CASES.items():
        anywhere = build_dram(memory, FINE_CLOCK_HZ)
        for (pattern, traffic), reference in zip(PATTERNS.items(), references, strict=True):
            until_ps = int(CLOCKS * clock_ns * 1000)
            channel = Channel(memory).stream(traffic.requests(memory.burst_bytes), until=until_ps) / 1e9
            closed = _sustained(traffic, build_dram(traffic.placed(memory), FINE_CLOCK_HZ), memory.burst_bytes)
            rows.append(within(CHECK, f"channel: {name}, {pattern}", "GB/s", channel, reference, BOUND))
            rows.append(within(CHECK, f"closed form: {name}, {pattern}", "GB/s", closed, reference, BOUND))
            if pattern == MIXED_READS:
                case = f"closed form, any placement: {name}, {pattern} (channel, mean over {memory.timing.banks})"
                mean = _mean_over_placements(memory, clock_ns)
                rows.append(within(CHECK, case, "GB/s", _sustained(traffic, anywhere, memory.burst_bytes), mean, BOUND))
            details.append(
                {
                    "memory": name,
                    "pattern": pattern,
                    "peak_gb_per_s": memory.bandwidth_bytes_per_s / 1e9,
                    "reference_gb_per_s": reference,
                    "channel_gb_per_s": channel,
                    "closed_form_gb_per_s": closed,
                }
            )
    return Outcome(rows, details)
