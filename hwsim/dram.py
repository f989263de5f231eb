"""How long the memory is busy with a request, from its bandwidth and timing parameters.

Time is integer picoseconds inside and rounded up to cycles at the boundary. A request is a number of
contiguous chunks, each interleaved over all channels in whole bursts; rows after a chunk's first one are
opened while the bus is busy with another bank, so only the first costs time. Refreshes are charged evenly
over busy time: a controller may postpone them (JEDEC allows eight), and requests here span several intervals.
With that, service time depends on the request alone, never on when it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

from hwsim.config import Memory
from hwsim.units import PS_PER_NS, PS_PER_S, Amount, ceil_div

RATE_SHIFT = 20  # fixed point of the transfer rate: below 0.001% error up to 10 TB/s, and within int64


def _ps(nanoseconds: float) -> int:
    return ceil(nanoseconds * PS_PER_NS)


@dataclass(frozen=True, slots=True)
class Dram:
    """Service times of one memory, seen by one clock.

    Attributes:
        stripe_bytes: One burst on every channel; a chunk is rounded up to whole stripes.
        rate: Picoseconds per byte times ``2**RATE_SHIFT``, refresh included, rounded up.
        chunk_ps: Exposed time of a chunk's first row: precharge and activate.
        turnaround_ps: Extra time of a write among reads: read to write and back.
        latency_cycles: From the end of a load's bus time until its data can be used.
        clock: Cycles per picosecond.
    """

    stripe_bytes: int
    rate: int
    chunk_ps: int
    turnaround_ps: int
    latency_cycles: int
    clock: Fraction

    def _cycles(self, ps: Amount) -> Amount:
        return ceil_div(ps * self.clock.numerator, self.clock.denominator)

    def load_cycles(self, chunk_bytes: Amount, chunks: int = 1) -> Amount:
        """Bus time of reading ``chunks`` chunks of ``chunk_bytes`` each."""
        stripes = ceil_div(chunk_bytes, self.stripe_bytes)
        transfer_ps = ceil_div(stripes * (self.stripe_bytes * chunks * self.rate), 1 << RATE_SHIFT)
        return self._cycles(transfer_ps + chunks * self.chunk_ps)

    def store_cycles(self, chunk_bytes: int, chunks: int = 1) -> Amount:
        """Bus time of writing ``chunks`` chunks of ``chunk_bytes`` each between reads."""
        stripes = ceil_div(chunk_bytes, self.stripe_bytes)
        transfer_ps = ceil_div(stripes * (self.stripe_bytes * chunks * self.rate), 1 << RATE_SHIFT)
        return self._cycles(transfer_ps + chunks * self.chunk_ps + self.turnaround_ps)


@lru_cache(maxsize=1024)
def build_dram(memory: Memory, clock_hz: float) -> Dram:
    """Derive service times from the timing parameters."""
    timing = memory.timing
    available = Fraction(timing.t_refi_ns) / (Fraction(timing.t_refi_ns) - Fraction(timing.t_rfc_ns))
    ps_per_byte = Fraction(PS_PER_S) / Fraction(memory.bandwidth_bytes_per_s) * available
    clock = Fraction(clock_hz) / PS_PER_S
    latency_ps = _ps(timing.controller_latency_ns + timing.t_cl_ns)
    return Dram(
        stripe_bytes=memory.burst_bytes * memory.channels,
        rate=ceil(ps_per_byte * (1 << RATE_SHIFT)),
        chunk_ps=_ps(timing.t_rp_ns + timing.t_rcd_ns),
        turnaround_ps=_ps(timing.t_rtw_ns + timing.t_wtr_ns),
        latency_cycles=ceil(latency_ps * clock),
        clock=clock,
    )
