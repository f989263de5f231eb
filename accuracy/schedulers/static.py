"""The static scheduler: one schedule for every prompt (PMPD, Section 4.3)."""

from __future__ import annotations

from typing import Any

from accuracy.schedulers.base import Prefill, Scheduler
from accuracy.schedulers.registry import register_scheduler
from hwsim.trace import Schedule


@register_scheduler("static")
class StaticScheduler(Scheduler):
    """Runs a schedule that was fixed beforehand, whatever the prompt."""

    name = "static"

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.prefill_weight_bits = schedule.prefill_weight_bits

    @property
    def schedule(self) -> Schedule:
        """The schedule."""
        return self._schedule

    @property
    def label(self) -> str:
        """The schedule's label, for example ``p4:4>3@40``."""
        return self.schedule.label()

    def identity(self) -> dict[str, Any]:
        """The schedule; uniform ones are no different from static ones."""
        return {"schedule": self.schedule.model_dump(mode="json")}

    def widths(self) -> frozenset[int]:
        """The schedule's widths."""
        return frozenset(self.schedule.widths())

    def plan(self, prefill: Prefill) -> Schedule:
        """Return the schedule."""
        return self.schedule
