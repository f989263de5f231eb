"""PAPAlloc: the widths of prefill and decode, found on calibration prompts (PMPD, Section 4.1, Alg. 1 line 2).

The paper asks for the lowest pair that keeps the quality. Which of two pairs is lower where one has the lower prefill
and the other the lower decode width, it does not say; decoding takes most of the time, so the order here is: least mean
decode bits, then prefill bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from accuracy.search.search import SearchSettings, search
from accuracy.search.selection import Selection, Target
from accuracy.tasks import Task
from hwsim.trace import Schedule
from hwsim.trace.candidates import precision_set

if TYPE_CHECKING:
    from accuracy.model import LanguageModel


def width_pairs(widths: Sequence[int], *, rising: bool = False) -> list[Schedule]:
    """Uniform schedules of every (prefill, decode) pair with prefill >= decode.

    >>> [schedule.label() for schedule in width_pairs([4, 3])]
    ['p4:4', 'p4:3', 'p3:3']

    Args:
        widths: The precision set, in any order.
        rising: Pairs with prefill < decode too.

    Raises:
        InputError: If no width is given, one is given twice or illegal.
    """
    falling, _ = precision_set(widths)
    return [
        Schedule.uniform(decode, prefill_weight_bits=prefill)
        for prefill in falling
        for decode in falling
        if rising or prefill >= decode
    ]


def allocate(
    lm: LanguageModel,
    task: Task,
    widths: Sequence[int],
    *,
    rising: bool = False,
    target: Target | None = None,
    settings: SearchSettings | None = None,
) -> Selection:
    """Find the lowest pair of widths that keeps a quality on calibration prompts.

    Args:
        lm: The model.
        task: Where prompts and references come from.
        widths: The precision set, in any order.
        rising: Try pairs with a prefill narrower than the decode steps too.
        target: The quality to keep; within 1% of full precision's score by default.
        settings: How to search; the ``calib`` split, and every pair measured in full, by default.

    Returns:
        Every pair with its score, and the one chosen; see
        :class:`~accuracy.search.selection.Selection`. Where none keeps the quality, the nearest.

    Raises:
        InputError: As :func:`accuracy.search.search.search`, or if the pairs cannot be.
    """
    return search(
        lm,
        task,
        width_pairs(widths, rising=rising),
        target or Target(),
        settings or SearchSettings(split="calib", drop_early=False),
        kind="allocation",
        widths=widths,
    )
