"""Run a schedule inside transformers' own ``model.generate``.

``generate`` runs the model once for the prefill and once for each decode step. Hooks before and after these passes
therefore reproduce our own loop: the width is set before a pass, and what a scheduler looks at is what the pass before
left behind. Whatever else ``generate`` offers (sampling, streamers, stopping criteria, pipelines) works as usual.
At batch 1 the greedy tokens are those of :mod:`accuracy.decoding`; a batch may resolve near-ties differently.

    with scheduled(lm, Schedule.from_label("p4:4>3@40")):
        lm.model.generate(**inputs, max_new_tokens=60)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from accuracy.decoding.capture import capture_activations
from accuracy.decoding.kv_cache import make_cache
from accuracy.decoding.sampling import Sampling
from accuracy.decoding.tree import checked_plan
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import KVCacheView, Prefill, Scheduler, StaticScheduler, StepScheduler
from hwsim.trace import InputError, Schedule

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from accuracy.model import LanguageModel

_TOKEN_BY_TOKEN = "a schedule needs decoding token by token; leave it out"
_NOT_TOKEN_BY_TOKEN = ("num_beams", "assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size", "use_mtp")


@contextmanager
def scheduled(
    lm: LanguageModel,
    schedule: Schedule | Scheduler,
    *,
    switch: PrecisionSwitch | None = None,
    max_new_tokens: int | None = None,
    prompt_ids: Sequence[str] | None = None,
) -> Iterator[None]:
    """Let every ``generate`` of ``lm.model`` inside the ``with`` block run under a schedule.

    Args:
        lm: The model.
        schedule: A schedule, or a scheduler. One that plans from the prefill needs plans that agree for all prompts of
            a batch, which run in one pass; one that decides step by step needs batches of one prompt.
        switch: How the width is set, where it is not a model of any-precision layers.
        max_new_tokens: Bound on the responses, for a scheduler that plans.
        prompt_ids: Names of the batch's prompts, for a scheduler that plans; their places by default.

    Raises:
        InputError: If a width is not stored, or, from within ``generate``: if it does not decode token by token with
            a KV cache, or the prompts of a batch are planned differently.
        ModelBusyError: If the model is decoding already.
    """
    scheduler = StaticScheduler(schedule) if isinstance(schedule, Schedule) else schedule
    if scheduler.schedule is None and max_new_tokens is None:
        raise InputError(f"max_new_tokens: missing; scheduler {scheduler.label} plans from it")
    switch = switch or PrecisionSwitch(lm.model)
    switch.check(scheduler.label, scheduler.widths())
    with ExitStack() as stack:
        stack.enter_context(lm.alone())
        switch.forget()
        passes = _Passes(lm.model, scheduler, switch, max_new_tokens or 0, prompt_ids)
        stack.enter_context(passes.prefill_only)
        stack.callback(lm.model.register_forward_pre_hook(passes.before, with_kwargs=True).remove)
        stack.callback(lm.model.register_forward_hook(passes.after).remove)
        yield


def generate_with_schedule(
    lm: LanguageModel,
    input_ids: Tensor,
    schedule: Schedule | Scheduler,
    switch: PrecisionSwitch | None = None,
    *,
    prompt_ids: Sequence[str] | None = None,
    sampling: Sampling | None = None,
    **options: Any,
) -> Tensor:
    """Call ``lm.model.generate`` under a schedule.

    Args:
        lm: The model.
        input_ids: Prompts ``[B, P]``; where they are padded, on the left, with ``attention_mask`` among the options.
        schedule: As :func:`scheduled` takes it.
        switch: How the width is set, where it is not a model of any-precision layers.
        prompt_ids: Names of the prompts, which decide what is sampled; their places by default.
        sampling: Draw tokens as our own loop does; ``do_sample`` and its options draw as transformers does.
        options: Passed on to ``generate``, for example ``max_new_tokens=60, do_sample=False``. Its ``min_new_tokens``
            does not count an EOS, ours does: ``n - 1`` there is ``n`` here.

    Returns:
        What ``generate`` returns: prompts and responses ``[B, P + G]``, unless its options say otherwise.

    Raises:
        InputError: As :func:`scheduled`; or if an option does not decode token by token or samples a second time.
    """
    for option in _NOT_TOKEN_BY_TOKEN:
        if _is_on(options.get(option)):
            raise InputError(f"{option} = {options[option]!r}: {_TOKEN_BY_TOKEN}")
    names = [str(row) for row in range(len(input_ids))] if prompt_ids is None else list(prompt_ids)
    if len(names) != len(input_ids):
        raise InputError(f"prompt_ids: {len(names)} for {len(input_ids)} prompts; give one for each")
    if sampling is not None:
        for option in ("do_sample", "num_return_sequences"):
            if _is_on(options.get(option)):
                raise InputError(f"{option} = {options[option]!r}: sampling is given; leave one of them out")
        processor = _SamplingProcessor(sampling, names, input_ids.shape[1])
        options |= {
            "do_sample": False,
            "logits_processor": LogitsProcessorList([*options.get("logits_processor", []), processor]),
        }
    bound = options.get("max_new_tokens")
    if isinstance(schedule, Scheduler) and schedule.schedule is None and bound is not None:
        # A scheduler sees all positions, as in our own loop; a model with a sliding window would forget some.
        cache = make_cache(lm.model.config.num_hidden_layers, input_ids.shape[1] + bound)
        options.setdefault("past_key_values", cache)
    # Compiled code would not see the width change.
    options.setdefault("disable_compile", True)
    with scheduled(lm, schedule, switch=switch, max_new_tokens=bound, prompt_ids=names), torch.inference_mode():
        tokens: Tensor = lm.model.generate(input_ids, **options)
    return tokens


def _is_on(option: object) -> bool:
    """Whether an option of ``generate`` asks for anything: one beam, or one sequence, is the same as none."""
    return option is True or option not in (None, False, 1)


class _Passes:
    """Follows the passes of ``generate``: sets each one's width and keeps what the scheduler looks at next.

    Attributes:
        prefill_only: Holds what is hooked into the model during the prefill.
    """

    def __init__(
        self,
        model: nn.Module,
        scheduler: Scheduler,
        switch: PrecisionSwitch,
        max_new_tokens: int,
        prompt_ids: Sequence[str] | None,
    ) -> None:
        self.prefill_only = ExitStack()
        self._model, self._scheduler, self._switch = model, scheduler, switch
        self._max_new_tokens, self._prompt_ids = max_new_tokens, prompt_ids
        self._padding: list[int] = []
        self._prompt_length = 0
        self._activations: Mapping[int, Tensor] = {}
        self._plan: Schedule | None = None
        self._logits = torch.empty(0)

    def before(self, _: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Set the width of the coming pass."""
        cache: Cache | None = inputs.get("past_key_values")
        if cache is None:
            raise InputError(f"use_cache = False: {_TOKEN_BY_TOKEN}")
        tokens: Tensor = inputs["input_ids"]
        filled = int(cache.get_seq_length())
        if filled == 0:
            self._begin(tokens, inputs.get("attention_mask"))
            return
        step = filled - self._prompt_length
        if tokens.shape[1] != 1 or step < 0:
            raise InputError(
                f"generate: a pass over {tokens.shape[1]} tokens after {filled} of which {self._prompt_length} came "
                "first; a schedule needs decoding token by token, without assistants or chunks"
            )
        if self._plan is None:
            self._plan = self._planned(cache)
        if isinstance(self._scheduler, StepScheduler):
            bits = self._scheduler.next_bits(step, self._logits[0], KVCacheView(cache, 0, self._padding[0]))
            self._switch.check(self._scheduler.label, frozenset({bits}))
        else:
            bits = self._plan.bits_at(step)
        self._switch.set(bits)

    def after(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """Keep the scores of the next token."""
        self._logits = output.logits[:, -1]
        self.prefill_only.close()

    def _begin(self, tokens: Tensor, mask: Tensor | None) -> None:
        """Prepare the prefill of new prompts."""
        batch, self._prompt_length = tokens.shape
        if isinstance(self._scheduler, StepScheduler) and batch > 1:
            raise InputError(
                f"scheduler {self._scheduler.label}: decides step by step for one prompt, and the batch has {batch}; "
                "give prompts one at a time"
            )
        self._padding = [0] * batch if mask is None or mask.dim() != 2 else (mask == 0).sum(-1).tolist()
        self._plan = self._scheduler.schedule
        self._switch.set(self._scheduler.prefill_weight_bits)
        captured = capture_activations(self._model, self._scheduler.captured_blocks)
        self._activations = self.prefill_only.enter_context(captured)

    def _planned(self, cache: Cache) -> Schedule:
        """What the scheduler plans for the batch."""
        plans = []
        for row, padding in enumerate(self._padding):
            prefill = Prefill(
                prompt_id=str(row) if self._prompt_ids is None else self._prompt_ids[row],
                prompt_tokens=self._prompt_length - padding,
                max_new_tokens=self._max_new_tokens,
                logits=self._logits[row],
                kv_cache=KVCacheView(cache, row, padding),
                activations={block: one[row, padding:] for block, one in self._activations.items()},
            )
            plans.append(checked_plan(self._scheduler, prefill, self._switch))
        for row, plan in enumerate(plans):
            if plan != plans[0]:
                raise InputError(
                    f"scheduler {self._scheduler.label}: plans {plans[0].label()} for prompt 0 and {plan.label()} for "
                    f"prompt {row} of one batch; give prompts one at a time"
                )
        return plans[0]


class _SamplingProcessor(LogitsProcessor):  # type: ignore[misc]
    """Leaves only the token that our own loop would draw."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[str], prompt_length: int) -> None:
        self._sampling, self._prompt_ids, self._prompt_length = sampling, prompt_ids, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self._sampling.choose(scores, self._prompt_ids, input_ids.shape[1] - self._prompt_length)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)
