"""The candidate schedules as numbered classes, the same for every response bound: what a scheduler chooses from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise
from typing import Any

from accuracy.schedulers.base import Prefill, Scheduler
from hwsim.trace import SWITCH_POINTS, InputError, Schedule, candidate_count
from hwsim.trace.candidates import falling_schedule, precision_set, switch_steps


@dataclass(frozen=True)
class CandidateSet:
    """The falling schedules of P widths over N switch points, numbered from the fewest bits to the most.

    Class 0 stays at the lowest width, the last class at the highest. A class says at which of the points 0..N-1 each
    width gives way to the next, so that it means the same whatever a prompt's response bound M is; the bound only
    decides which steps the points are. With two widths, class k falls at point k: the classes are those of
    :func:`hwsim.trace.candidate_schedules` reversed. With more, classes are ordered by mean bits over evenly spaced
    points, then fewer switches, then earlier first switch. Where steps coincide (M - 1 < N - 1), so do schedules.

    Attributes:
        widths: The precision set, falling.
        points: Number N of candidate switch points.
        prefill_weight_bits: Width of the prefill.
    """

    widths: tuple[int, ...]
    points: int
    prefill_weight_bits: int

    @classmethod
    def of(
        cls, widths: Sequence[int], points: int = SWITCH_POINTS, prefill_weight_bits: int | None = None
    ) -> CandidateSet:
        """Check a precision set, in any order; the prefill runs at its highest width unless given.

        Raises:
            InputError: If no width is given, one is given twice or is not legal, or there are fewer than two points.
        """
        falling, prefill = precision_set(widths, prefill_weight_bits)
        switch_steps(2, points)
        return cls(falling, points, prefill)

    @property
    def classes(self) -> int:
        """Number of classes, C(N+P-2, P-1)."""
        return candidate_count(self.points, len(self.widths))

    def switch_points(self) -> tuple[tuple[int, ...], ...]:
        """By class, the point (0..N-1) at which each width but the lowest gives way to the next.

        >>> CandidateSet.of([4, 3, 2], points=3).switch_points()
        ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
        """
        return _switch_points(self)

    def schedules(self, max_new_tokens: int) -> tuple[Schedule, ...]:
        """The schedule of every class for responses of at most ``max_new_tokens`` tokens.

        >>> [schedule.label() for schedule in CandidateSet.of([4, 3]).schedules(61)]
        ['p4:3', 'p4:4>3@20', 'p4:4>3@40', 'p4:4']
        """
        return _schedules(self, max_new_tokens)

    def identity(self) -> dict[str, Any]:
        """What decides the candidates, as JSON."""
        return {"widths": list(self.widths), "points": self.points, "prefill_weight_bits": self.prefill_weight_bits}

    @property
    def label(self) -> str:
        """Short text for tables, for example ``p4:4/3 N=4``."""
        return f"p{self.prefill_weight_bits}:{'/'.join(map(str, self.widths))} N={self.points}"


@lru_cache(maxsize=64)
def _switch_points(candidates: CandidateSet) -> tuple[tuple[int, ...], ...]:
    drops = [high - low for high, low in pairwise(candidates.widths)]
    last = candidates.points - 1

    def order(points: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        # Mean bits are the lowest width plus sum(drop * point) / (N - 1).
        return sum(drop * point for drop, point in zip(drops, points, strict=True)), len({*points} - {0, last}), points

    return tuple(sorted(combinations_with_replacement(range(candidates.points), len(drops)), key=order))


@lru_cache(maxsize=1024)
def _schedules(candidates: CandidateSet, max_new_tokens: int) -> tuple[Schedule, ...]:
    """Made once per bound: decoding compares the plans of a batch by identity."""
    # A response of one token has no step to switch at; any plan will do.
    bound = max(max_new_tokens, 2)
    steps = switch_steps(bound, candidates.points)
    widths, prefill = candidates.widths, candidates.prefill_weight_bits
    return tuple(
        falling_schedule(widths, [steps[point] for point in points], bound, prefill)
        for points in candidates.switch_points()
    )


class CandidateScheduler(Scheduler):
    """A scheduler that chooses one class of a :class:`CandidateSet` for each prompt.

    Attributes:
        candidates: What it chooses from.
    """

    def __init__(self, candidates: CandidateSet) -> None:
        self.candidates = candidates
        self.prefill_weight_bits = candidates.prefill_weight_bits

    @abstractmethod
    def choose(self, prefill: Prefill) -> int:
        """The class, 0 (fewest bits) to ``candidates.classes - 1``."""

    @property
    def label(self) -> str:
        """For example ``random-uniform p4:4/3 N=4``."""
        return f"{self.name} {self.candidates.label}"

    def identity(self) -> dict[str, Any]:
        """Name and candidates; to be completed by what decides the choice."""
        return {"scheduler": self.name, **self.candidates.identity()}

    def widths(self) -> frozenset[int]:
        """Every width of the candidates, and the prefill's."""
        return frozenset({*self.candidates.widths, self.prefill_weight_bits})

    def plan(self, prefill: Prefill) -> Schedule:
        """The chosen candidate for this prompt's response bound."""
        chosen = self.choose(prefill)
        if not 0 <= chosen < self.candidates.classes:
            raise InputError(f"scheduler {self.label}: chose class {chosen}: must be 0..{self.candidates.classes - 1}")
        return self.candidates.schedules(prefill.max_new_tokens)[chosen]
