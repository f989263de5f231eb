"""One DRAM channel burst by burst: what bandwidth a stream of addresses sustains, from timing alone.

The reference behind the closed forms of :mod:`hwsim.dram`; the engines do not run it. Reads are served in order,
with precharges and activates ahead of time for bursts that the controller's queue already holds; writes wait in
a queue of the same length and are drained together. Rows stay open. Each rank is refreshed as a whole once per
tREFI, the ranks in turn. The command bus is not modelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from hwsim.config import Memory
from hwsim.units import PS_PER_NS, PS_PER_S

ACTIVATES_IN_WINDOW = 4  # what tFAW bounds

Request = tuple[int, bool]
"""Byte address of a burst, and whether it is written."""


@dataclass(slots=True)
class _Bank:
    row: int | None = None
    may_activate: int = 0
    may_access: int = 0
    may_precharge: int = 0


@dataclass(slots=True)
class _Rank:
    banks: list[_Bank]
    next_refresh: int
    refreshed: int = 0
    may_read: int = 0
    activates: deque[int] = field(default_factory=lambda: deque(maxlen=ACTIVATES_IN_WINDOW))


class _Burst(NamedTuple):
    rank: int
    group: int
    bank: int
    row: int
    write: bool
    queued: int


class Channel:
    """State of one channel; times are picoseconds."""

    def __init__(self, memory: Memory) -> None:
        timing = memory.timing
        self.timing = timing
        self.burst_bytes = memory.burst_bytes
        self.burst = round(memory.burst_bytes * memory.channels * PS_PER_S / memory.bandwidth_bytes_per_s)
        self._t: dict[str, int] = {
            name.removeprefix("t_").removesuffix("_ns"): round(getattr(timing, name) * PS_PER_NS)
            for name in type(timing).model_fields
            if name.startswith("t_")
        }
        self._same_group = round(self.burst * timing.ccd_l_bursts)
        banks = timing.bank_groups * timing.banks_per_group
        refi = self._t["refi"]
        self._ranks = [
            _Rank([_Bank() for _ in range(banks)], next_refresh=(index + 1) * refi // timing.ranks)
            for index in range(timing.ranks)
        ]
        self._bus_free = 0
        self._bus_user: tuple[int, bool] = (0, False)
        self._group_ready: dict[tuple[int, int], int] = {}

    def _decode(self, request: Request, queued: int) -> _Burst:
        address, write = request
        timing = self.timing
        place, group = divmod(address // timing.row_bytes, timing.bank_groups)
        place, bank = divmod(place, timing.banks_per_group)
        row, rank = divmod(place, timing.ranks)
        return _Burst(rank, group, group * timing.banks_per_group + bank, row, write, queued)

    def _refresh(self, rank: _Rank, now: int) -> None:
        """Do every refresh of a rank that was due by ``now``."""
        while rank.next_refresh <= now:
            still_open = [bank for bank in rank.banks if bank.row is not None]
            start = max((bank.may_precharge for bank in still_open), default=0)
            start = max(rank.next_refresh, start) + (self._t["rp"] if still_open else 0)
            rank.refreshed = max(start, rank.refreshed) + self._t["rfc"]
            for bank in rank.banks:
                bank.row, bank.may_activate = None, rank.refreshed
            rank.next_refresh += self._t["refi"]

    def _open(self, rank: _Rank, bank: _Bank, burst: _Burst) -> None:
        """Activate a row as early as the queue and the timing allow."""
        t = self._t
        if bank.row is not None:
            bank.may_activate = max(bank.may_activate, max(burst.queued, bank.may_precharge) + t["rp"])
        activate = max(burst.queued, bank.may_activate)
        if rank.activates:
            activate = max(activate, rank.activates[-1] + t["rrd"])
        if len(rank.activates) == ACTIVATES_IN_WINDOW:
            activate = max(activate, rank.activates[0] + t["faw"])
        rank.activates.append(activate)
        bank.row = burst.row
        bank.may_access = activate + t["rcd"]
        bank.may_precharge = activate + t["ras"]
        bank.may_activate = activate + t["ras"] + t["rp"]

    def _serve(self, burst: _Burst) -> int:
        """Transfer one burst; return when its column command was issued."""
        t, rank = self._t, self._ranks[burst.rank]
        bank = rank.banks[burst.bank]
        latency = t["cwl"] if burst.write else t["cl"]
        user = (burst.rank, burst.write)
        turn = t["rtrs"] if self._bus_user != user else 0
        if bank.row != burst.row:
            self._open(rank, bank, burst)
        issue = max(burst.queued, bank.may_access, self._group_ready.get((burst.rank, burst.group), 0))
        issue = max(issue, self._bus_free + turn - latency, 0 if burst.write else rank.may_read)
        end = issue + latency + self.burst
        self._bus_free, self._bus_user = end, user
        self._group_ready[burst.rank, burst.group] = issue + self._same_group
        if burst.write:
            rank.may_read = end + t["wtr"]
            bank.may_precharge = max(bank.may_precharge, end + t["wr"])
        else:
            bank.may_precharge = max(bank.may_precharge, issue + t["rtp"])
        return issue

    def _pick(self, queue: list[_Burst], now: int) -> _Burst:
        """Oldest burst that can be issued at ``now``, or else the one that can be first; banks keep their order."""
        for rank in self._ranks:
            self._refresh(rank, now)
        best, best_ready = queue[0], self._ready(queue[0], now)
        if best_ready > now:
            seen = {(best.rank, best.bank)}
            for burst in queue:
                place = (burst.rank, burst.bank)
                if place not in seen:
                    seen.add(place)
                    ready = self._ready(burst, now)
                    if ready < best_ready:
                        best, best_ready = burst, ready
        return best

    def _ready(self, burst: _Burst, now: int) -> int:
        """When the burst's row can be accessed, or ``now`` if that is later."""
        bank = self._ranks[burst.rank].banks[burst.bank]
        if bank.row == burst.row:
            return max(now, bank.may_access)
        activate = max(burst.queued, bank.may_activate)
        if bank.row is not None:
            activate = max(activate, max(burst.queued, bank.may_precharge) + self._t["rp"])
        return max(now, activate + self._t["rcd"])

    def stream(self, requests: Iterator[Request], until: int) -> float:
        """Serve requests as fast as they are accepted, for ``until`` picoseconds; return bytes per second."""
        depth = self.timing.queue_requests
        reads: list[_Burst] = []
        writes: list[_Burst] = []
        served = issued = 0
        draining = False
        while self._bus_free < until:
            while len(reads) < depth and len(writes) < depth:
                burst = self._decode(next(requests), issued)
                (writes if burst.write else reads).append(burst)
            draining = bool(writes) and (draining or len(writes) >= depth)
            queue = writes if draining else reads
            burst = self._pick(queue, max(self._bus_free - self._t["cl"], issued))
            queue.remove(burst)
            issued = self._serve(burst)
            served += 1
        return served * self.burst_bytes * PS_PER_S / self._bus_free


def sequential_reads(burst_bytes: int, start: int = 0) -> Iterator[Request]:
    """One endless stream of reads."""
    return ((start + index * burst_bytes, False) for index in count())


def alternating(
    burst_bytes: int, reads: int, others: int, *, write: bool, start: int, stride: int
) -> Iterator[Request]:
    """``reads`` sequential reads, then ``others`` bursts of another region, and so on without end.

    Args:
        burst_bytes: Bytes of one burst.
        reads: Reads of the first region in each turn.
        others: Bursts of the second region in each turn.
        write: Whether the second region is written.
        start: Address of the second region.
        stride: Bytes the second region moves on in each turn.
    """
    for turn in count():
        for index in range(reads):
            yield (turn * reads + index) * burst_bytes, False
        for index in range(others):
            yield start + turn * stride + index * burst_bytes, write
