"""One schedule of a search: what it has scored and cost so far, and the least that it can still come to cost."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from accuracy.decoding import Response
from accuracy.schedulers import StaticScheduler
from accuracy.search.selection import DropReason, OrderKey, order_key
from accuracy.statistics import Floats
from hwsim.trace import Schedule


class Contender:
    """A schedule and its responses so far.

    Attributes:
        schedule: The schedule.
        scheduler: The same, for decoding.
        feasible: Whether it keeps the quality; None while that is not certain.
        dropped: Why it is out of the race; None while it is in.
        best_possible: The best score it could still have after its last prompt; None where there is no such bound.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.scheduler = StaticScheduler(schedule)
        self.feasible: bool | None = None
        self.dropped: DropReason | None = None
        self.best_possible: float | None = None
        self._rows: dict[int, Floats] = {}
        self._bits = self._steps = 0

    def add(self, places: Sequence[int], responses: Sequence[Response], statistics: Floats) -> None:
        """Count the responses to the prompts at ``places`` among all, with their statistics ``[m, D]``."""
        self._rows.update(zip(places, statistics, strict=True))
        self._bits += sum(sum(one.decode_weight_bits) for one in responses)
        self._steps += sum(len(one.decode_weight_bits) for one in responses)

    def has_answered(self, place: int) -> bool:
        """Whether the prompt at ``place`` has been answered."""
        return place in self._rows

    @property
    def places(self) -> list[int]:
        """Prompts answered so far, by their place among all, rising."""
        return sorted(self._rows)

    @property
    def statistics(self) -> Floats:
        """Of the prompts answered so far, ``[m, D]``, in the order of :attr:`places`."""
        return self.statistics_at(self.places)

    def statistics_at(self, places: Sequence[int]) -> Floats:
        """Of some of the prompts answered so far, ``[m, D]``."""
        return np.array([self._rows[place] for place in places])

    @property
    def order_key(self) -> OrderKey:
        """Its place in the order of choice, by the prompts answered so far."""
        return order_key(self.schedule, self._bits, self._steps)

    def least_mean_bits(self, remaining: int, max_new_tokens: int) -> Fraction:
        """The least mean decode bits it can end with.

        Responses of S steps and b bits each take a falling schedule's mean to (B + sum b) / (T + sum S). For a prompt
        alone, b(S) - m S is concave in S for every m, as each further step takes no more bits than the one before; so
        the least mean has it end at once or run to its bound. What holds for one prompt holds for all that remain,
        which are alike: either none of them takes a step or all take ``max_new_tokens - 1``.

        Args:
            remaining: Prompts not answered yet.
            max_new_tokens: The largest bound M of a prompt.
        """
        steps = max_new_tokens - 1
        widths = self.schedule.expand(steps)
        if any(before < after for before, after in pairwise(widths)):
            widths = [min(widths)] * steps
        ends = [(self._bits, self._steps), (self._bits + remaining * sum(widths), self._steps + remaining * steps)]
        return min((Fraction(bits, count) for bits, count in ends if count), default=Fraction(self.schedule.bits_at(0)))
