"""Candidate schedules: how many there are, and the N points at which the paper lets a schedule switch (Section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

from hwsim.trace.errors import InputError
from hwsim.trace.schedule import FULL_PRECISION_BITS, MAX_PLANES, Schedule

SWITCH_POINTS = 4
"""N candidate switch points over the response (PMPD uses 4); the first and last mean 'never high' and 'never low'."""


def switch_steps(max_new_tokens: int, points: int = SWITCH_POINTS) -> list[int]:
    """Candidate switch steps round(k (M-1)/(N-1)), k = 0..N-1, over the at most M-1 decode steps (design decision 12).

    >>> switch_steps(61, 4)
    [0, 20, 40, 60]

    Raises:
        InputError: If there is no step to switch at, or fewer than two points.
    """
    if max_new_tokens < 2:
        raise InputError(f"max_new_tokens = {max_new_tokens}: a schedule can switch only with at least 2")
    if points < 2:
        raise InputError(f"points = {points}: must be >= 2, the first and the last step")
    return [round(k * (max_new_tokens - 1) / (points - 1)) for k in range(points)]


def candidate_schedules(
    widths: Sequence[int],
    max_new_tokens: int,
    points: int = SWITCH_POINTS,
    prefill_weight_bits: int | None = None,
) -> list[Schedule]:
    """Every schedule that falls through ``widths`` with its switches at the candidate steps (Eqs. 1-3).

    With P widths and N points there are C(N+P-2, P-1); fewer where candidate steps coincide. The schedule that stays
    at the highest width comes first, the one that never uses any but the lowest last.

    >>> [schedule.label() for schedule in candidate_schedules([4, 3], 61, 4)]
    ['p4:4', 'p4:4>3@40', 'p4:4>3@20', 'p4:3']

    Args:
        widths: The precision set, in any order.
        max_new_tokens: Bound M on a response.
        points: Number N of candidate switch points.
        prefill_weight_bits: Width of the prefill; the highest of ``widths`` unless given.

    Raises:
        InputError: If no width is given, one is given twice or illegal, or the points are out of bounds.
    """
    falling, prefill = precision_set(widths, prefill_weight_bits)
    last, *before = reversed(switch_steps(max_new_tokens, points))
    found: dict[str, Schedule] = {}
    for starts in combinations_with_replacement((last, *before), len(falling) - 1):
        schedule = falling_schedule(falling, sorted(starts), max_new_tokens, prefill)
        found.setdefault(schedule.label(), schedule)
    return list(found.values())


def precision_set(widths: Sequence[int], prefill_weight_bits: int | None = None) -> tuple[tuple[int, ...], int]:
    """The widths, falling, and the prefill's, which is the highest of them unless given.

    Raises:
        InputError: If no width is given, one is given twice, or one is legal nowhere.
    """
    falling = tuple(sorted(widths, reverse=True))
    if not falling or len(set(falling)) < len(falling):
        raise InputError(f"widths = {sorted(widths)}: at least one width, each once")
    prefill = falling[0] if prefill_weight_bits is None else prefill_weight_bits
    for field, values in (("widths", falling), ("prefill_weight_bits", (prefill,))):
        for bits in values:
            if not (1 <= bits <= MAX_PLANES or bits == FULL_PRECISION_BITS):
                raise InputError(f"{field} = {bits}: must be 1..{MAX_PLANES}, or {FULL_PRECISION_BITS} (unquantised)")
    return falling, prefill


def falling_schedule(
    falling: Sequence[int], starts: Sequence[int], max_new_tokens: int, prefill_weight_bits: int
) -> Schedule:
    """The schedule that begins at the first of ``falling`` and goes on to the next at each of ``starts``.

    >>> falling_schedule([4, 3, 2], [20, 60], 61, 8).label()
    'p8:4>3@20'

    Args:
        falling: The precision set, falling.
        starts: First decode step of every width but the first, not falling; 0 skips what is before, and M - 1 or more
            lies after the last step: such a width never runs.
        max_new_tokens: Bound M on a response.
        prefill_weight_bits: Width of the prefill.
    """
    begun = [(start, bits) for start, bits in zip(starts, falling[1:], strict=True) if start < max_new_tokens - 1]
    return Schedule.from_pairs(prefill_weight_bits, [(0, falling[0]), *begun])


def schedule_count(response_tokens: int, widths: int) -> int:
    """Number of falling schedules of P widths over OL positions, sum_r C(OL, r) C(P-1, r) = C(OL+P-1, P-1).

    The paper's Section 4.3 prints the sum; Vandermonde's identity gives the closed form.

    >>> schedule_count(256, 2), schedule_count(256, 3), schedule_count(256, 4)
    (257, 33153, 2862209)
    """
    return math.comb(response_tokens + widths - 1, widths - 1)


def candidate_count(points: int, widths: int) -> int:
    """Number of falling schedules of P widths over N candidate points, C(N+P-2, P-1), where all steps differ.

    >>> candidate_count(4, 2), candidate_count(4, 3), candidate_count(4, 4)
    (4, 10, 20)
    """
    return math.comb(points + widths - 2, widths - 1)
