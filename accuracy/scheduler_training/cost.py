"""What the learned scheduler itself costs: parameters, bytes read, and time a prompt beside the prefill's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from accuracy.decoding import Decoder, Prompt
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import LearnedScheduler, Prefill, Scheduler
from hwsim.trace import InputError, Schedule

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

PARAMETER_BYTES = 4
BITS_PER_BYTE = 8


@dataclass(frozen=True)
class SchedulerCost:
    """Cost of one run of the scheduler, once a prompt.

    Attributes:
        parameters: Of the network.
        parameter_bytes: The same, as float32.
        feature_bytes: Keys and values (or activations) read, mean over prompts, in the dtype of the model.
        prefill_weight_bytes: Weights of the decoder blocks' linear layers that the prefill reads, codebooks left out.
        plan_ns: Median time of the scheduler.
        prefill_ns: Median time of the prefill without it.
        share: Median of their quotient, run by run.
        prompts: How many were timed.
        repeats: Times each.
    """

    parameters: int
    parameter_bytes: int
    feature_bytes: float
    prefill_weight_bytes: float
    plan_ns: int
    prefill_ns: int
    share: float
    prompts: int
    repeats: int


def measure_cost(
    lm: LanguageModel,
    scheduler: LearnedScheduler,
    prompts: Sequence[Prompt],
    *,
    repeats: int = 5,
    switch: PrecisionSwitch | None = None,
) -> SchedulerCost:
    """Time the scheduler inside decoding, prompt by prompt, against the prefill of the same run.

    Args:
        lm: The model it was trained for.
        scheduler: The scheduler.
        prompts: What to time it on.
        repeats: How often each.
        switch: How the width is set, where ``lm`` is not a model of any-precision layers.

    Raises:
        InputError: If there is no prompt or no repeat, or one cannot be used.
    """
    if not prompts or repeats < 1:
        raise InputError(f"prompts = {len(prompts)}, repeats = {repeats}: timing needs at least 1 of each")
    decoder = Decoder(lm, switch)
    timed = _Timed(scheduler)
    short = [replace(prompt, max_new_tokens=1, min_new_tokens=0) for prompt in prompts]
    decoder.decode(short[:1], timed)  # the first run pays for what is set up once
    plan_ns: list[int] = []
    prefill_ns: list[int] = []
    for _ in range(repeats):
        for prompt in short:
            (response,) = decoder.decode([prompt], timed)
            assert response.prefill_ns is not None, "one prompt at a time is timed"
            plan_ns.append(timed.plan_ns)
            prefill_ns.append(response.prefill_ns - timed.plan_ns)
    classifier = scheduler.config.classifier
    values_per_token = classifier.heads * classifier.value_dim
    if scheduler.config.source == "kv":
        values_per_token += classifier.heads * classifier.key_dim
    prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts) / len(prompts)
    return SchedulerCost(
        parameters=classifier.parameters,
        parameter_bytes=PARAMETER_BYTES * classifier.parameters,
        feature_bytes=prompt_tokens * values_per_token * lm.model.dtype.itemsize,
        prefill_weight_bytes=lm.shape.linear_weights() * scheduler.prefill_weight_bits / BITS_PER_BYTE,
        plan_ns=round(median(plan_ns)),
        prefill_ns=round(median(prefill_ns)),
        share=median(ours / theirs for ours, theirs in zip(plan_ns, prefill_ns, strict=True)),
        prompts=len(prompts),
        repeats=repeats,
    )


class _Timed(Scheduler):
    """Plans as another scheduler does and notes how long that took."""

    name = "timed"

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.prefill_weight_bits = scheduler.prefill_weight_bits
        self.captured_blocks = scheduler.captured_blocks
        self.plan_ns = 0

    @property
    def label(self) -> str:
        return self._scheduler.label

    def identity(self) -> dict[str, Any]:
        return self._scheduler.identity()

    def widths(self) -> frozenset[int]:
        return self._scheduler.widths()

    def plan(self, prefill: Prefill) -> Schedule:
        begin = time.perf_counter_ns()
        schedule = self._scheduler.plan(prefill)
        self.plan_ns = time.perf_counter_ns() - begin
        return schedule
