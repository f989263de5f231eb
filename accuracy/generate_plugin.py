"""Run a schedule inside transformers' own ``model.generate``.

``generate`` calls its logits processors after every forward pass: after the prefill, then after each decode step.
A processor that only sets the width of the next pass therefore reproduces a hand-written switching loop exactly,
and works with whatever else ``generate`` offers (sampling, streaming, stopping criteria).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from accuracy.precision import PrecisionSwitch
from hwsim.trace import InputError, Schedule

if TYPE_CHECKING:
    from accuracy.model import LanguageModel


class ScheduleProcessor(LogitsProcessor):  # type: ignore[misc]
    """Sets the weight width of the coming decode step and leaves the scores as they are."""

    def __init__(self, switch: PrecisionSwitch, schedule: Schedule, prompt_length: int) -> None:
        """Prepare a run of ``generate``, whose prefill comes next.

        Args:
            switch: Of the model that generates.
            schedule: What to run.
            prompt_length: Columns of ``input_ids``, padding included.
        """
        switch.check(schedule.label(), frozenset(schedule.widths()))
        self._switch, self._schedule, self._prompt_length = switch, schedule, prompt_length
        switch.forget()
        switch.set(schedule.prefill_weight_bits)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Set the width of the step that follows the tokens ``input_ids``, ``[B, prompt + generated]``."""
        self._switch.set(self._schedule.bits_at(input_ids.shape[1] - self._prompt_length))
        return scores


def generate_with_schedule(
    lm: LanguageModel,
    input_ids: Tensor,
    schedule: Schedule,
    switch: PrecisionSwitch | None = None,
    **options: Any,
) -> Tensor:
    """Call ``lm.model.generate`` under a schedule.

    Args:
        lm: The model.
        input_ids: Prompts ``[B, P]``.
        schedule: Width of the prefill and of each decode step.
        switch: How the width is set, where it is not a model of any-precision layers.
        options: Passed on to ``generate``, for example ``max_new_tokens=60, do_sample=False``; beam search
            and assisted decoding run several passes a step and are refused.

    Returns:
        Prompts and responses ``[B, P + G]``.

    Raises:
        InputError: If a width is not stored or an option does not decode token by token.
    """
    for option in ("num_beams", "assistant_model", "prompt_lookup_num_tokens"):
        if options.get(option) not in (None, 1):
            raise InputError(f"{option} = {options[option]!r}: a schedule needs decoding token by token; leave it out")
    processor = ScheduleProcessor(switch or PrecisionSwitch(lm.model), schedule, input_ids.shape[1])
    processors = LogitsProcessorList([*options.pop("logits_processor", []), processor])
    with torch.inference_mode():
        tokens: Tensor = lm.model.generate(input_ids, logits_processor=processors, **options)
    return tokens
