"""The confidence scheduler: an unsure model gets more bits for its next step.

Where the paper's schedulers only know how far a response has come, this one looks at the scores of the token just
chosen: a clear winner would hardly change at a lower width, a close race might. It is the per-step rule of early-exit
decoding (Schuster et al., "Confident Adaptive Language Modeling", NeurIPS 2022) applied to widths instead of depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from accuracy.schedulers.base import KVCacheView, Prefill, StepScheduler
from accuracy.schedulers.registry import register_scheduler
from hwsim.trace import InputError, Schedule, unknown_name
from hwsim.trace.candidates import precision_set

if TYPE_CHECKING:
    from torch import Tensor


def top_probability(logits: Tensor) -> float:
    """Probability of the best token, of logits ``[vocab]``."""
    return float(logits.float().softmax(-1).max())


def probability_margin(logits: Tensor) -> float:
    """How much more probable the best token is than the second, of logits ``[vocab]``."""
    best, second = logits.float().softmax(-1).topk(2).values.tolist()
    return float(best - second)


MEASURES: dict[str, Callable[[Tensor], float]] = {
    "top-probability": top_probability,
    "probability-margin": probability_margin,
}
"""Confidences, 0..1, by name."""


@register_scheduler("confidence")
class ConfidenceScheduler(StepScheduler):
    """Runs each decode step at a width chosen by the confidence of the scores before it.

    With falling widths w_0 > w_1 > ... and rising thresholds t_1 < t_2 < ..., a step runs at w_i where t_i is the
    highest threshold that the confidence reaches, and at w_0 where it reaches none. With ``monotone`` a response never
    goes back to a higher width, as the paper's precedence constraint (Eq. 3) has it; else the width follows the
    confidence up and down, and every switch costs the hardware what a switch costs.
    """

    name = "confidence"

    def __init__(
        self,
        widths: Sequence[int],
        thresholds: Sequence[float],
        measure: str = "top-probability",
        prefill_weight_bits: int | None = None,
        monotone: bool = False,
    ) -> None:
        """Set the rule.

        Args:
            widths: The precision set, in any order.
            thresholds: One fewer than widths, rising, each 0..1.
            measure: How sure the model is: one of :data:`MEASURES`.
            prefill_weight_bits: Width of the prefill; the highest of ``widths`` unless given.
            monotone: Never raise the width within a response.

        Raises:
            InputError: If a width, threshold or the measure is out of bounds.
        """
        if measure not in MEASURES:
            raise unknown_name("measure", measure, MEASURES)
        self._widths, self.prefill_weight_bits = precision_set(widths, prefill_weight_bits)
        self._thresholds = tuple(float(threshold) for threshold in thresholds)
        if len(self._thresholds) != len(self._widths) - 1:
            raise InputError(
                f"thresholds: {len(self._thresholds)} given for {len(self._widths)} widths; "
                f"give {len(self._widths) - 1}, one for each width but the highest"
            )
        if not all(0 <= threshold <= 1 for threshold in self._thresholds):
            raise InputError(f"thresholds = {list(self._thresholds)}: each must be 0..1")
        if any(low >= high for low, high in pairwise(self._thresholds)):
            raise InputError(f"thresholds = {list(self._thresholds)}: must rise; the lowest width needs the highest")
        self._measure, self._monotone = measure, monotone
        self._reached = 0

    @property
    def label(self) -> str:
        """For example ``confidence p4:4/3 top-probability>=0.9 monotone``."""
        widths = "/".join(map(str, self._widths))
        thresholds = "".join(f">={threshold:g}" for threshold in self._thresholds)
        falling = " monotone" if self._monotone else ""
        return f"{self.name} p{self.prefill_weight_bits}:{widths} {self._measure}{thresholds}{falling}"

    def identity(self) -> dict[str, Any]:
        """The rule."""
        return {
            "scheduler": self.name,
            "widths": list(self._widths),
            "thresholds": list(self._thresholds),
            "measure": self._measure,
            "prefill_weight_bits": self.prefill_weight_bits,
            "monotone": self._monotone,
        }

    def widths(self) -> frozenset[int]:
        """The precision set, and the prefill's width."""
        return frozenset({*self._widths, self.prefill_weight_bits})

    def plan(self, prefill: Prefill) -> Schedule:
        """Begin a response: nothing is known but the prefill's width."""
        self._reached = 0
        return Schedule.uniform(self._widths[0], self.prefill_weight_bits)

    def next_bits(self, step: int, logits: Tensor, kv_cache: KVCacheView) -> int:
        """The width that the confidence of ``logits`` allows."""
        confidence = MEASURES[self._measure](logits)
        reached = sum(confidence >= threshold for threshold in self._thresholds)
        if self._monotone:
            reached = self._reached = max(reached, self._reached)
        return self._widths[reached]
