"""A scheduler that lowers the width for good once the model has been sure of several tokens in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accuracy.schedulers import KVCacheView, Prefill, StepScheduler, register_scheduler
from hwsim.trace import InputError, Schedule

if TYPE_CHECKING:
    from torch import Tensor


@register_scheduler("streak")
class StreakScheduler(StepScheduler):
    """High until ``run`` tokens in a row had at least ``threshold`` probability, low from then on."""

    name = "streak"

    def __init__(self, high: int, low: int, threshold: float = 0.9, run: int = 8) -> None:
        """Set the rule.

        Raises:
            InputError: If a number is out of bounds.
        """
        if low >= high:
            raise InputError(f"low = {low}: must be below high = {high}")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold = {threshold}: must be 0..1, a probability")
        if run < 1:
            raise InputError(f"run = {run}: must be >= 1")
        self.prefill_weight_bits = high
        self._high, self._low, self._threshold, self._run = high, low, threshold, run
        self._streak = 0

    @property
    def label(self) -> str:
        """What tables and file names call it."""
        return f"{self.name} p{self._high}:{self._high}/{self._low} {self._run}x>={self._threshold:g}"

    def identity(self) -> dict[str, Any]:
        """Everything that decides what it does: results are kept under the hash of this."""
        return {
            "scheduler": self.name,
            "high": self._high,
            "low": self._low,
            "threshold": self._threshold,
            "run": self._run,
        }

    def widths(self) -> frozenset[int]:
        """What it may ask for; a width that the store lacks is refused before the run."""
        return frozenset({self._high, self._low})

    def plan(self, prefill: Prefill) -> Schedule:
        """Begin a response."""
        self._streak = 0
        return Schedule.uniform(self._high)

    def next_bits(self, step: int, logits: Tensor, kv_cache: KVCacheView) -> int:
        """Count sure tokens; a finished streak is never taken back."""
        if self._streak < self._run:
            sure = float(logits.float().softmax(-1).max()) >= self._threshold
            self._streak = self._streak + 1 if sure else 0
        return self._low if self._streak >= self._run else self._high
