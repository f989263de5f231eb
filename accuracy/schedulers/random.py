"""Random choice of a candidate schedule for each prompt: what the learned scheduler must beat (PMPD, Fig. 7)."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from accuracy.schedulers.base import Prefill
from accuracy.schedulers.candidates import CandidateScheduler, CandidateSet
from accuracy.schedulers.registry import register_scheduler
from hwsim.trace import SWITCH_POINTS, InputError

# Published distributions are rounded to three digits: those of the paper add up to 1.001.
PROBABILITY_SLACK = 0.01


class RandomScheduler(CandidateScheduler):
    """Draws a class for each prompt, by a number that depends on the seed and the prompt's id alone.

    Neither order nor batch matters, and schedulers of one seed draw the same number for a prompt, which makes
    their comparison a paired one.
    """

    def __init__(self, candidates: CandidateSet, seed: int) -> None:
        super().__init__(candidates)
        self._seed = seed

    @property
    @abstractmethod
    def probabilities(self) -> tuple[float, ...]:
        """Probability of each class, fewest bits first."""

    @property
    def label(self) -> str:
        """For example ``random-uniform p4:4/3 N=4 seed 0``."""
        return f"{super().label} seed {self._seed}"

    def identity(self) -> dict[str, Any]:
        """Candidates, seed and probabilities."""
        return {**super().identity(), "seed": self._seed, "label_probabilities": list(self.probabilities)}

    def choose(self, prefill: Prefill) -> int:
        """Draw the class."""
        return self.draw(prefill.prompt_id)

    def draw(self, prompt_id: str) -> int:
        """The class of one prompt."""
        digest = hashlib.sha256(f"{self._seed} {prompt_id}".encode()).digest()
        # 53 bits, which a float holds without rounding up to 1.
        uniform = (int.from_bytes(digest[:8]) >> 11) / 2**53
        *below, whole = accumulate(self.probabilities)
        return bisect_right([edge / whole for edge in below], uniform)


@register_scheduler("random-uniform")
class RandomUniformScheduler(RandomScheduler):
    """Every candidate is equally likely."""

    name = "random-uniform"

    def __init__(
        self,
        widths: Sequence[int],
        points: int = SWITCH_POINTS,
        prefill_weight_bits: int | None = None,
        seed: int = 0,
    ) -> None:
        """Choose the candidates; see :meth:`CandidateSet.of`."""
        super().__init__(CandidateSet.of(widths, points, prefill_weight_bits), seed)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """1 / classes each."""
        return (1 / self.candidates.classes,) * self.candidates.classes


@register_scheduler("random-prior")
class RandomPriorScheduler(RandomScheduler):
    """A candidate is as likely as it is the label of a training prompt: all that can be known without the prompt."""

    name = "random-prior"

    def __init__(
        self,
        widths: Sequence[int],
        label_probabilities: Sequence[float],
        points: int = SWITCH_POINTS,
        prefill_weight_bits: int | None = None,
        seed: int = 0,
    ) -> None:
        """Choose the candidates; see :meth:`CandidateSet.of`.

        Args:
            widths: The precision set.
            label_probabilities: Of each class, fewest bits first; they add up to 1 but for rounding.
            points: Number N of candidate switch points.
            prefill_weight_bits: Width of the prefill.
            seed: Of the draw.

        Raises:
            InputError: If the candidates cannot be, or the probabilities are not theirs.
        """
        super().__init__(CandidateSet.of(widths, points, prefill_weight_bits), seed)
        self._probabilities = tuple(float(probability) for probability in label_probabilities)
        if len(self._probabilities) != self.candidates.classes:
            raise InputError(
                f"label_probabilities: {len(self._probabilities)} given, {self.candidates.label} has "
                f"{self.candidates.classes} classes; give one each, fewest bits first"
            )
        if not min(self._probabilities) >= 0 or not abs(sum(self._probabilities) - 1) <= PROBABILITY_SLACK:
            raise InputError(
                f"label_probabilities = {list(self._probabilities)}: must be >= 0 and add up to 1 "
                f"(within {PROBABILITY_SLACK}, for rounding)"
            )

    @property
    def probabilities(self) -> tuple[float, ...]:
        """As given."""
        return self._probabilities
