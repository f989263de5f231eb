"""The uniform baseline: one width for all decode steps."""

from __future__ import annotations

from accuracy.schedulers.registry import register_scheduler
from accuracy.schedulers.static import StaticScheduler
from hwsim.trace import Schedule


@register_scheduler("uniform")
class UniformScheduler(StaticScheduler):
    """Decodes at one width; the prefill runs at the same width unless another is given."""

    name = "uniform"

    def __init__(self, weight_bits: int, prefill_weight_bits: int | None = None) -> None:
        super().__init__(Schedule.uniform(weight_bits, prefill_weight_bits))
