"""How long the memory is busy with a request, from its bandwidth and timing parameters.

Time is integer picoseconds inside and rounded up to cycles at the boundary. A request is a number of
contiguous chunks, each interleaved over all channels in whole bursts. With that, and with refreshes charged
evenly over busy time (a controller may postpone them, and loads here span several intervals), service time
depends on the request alone, never on when it starts. The closed forms are the averages of what
:mod:`hwsim.dram_channel` does burst by burst:

- a stream moves a burst per burst duration, or, where tCCD_L is longer, per tCCD_L while it stays in one bank
  group. Near the end of a row the controller's queues hold bursts of the next row, in another bank group, and the
  two are read in turn, as far as the queues reach beyond the time to open that row;
- a row moves no faster than activates may follow (tRRD, tFAW / 4), banks may cycle (tRC / banks) and rows open
  within the queues' reach;
- refresh takes tRP + tRFC + tRCD of every tREFI from a stream, whatever the ranks: one of R ranks is in use 1/R of
  the time and is refreshed as often. A bank that was refreshed since its last row is closed: its next row opens
  without tRP;
- a chunk's first row takes tRP + tRCD to open, behind the bursts in the controller's queues as far as they last;
  once in as many chunks as there are banks, or as often as the placement of regions says (``same_bank_share``), it
  meets an open row of its own bank and shows tRTP + tRP + tRCD.
  Where the queue holds several chunks, they open their rows together and share both;
- a write among reads costs tWTR + CL to return to reading and the bus turnaround.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

from hwsim.config import Memory, Timing
from hwsim.units import PS_PER_NS, PS_PER_S, Amount, ceil_div, maximum, minimum

RATE_SHIFT = 20  # fixed point of the transfer rate: below 0.001% error up to 10 TB/s, and within int64


def _ps(nanoseconds: float) -> int:
    return ceil(nanoseconds * PS_PER_NS)


@dataclass(frozen=True, slots=True)
class Dram:
    """Service times of one memory, seen by one clock.

    Attributes:
        stripe_bytes: One burst on every channel; a chunk is rounded up to whole stripes.
        rate: Picoseconds per byte times ``2**RATE_SHIFT``, refresh included, rounded up.
        conflict_ps: Expected time lost to a chunk's first row where it meets an open row of its bank.
        open_ps: Time to open a row in another bank, hidden behind the bursts of the queue.
        queue_bytes: Bytes the queues of all channels hold.
        turnaround_ps: Extra time of a write among reads.
        latency_cycles: From the end of a load's bus time until its data can be used.
        clock: Cycles per picosecond.
    """

    stripe_bytes: int
    rate: Amount
    conflict_ps: int
    open_ps: int
    queue_bytes: int
    turnaround_ps: int
    latency_cycles: int
    clock: Fraction

    def _transfer_ps(self, size: Amount) -> Amount:
        return ceil_div(size * self.rate, 1 << RATE_SHIFT)

    def _request_cycles(self, chunk_bytes: Amount, chunks: int, extra_ps: int) -> Amount:
        size = ceil_div(chunk_bytes, self.stripe_bytes) * self.stripe_bytes
        queued = minimum(size, self.queue_bytes)
        conflict_ps = ceil_div(self.conflict_ps * queued, self.queue_bytes)
        open_ps = ceil_div(self.open_ps * queued, self.queue_bytes)
        exposed_ps = conflict_ps + maximum(0, open_ps - self._transfer_ps(queued))
        total_ps = self._transfer_ps(size * chunks) + chunks * exposed_ps + extra_ps
        return ceil_div(total_ps * self.clock.numerator, self.clock.denominator)

    def load_cycles(self, chunk_bytes: Amount, chunks: int = 1) -> Amount:
        """Bus time of reading ``chunks`` chunks of ``chunk_bytes`` each."""
        return self._request_cycles(chunk_bytes, chunks, 0)

    def store_cycles(self, chunk_bytes: int, chunks: int = 1) -> Amount:
        """Bus time of writing ``chunks`` chunks of ``chunk_bytes`` each between reads."""
        return self._request_cycles(chunk_bytes, chunks, self.turnaround_ps)


def _row_time(timing: Timing, bursts: int, burst: int, opening: int) -> int:
    """Time of one row of a stream, in the unit of the arguments.

    Args:
        timing: Organisation and timing of one channel.
        bursts: Bursts of a row.
        burst: Duration of a burst.
        opening: Time the next row takes to open.
    """
    numerator, denominator = timing.ccd_l_bursts.as_integer_ratio()
    alone = ceil_div(burst * numerator, denominator)
    shared = max(burst, ceil_div(alone, 2)) if timing.bank_groups > 1 else alone
    seen = timing.lookahead_requests
    if bursts <= seen:
        return bursts * max(shared, ceil_div(opening, seen))
    spare = seen * alone - opening
    if spare < 0:
        return bursts * alone - spare
    return bursts * alone - min(bursts * alone, 2 * spare) * (alone - shared) // alone


def _stream_rate(memory: Memory) -> int:
    """Picoseconds per byte of a long stream times ``2**RATE_SHIFT``, refresh included."""
    timing = memory.timing
    bursts, stripe_bytes = timing.row_bytes // memory.burst_bytes, memory.burst_bytes * memory.channels
    bandwidth, per_second = float(memory.bandwidth_bytes_per_s).as_integer_ratio()
    burst = ceil_div(stripe_bytes * per_second * PS_PER_S << RATE_SHIFT, bandwidth)
    activate, precharge = _ps(timing.t_rcd_ns) << RATE_SHIFT, _ps(timing.t_rp_ns) << RATE_SHIFT
    interval, refresh = _ps(timing.t_refi_ns) << RATE_SHIFT, _ps(timing.refresh_ns) << RATE_SHIFT
    cycle_ns = (timing.t_ras_ns + timing.t_rp_ns) / (timing.bank_groups * timing.banks_per_group)
    least = _ps(max(timing.t_rrd_ns, timing.t_faw_ns / 4, cycle_ns)) << RATE_SHIFT
    slowest = max(least, _row_time(timing, bursts, burst, activate + precharge))
    closed = min(precharge, precharge * timing.banks * slowest // interval)
    row = max(least, _row_time(timing, bursts, burst, activate + precharge - closed))
    return ceil_div(row * interval, (interval - refresh) * bursts * stripe_bytes)


@lru_cache(maxsize=4096)
def build_dram(memory: Memory, clock_hz: float) -> Dram:
    """Derive service times from the timing parameters."""
    timing, stripe_bytes = memory.timing, memory.burst_bytes * memory.channels
    clock = Fraction(clock_hz) / PS_PER_S
    conflict_ns = timing.t_rtp_ns + timing.t_rp_ns + timing.t_rcd_ns
    known = memory.same_bank_share
    lost_ns = conflict_ns / timing.banks if known is None else conflict_ns * known
    return Dram(
        stripe_bytes=stripe_bytes,
        rate=_stream_rate(memory),
        conflict_ps=_ps(lost_ns),
        open_ps=_ps(timing.t_rp_ns + timing.t_rcd_ns),
        queue_bytes=timing.lookahead_requests * stripe_bytes,
        turnaround_ps=_ps(timing.t_wtr_ns + timing.t_cl_ns + timing.t_rtrs_ns),
        latency_cycles=ceil(_ps(timing.controller_latency_ns + timing.t_cl_ns) * clock),
        clock=clock,
    )
