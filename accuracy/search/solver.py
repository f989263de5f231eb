"""OfflineSolver: the static schedule of a task (PMPD, Alg. 1 line 4, Eqs. 1-3), found by trying every candidate.

The candidates fall through the precision set at N switch points. Eq. 1 asks for the earliest switches; between
schedules of which neither has all switches earlier it says nothing. Here the order is: least mean decode bits over the
responses' realised lengths, then prefill bits, then fewest switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from accuracy.search.search import SearchSettings, search
from accuracy.search.selection import Selection, Target
from accuracy.tasks import Task
from hwsim.trace import SWITCH_POINTS, candidate_schedules

if TYPE_CHECKING:
    from accuracy.model import LanguageModel


def solve(
    lm: LanguageModel,
    task: Task,
    widths: Sequence[int],
    *,
    points: int = SWITCH_POINTS,
    prefill_weight_bits: int | None = None,
    target: Target | None = None,
    settings: SearchSettings | None = None,
) -> Selection:
    """Find the cheapest falling schedule that keeps a quality on validation prompts.

    Args:
        lm: The model.
        task: Where prompts and references come from.
        widths: The precision set, in any order.
        points: Number N of candidate switch points; ``task.max_new_tokens`` makes every step one.
        prefill_weight_bits: Width of the prefill; the highest of ``widths`` unless given.
        target: The quality to keep; within 1% of full precision's score by default.
        settings: How to search; the ``val`` split by default.

    Returns:
        Every candidate with its score, and the one chosen; see
        :class:`~accuracy.search.selection.Selection`. Where none keeps the quality, the nearest.

    Raises:
        InputError: As :func:`accuracy.search.search.search`, or if the candidates cannot be.
    """
    schedules = candidate_schedules(widths, task.max_new_tokens, points, prefill_weight_bits)
    return search(
        lm,
        task,
        schedules,
        target or Target(),
        settings or SearchSettings(),
        kind="solution",
        widths=widths,
        points=points,
    )
