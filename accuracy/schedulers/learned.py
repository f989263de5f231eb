"""The learned scheduler: a schedule for each prompt, chosen once from its prefill (PMPD, Section 4.3 and A.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy.schedulers.base import Prefill
from accuracy.schedulers.candidates import CandidateScheduler, CandidateSet
from accuracy.schedulers.registry import register_scheduler
from hwsim.trace import InputError

if TYPE_CHECKING:
    from accuracy.model import LanguageModel


@register_scheduler("learned")
class LearnedScheduler(CandidateScheduler):
    """Classifies the prefill into one of the candidate schedules.

    The candidates' switch steps are fractions of the prompt's own ``max_new_tokens`` M, as in the paper. Where
    responses end long before M, most candidates switch after the end and differ in nothing: choose M near the length
    of a typical response.

    Attributes:
        config: What the checkpoint says about itself; ``config.label_prior`` is what random-prior draws from.
    """

    name = "learned"

    def __init__(
        self,
        checkpoint: Path | str,
        lm: LanguageModel | None = None,
        *,
        widths: Sequence[int] | None = None,
        points: int | None = None,
        sufficiency: float | None = None,
    ) -> None:
        """Load a trained scheduler.

        Args:
            checkpoint: ``scheduler.safetensors`` or the folder of ``bittaper train-scheduler``.
            lm: The model it is to plan for; its hashes must be those of the training. Without it, only the shape of
                what is read from each prefill is checked.
            widths: Decode widths that it must have been trained for; any by default.
            points: Number of candidate points that it must have been trained for; any by default.
            sufficiency: None picks the most probable class, as the paper does. A number in (0, 1) picks the class of
                fewest bits whose probability of being enough, i.e. that the label is this class or one of fewer bits,
                reaches it: higher is safer and costs bits. This rule is ours, not the paper's.

        Raises:
            InputError: If the file holds no learned scheduler, was trained for another model, store, precision set
                or number of points, or ``sufficiency`` is out of bounds.
        """
        from accuracy.scheduler_training.checkpoint import (
            check_fits,
            checkpoint_sha256,
            find_checkpoint,
            load_checkpoint,
        )

        if sufficiency is not None and not 0 < sufficiency < 1:
            raise InputError(f"sufficiency = {sufficiency}: must lie between 0 and 1")
        self._path = find_checkpoint(checkpoint)
        self.config, classifier = load_checkpoint(self._path)
        check_fits(self.config, str(self._path), lm, widths, points)
        config = self.config
        super().__init__(CandidateSet.of(config.widths, config.points, config.prefill_weight_bits))
        self._classifier = classifier if lm is None else classifier.to(next(lm.model.parameters()).device)
        self._sufficiency = sufficiency
        self._sha256 = checkpoint_sha256(config, classifier)
        self.captured_blocks = config.input.captured_blocks(config.layers)

    @property
    def label(self) -> str:
        """For example ``learned p3:3/2 N=4 kv-last 1a2b3c``; the end tells checkpoints of one kind apart."""
        kind = self.config.input.name + ("+positions" if self.config.classifier.positions else "")
        rule = "" if self._sufficiency is None else f" >={self._sufficiency:g}"
        return f"{super().label} {kind} {self._sha256[:6]}{rule}"

    def identity(self) -> dict[str, Any]:
        """The checkpoint's content and the rule."""
        return {**super().identity(), "checkpoint_sha256": self._sha256, "sufficiency": self._sufficiency}

    def choose(self, prefill: Prefill) -> int:
        """Classify the prompt.

        Raises:
            InputError: If the model's shape is not the one of the training.
        """
        from accuracy.scheduler_training.classifier import choose_classes

        layers = prefill.kv_cache.layers
        if layers != self.config.layers:
            raise InputError(
                f"{self._path}: was trained for {self.config.layers} decoder blocks; the model has {layers}"
            )
        logits = self._classifier.classify([self.config.input.read(prefill)], str(self._path))
        return int(choose_classes(logits, self._sufficiency)[0])
