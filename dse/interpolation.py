"""Quality of schedules between measured ones, and how far such numbers have been off.

A schedule is placed by the share of decode steps that it reads at each width. Among measured schedules of the same
prefill width that fall through the same widths (or some of them), the closest ones around it are averaged with the
weights that give its shares: linear in its mean decode bits where it has two widths, linear on a triangle where it has
three. Never beyond measured schedules, never across prefill widths, never where widths rise.

How far that is off is measured: each measured schedule that lies between others is left out and found from them. The
largest difference e of n such comparisons is added to both sides of the interval, which else is the weighted mean of
the neighbours' intervals (they share their prompts, so their errors do not average out). If differences at new
schedules are like those, e covers the next one with probability n / (n + 1); leaving one out doubles the gap that is
bridged, so they should be smaller.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from hwsim.trace import Schedule

MAX_WIDTHS = 3
"""Decode widths of a schedule that is interpolated: triangles are searched in full, more corners would take minutes."""

MIN_COMPARISONS = 5
"""Fewer left-out schedules than this say too little about the error: nothing is interpolated then."""

ROUNDING = 1e-9
"""Weights as little below zero as this are zero."""

CHUNK = 512
"""Schedules located at a time, which bounds the memory."""


@dataclass(frozen=True)
class Point:
    """A measured schedule.

    Attributes:
        schedule: Equal neighbours merged.
        value: Score.
        low: Lower end of its interval; None without one.
        high: Upper end.
    """

    schedule: Schedule
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """An interpolated score.

    Attributes:
        value: Score.
        low: Lower end of the interval, interpolation error included; None where a neighbour has none.
        high: Upper end.
        error: Largest difference seen when measured schedules were left out.
        comparisons: How many were.
        neighbours: Labels of the schedules it lies between.
    """

    value: float
    low: float | None
    high: float | None
    error: float
    comparisons: int
    neighbours: tuple[str, ...]


Family = tuple[int, tuple[int, ...]]
"""Prefill width and falling decode widths."""


def family_of(schedule: Schedule) -> Family | None:
    """The family of a schedule; None where its widths rise or are too many."""
    widths = tuple(segment.weight_bits for segment in schedule.decode)
    falling = all(before > after for before, after in pairwise(widths))
    return (schedule.prefill_weight_bits, widths) if falling and len(widths) <= MAX_WIDTHS else None


class Interpolator:
    """Finds scores between measured schedules of one table.

    Args:
        points: Measured schedules.
        decode_steps: Decode steps of each response of the workload, which turn switch steps into shares.
    """

    def __init__(self, points: Iterable[Point], decode_steps: Sequence[int]) -> None:
        self._points = [point for point in points if family_of(point.schedule) is not None]
        self._labels = [point.schedule.label() for point in self._points]
        self._steps = np.asarray(decode_steps, dtype=np.int64)
        self._shares: dict[int, float] = {}
        self._errors: dict[int, tuple[float, int]] = {}

    def _share_before(self, step: int) -> float:
        """Share of all decode steps that come before ``step`` of their response."""
        if step not in self._shares:
            self._shares[step] = float(np.minimum(self._steps, step).sum() / self._steps.sum())
        return self._shares[step]

    def _place(self, schedule: Schedule, widths: Sequence[int]) -> list[float]:
        """Share of decode steps at each of ``widths``."""
        starts = [self._share_before(segment.start_step) for segment in schedule.decode]
        shares = defaultdict[int, float](float)
        for segment, start, end in zip(schedule.decode, starts, [*starts[1:], 1.0], strict=True):
            shares[segment.weight_bits] += end - start
        return [shares[width] for width in widths]

    def _members(self, family: Family) -> list[int]:
        prefill, widths = family
        return [
            index
            for index, point in enumerate(self._points)
            if point.schedule.prefill_weight_bits == prefill
            and {segment.weight_bits for segment in point.schedule.decode} <= set(widths)
        ]

    def _locate(
        self, family: Family, targets: Sequence[Schedule], without: int | None = None
    ) -> list[tuple[tuple[int, ...], NDArray[np.float64]] | None]:
        """The closest measured schedules around each target and their weights; None where it lies outside."""
        widths = family[1]
        members = [index for index in self._members(family) if index != without]
        places = np.array([self._place(self._points[index].schedule, widths) for index in members])
        corners = np.array(list(combinations(range(len(members)), len(widths))), dtype=np.intp)
        if not len(corners):
            return [None] * len(targets)
        shapes = places[corners]
        proper = np.abs(np.linalg.det(shapes)) > ROUNDING
        corners, shapes = corners[proper], shapes[proper]
        if not len(corners):
            return [None] * len(targets)
        sides = [np.abs(shapes[:, a] - shapes[:, b]).sum(axis=1) for a, b in combinations(range(len(widths)), 2)]
        order = np.argsort(np.max(sides, axis=0) if sides else np.zeros(len(corners)), kind="stable")
        corners, inverse = corners[order], np.linalg.inv(shapes[order])
        found: list[tuple[tuple[int, ...], NDArray[np.float64]] | None] = []
        for first in range(0, len(targets), CHUNK):
            wanted = np.array([self._place(target, widths) for target in targets[first : first + CHUNK]])
            weights = np.einsum("tw,cwk->tck", wanted, inverse)
            inside = (weights >= -ROUNDING).all(axis=2)
            for is_inside, weight in zip(inside, weights, strict=True):
                if not is_inside.any():
                    found.append(None)
                    continue
                smallest = int(np.argmax(is_inside))
                chosen = tuple(members[corner] for corner in corners[smallest])
                found.append((chosen, np.clip(weight[smallest], 0.0, 1.0)))
        return found

    def _value(self, corners: Sequence[int], weights: NDArray[np.float64]) -> float:
        return float(sum(w * self._points[index].value for index, w in zip(corners, weights, strict=True)))

    def differences(self, widths: int) -> dict[str, float]:
        """Interpolated less measured score of every measured schedule of so many widths that lies between others."""
        found: dict[str, float] = {}
        for index, point in enumerate(self._points):
            family = family_of(point.schedule)
            if family is None or len(family[1]) != widths or widths < 2:
                continue
            (located,) = self._locate(family, [point.schedule], without=index)
            if located is not None:
                found[self._labels[index]] = self._value(*located) - point.value
        return found

    def error(self, widths: int) -> tuple[float, int]:
        """Largest difference for schedules of so many widths, and of how many comparisons."""
        if widths not in self._errors:
            found = [abs(difference) for difference in self.differences(widths).values()]
            self._errors[widths] = max(found, default=0.0), len(found)
        return self._errors[widths]

    def estimate(self, schedules: Iterable[Schedule]) -> dict[str, Estimate | str]:
        """Scores of schedules by label, or why one cannot be interpolated."""
        found: dict[str, Estimate | str] = {}
        families: defaultdict[Family, list[Schedule]] = defaultdict(list)
        for schedule in schedules:
            family = family_of(schedule)
            if family is None:
                found[schedule.label()] = f"its widths rise, or are more than {MAX_WIDTHS}"
            else:
                families[family].append(schedule)
        for family, members in families.items():
            error, comparisons = self.error(len(family[1]))
            for schedule, located in zip(members, self._locate(family, members), strict=True):
                label = schedule.label()
                if located is None:
                    found[label] = "it does not lie between measured schedules of its prefill and decode widths"
                elif comparisons < MIN_COMPARISONS:
                    found[label] = (
                        f"only {comparisons} measured schedules of {len(family[1])} decode widths lie between others, "
                        f"{MIN_COMPARISONS} are needed to know the error of interpolation"
                    )
                else:
                    found[label] = self._estimate(*located, error, comparisons)
        return found

    def _estimate(
        self, corners: Sequence[int], weights: NDArray[np.float64], error: float, comparisons: int
    ) -> Estimate:
        points = [self._points[index] for index in corners]
        pairs = list(zip(points, weights.tolist(), strict=True))
        ends: list[float | None] = [None, None]
        if all(point.low is not None and point.high is not None for point in points):
            low = sum(weight * (point.low or 0.0) for point, weight in pairs)
            high = sum(weight * (point.high or 0.0) for point, weight in pairs)
            ends = [low - error, high + error]
        neighbours = tuple(self._labels[index] for index, weight in zip(corners, weights, strict=True) if weight > 0)
        return Estimate(self._value(corners, weights), ends[0], ends[1], error, comparisons, neighbours)


@dataclass(frozen=True)
class Coverage:
    """How the interval of interpolation does on measured schedules.

    Attributes:
        comparisons: Schedules left out in turn, with an error known from the others.
        covered: Of these, measured scores within the error of interpolation alone.
        largest: Largest difference.
        median: Median of the absolute differences.
    """

    comparisons: int
    covered: int
    largest: float
    median: float


def coverage(points: Sequence[Point], decode_steps: Sequence[int], widths: int = 2) -> Coverage:
    """Leave out each measured schedule and look whether the others' error covers what was found for it.

    The error is that of :meth:`Interpolator.error` without the schedule left out, so nothing of it is known.
    """
    differences = Interpolator(points, decode_steps).differences(widths)
    covered = comparisons = 0
    for label, difference in differences.items():
        rest = Interpolator([point for point in points if point.schedule.label() != label], decode_steps)
        error, known = rest.error(widths)
        if known >= MIN_COMPARISONS:
            comparisons += 1
            covered += abs(difference) <= error
    values = np.abs(list(differences.values()))
    if not len(values):
        return Coverage(0, 0, 0.0, 0.0)
    return Coverage(comparisons, covered, float(values.max()), float(np.median(values)))
