"""One DRAM channel burst by burst: what bandwidth a stream of addresses sustains, from timing alone.

The reference behind the closed forms of :mod:`hwsim.dram`; the engines do not run it. It schedules as DRAMsim3
does with an open page policy: requests are accepted in order into a queue, move on to a short queue of their bank,
and the banks take turns: whichever can transfer first goes first. So a stream that has reached the end of a row
already reads the next one in another bank group, which hides part of tCCD_L. Writes wait in a queue of their own
and are drained together. Each rank is refreshed as a whole once per tREFI, the ranks in turn. The command bus is
not modelled; it costs most (2%) where a burst takes two command clocks.
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
IDLE_DRAIN_REQUESTS = 8  # more waiting writes than this are drained when nothing else is queued

Request = tuple[int, bool]
"""Byte address of a burst, and whether it is written."""


class _Burst(NamedTuple):
    bank: int
    row: int
    write: bool


@dataclass(slots=True)
class _Bank:
    rank: int
    group: int
    row: int | None = None
    may_activate: int = 0
    may_access: int = 0
    may_precharge: int = 0
    queue: deque[_Burst] = field(default_factory=deque)
    reads: deque[_Burst] = field(default_factory=deque)  # accepted, not yet in the bank's queue
    writes: deque[_Burst] = field(default_factory=deque)


@dataclass(slots=True)
class _Rank:
    banks: list[_Bank]
    next_refresh: int
    refreshed: int = 0
    may_read: int = 0
    activates: deque[int] = field(default_factory=lambda: deque(maxlen=ACTIVATES_IN_WINDOW))


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
        per_rank = timing.bank_groups * timing.banks_per_group
        self._banks = [
            _Bank(rank=index // per_rank, group=index // timing.banks_per_group) for index in range(timing.banks)
        ]
        refi = self._t["refi"]
        self._ranks = [
            _Rank(self._banks[index * per_rank : (index + 1) * per_rank], (index + 1) * refi // timing.ranks)
            for index in range(timing.ranks)
        ]
        self._group_ready = [0] * (timing.ranks * timing.bank_groups)
        self._bus_free = 0
        self._bus_user: tuple[int, bool] = (0, False)
        self._last_bank = 0
        self._accepted = {False: 0, True: 0}  # reads and writes not yet in a bank's queue
        self._queued = 0
        self._to_drain = 0

    def _decode(self, request: Request) -> _Burst:
        address, write = request
        timing = self.timing
        place, group = divmod(address // timing.row_bytes, timing.bank_groups)
        place, bank = divmod(place, timing.banks_per_group)
        row, rank = divmod(place, timing.ranks)
        return _Burst((rank * timing.bank_groups + group) * timing.banks_per_group + bank, row, write)

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

    def _open(self, bank: _Bank, row: int, now: int) -> None:
        """Close the bank's row and activate another, as early as the timing allows."""
        t, rank = self._t, self._ranks[bank.rank]
        activate = max(now, bank.may_activate)
        if bank.row is not None:
            activate = max(activate, max(now, bank.may_precharge) + t["rp"])
        if rank.activates:
            activate = max(activate, rank.activates[-1] + t["rrd"])
        if len(rank.activates) == ACTIVATES_IN_WINDOW:
            activate = max(activate, rank.activates[0] + t["faw"])
        rank.activates.append(activate)
        bank.row = row
        bank.may_access = activate + t["rcd"]
        bank.may_precharge = activate + t["ras"]
        bank.may_activate = activate + t["ras"] + t["rp"]

    def _issue_at(self, bank: _Bank, write: bool) -> int:
        """When the column command of the bank's next burst can be issued; its row is open or opening."""
        t = self._t
        turn = t["rtrs"] if self._bus_user != (bank.rank, write) else 0
        bus = self._bus_free + turn - (t["cwl"] if write else t["cl"])
        ready = max(bank.may_access, self._group_ready[bank.group], bus)
        return ready if write else max(ready, self._ranks[bank.rank].may_read)

    def _transfer(self, bank: _Bank, burst: _Burst, issue: int) -> None:
        t = self._t
        end = issue + (t["cwl"] if burst.write else t["cl"]) + self.burst
        self._bus_free, self._bus_user = end, (bank.rank, burst.write)
        self._group_ready[bank.group] = issue + self._same_group
        if burst.write:
            self._ranks[bank.rank].may_read = end + t["wtr"]
            bank.may_precharge = max(bank.may_precharge, end + t["wr"])
        else:
            bank.may_precharge = max(bank.may_precharge, issue + t["rtp"])

    def _refill(self, bank: _Bank) -> None:
        """Move accepted requests into the bank's queue: reads, or writes while they drain."""
        draining = self._to_drain > 0
        waiting = bank.writes if draining else bank.reads
        while waiting and len(bank.queue) < self.timing.bank_queue_requests and (self._to_drain > 0) is draining:
            bank.queue.append(waiting.popleft())
            self._accepted[draining] -= 1
            self._queued += 1
            self._to_drain -= draining
        if draining and self._to_drain == 0:
            self._refill_all()

    def _refill_all(self) -> None:
        for bank in self._banks:
            self._refill(bank)

    def _accept(self, following: _Burst, requests: Iterator[Request]) -> _Burst:
        """Accept requests from ``following`` on while there is room; return the first that found none."""
        while True:
            while self._accepted[following.write] < self.timing.queue_requests:
                bank = self._banks[following.bank]
                (bank.writes if following.write else bank.reads).append(following)
                self._accepted[following.write] += 1
                self._refill(bank)
                following = self._decode(next(requests))
            writes = self._accepted[True]
            full = writes >= self.timing.queue_requests or (writes > IDLE_DRAIN_REQUESTS and self._queued == 0)
            if self._to_drain or not full:
                return following
            self._to_drain = writes
            self._refill_all()

    def stream(self, requests: Iterator[Request], until: int) -> float:
        """Serve requests as fast as they are accepted, for ``until`` picoseconds; return bytes per second."""
        following = self._decode(next(requests))
        served = now = 0
        while self._bus_free < until:
            following = self._accept(following, requests)
            for rank in self._ranks:
                self._refresh(rank, now)
            first: tuple[int, int] | None = None
            banks = len(self._banks)
            for turn in range(banks):
                index = (self._last_bank + 1 + turn) % banks
                bank = self._banks[index]
                if bank.queue:
                    if bank.row != bank.queue[0].row:
                        self._open(bank, bank.queue[0].row, now)
                    issue = max(now, self._issue_at(bank, bank.queue[0].write))
                    if first is None or issue < first[0]:
                        first = issue, index
            assert first is not None, "a full queue moved no request on"
            now, index = first
            bank = self._banks[index]
            due = self._ranks[bank.rank].next_refresh
            if due <= now:
                now = due  # the refresh closes the row before this burst could be read
                continue
            self._transfer(bank, bank.queue.popleft(), now)
            self._last_bank = index
            self._queued -= 1
            self._refill(bank)
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
