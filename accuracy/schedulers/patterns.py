"""The decode patterns of PMPD's Fig. 3: where in the response the high width is spent.

All mixed patterns spend the high width on exactly ``ceil(S / 2)`` of a response's S decode steps, so that they
differ in order only and never in mean bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from accuracy.schedulers.base import Prefill, Scheduler
from accuracy.schedulers.registry import register_scheduler
from hwsim.trace import InputError, Schedule, unknown_name

Pattern = Literal["first-half", "middle-half", "last-half", "alternate", "all-high", "all-low"]
PATTERNS: tuple[str, ...] = get_args(Pattern)
"""Where the high width is spent (Fig. 3)."""


def pattern_schedule(
    pattern: str, steps: int, high_bits: int, low_bits: int, prefill_weight_bits: int | None = None
) -> Schedule:
    """Lay ``pattern`` over ``steps`` decode steps; the prefill runs at ``high_bits`` unless given.

    >>> pattern_schedule("middle-half", 8, 4, 3).runs(8)
    [(3, 2), (4, 4), (3, 2)]

    Raises:
        InputError: If the pattern is unknown or ``steps`` is negative.
    """
    if pattern not in PATTERNS:
        raise unknown_name("pattern", pattern, PATTERNS)
    if steps < 0:
        raise InputError(f"steps = {steps}: must be >= 0")
    high_steps = (steps + 1) // 2
    before = {"first-half": 0, "middle-half": (steps - high_steps) // 2, "last-half": steps - high_steps}
    if pattern == "all-high":
        pairs = [(0, high_bits)]
    elif pattern == "all-low":
        pairs = [(0, low_bits)]
    elif pattern == "alternate":
        pairs = [(step, low_bits if step % 2 else high_bits) for step in range(max(steps, 1))]
    else:
        start = before[pattern]
        pairs = [(0, low_bits), (start, high_bits), (start + high_steps, low_bits)]
    return Schedule.from_pairs(high_bits if prefill_weight_bits is None else prefill_weight_bits, pairs)


@register_scheduler("pattern")
class PatternScheduler(Scheduler):
    """Lays a pattern over each prompt's own response length, known from a baseline run.

    Fig. 3 compares responses of one length, the high-precision baseline's; a prompt's ``steps`` are therefore
    given, and the responses are to be decoded with ``min_new_tokens = max_new_tokens = steps + 1``.
    """

    name = "pattern"

    def __init__(
        self,
        pattern: str,
        steps: Mapping[str, int],
        high_bits: int,
        low_bits: int,
        prefill_weight_bits: int | None = None,
    ) -> None:
        if pattern not in PATTERNS:
            raise unknown_name("pattern", pattern, PATTERNS)
        self._pattern, self._steps = pattern, dict(steps)
        self._high_bits, self._low_bits = high_bits, low_bits
        self.prefill_weight_bits = high_bits if prefill_weight_bits is None else prefill_weight_bits

    @property
    def label(self) -> str:
        """For example ``p4:first-half 4/3``."""
        return f"p{self.prefill_weight_bits}:{self._pattern} {self._high_bits}/{self._low_bits}"

    def identity(self) -> dict[str, Any]:
        """Pattern, widths and lengths."""
        widths = [self.prefill_weight_bits, self._high_bits, self._low_bits]
        return {"scheduler": self.name, "pattern": self._pattern, "widths": widths, "steps": self._steps}

    def widths(self) -> frozenset[int]:
        """Prefill, high and low width."""
        return frozenset({self.prefill_weight_bits, self._high_bits, self._low_bits})

    def plan(self, prefill: Prefill) -> Schedule:
        """Lay the pattern over this prompt's steps."""
        if prefill.prompt_id not in self._steps:
            raise InputError(f"prompt '{prefill.prompt_id}': no baseline length given for pattern {self._pattern}")
        steps = self._steps[prefill.prompt_id]
        return pattern_schedule(self._pattern, steps, self._high_bits, self._low_bits, self.prefill_weight_bits)
