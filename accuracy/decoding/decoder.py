"""PMPD decoding of many prompts under many schedules, each distinct decode step run once.

A response of G tokens is one prefill (which yields token 0) and G - 1 decode steps; an emitted EOS counts
(design decision 12). Schedules that agree up to a switch point share everything before it: the steps form a tree
(prefill width, then one branch per width in use), and the KV cache is cloned where it branches. A branch runs
the same operations on the same batch as its schedule would alone, so the responses are equal bit for bit.

Near-ties. The next token is the lowest id among the largest logits. A batched matrix product may add in another
order than one of a single row, which moves logits by rounding error (about 1e-6 relative in float32, 1e-3 in
float16); where the two best logits lie closer than that, a batch may choose the other one and the response
continues differently: no response of 128 in float32, 5 of 128 in float16 with batches of 32 (studies/decoding_speed).
``batch_size=1`` is exact: the tokens are those of ``model.generate``. Sampled tokens follow
the same rule, with the logits and their noise in the place of the logits (:mod:`accuracy.decoding.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from accuracy.decoding.capture import attention_linears
from accuracy.decoding.sampling import Sampling
from accuracy.decoding.streaming import OnToken
from accuracy.decoding.tree import DecodeTree, Prompt, Response
from accuracy.model import decoder_blocks
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import Scheduler, StepScheduler
from hwsim.trace import InputError

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

OnBlock = Callable[[], None]


@dataclass(frozen=True)
class Grid:
    """Responses to prompts under schedulers, and what sharing saved.

    Attributes:
        responses: ``responses[scheduler][prompt]``.
        steps: Decode steps of all responses, as if each had run alone.
        steps_run: Decode steps that really ran.
    """

    responses: list[list[Response]]
    steps: int
    steps_run: int

    @property
    def steps_saved(self) -> float:
        """Fraction of decode steps that sharing avoided."""
        return 1 - self.steps_run / self.steps if self.steps else 0.0


class Decoder:
    """Decodes prompts with one model.

    Attributes:
        widths: The widths the model can run at.
    """

    def __init__(self, lm: LanguageModel, switch: PrecisionSwitch | None = None) -> None:
        """Prepare decoding.

        Args:
            lm: The model.
            switch: How its width is set, where it is not a model of any-precision layers.
        """
        self._lm = lm
        self._model = lm.model
        self._switch = switch or PrecisionSwitch(lm.model)
        self.widths = self._switch.widths
        eos = self._model.generation_config.eos_token_id
        self._eos: list[int] = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        self._device: torch.device = next(self._model.parameters()).device

    def check(self, prompts: Sequence[Prompt], schedulers: Sequence[Scheduler]) -> None:
        """Refuse what cannot run, before anything runs.

        Raises:
            InputError: If a prompt is empty or does not fit the context with its response, a bound is below 1,
                an id appears twice, a width is not stored, or a block whose activations are wanted has none.
        """
        context = self._lm.shape.max_context
        seen: set[str] = set()
        for prompt in prompts:
            length, bound = len(prompt.token_ids), prompt.max_new_tokens
            if prompt.id in seen:
                raise InputError(f"prompt '{prompt.id}': the id appears twice; ids must differ")
            seen.add(prompt.id)
            if length < 1:
                raise InputError(f"prompt '{prompt.id}': empty; a prompt needs at least 1 token")
            if bound < 1:
                raise InputError(f"prompt '{prompt.id}': max_new_tokens = {bound}: must be >= 1")
            if not 0 <= prompt.min_new_tokens <= bound:
                raise InputError(f"prompt '{prompt.id}': min_new_tokens = {prompt.min_new_tokens}: must be 0..{bound}")
            if length + bound > context:
                raise InputError(
                    f"prompt '{prompt.id}': {length} prompt tokens + max_new_tokens {bound} = {length + bound}: "
                    f"{self._lm.name} holds at most {context}; shorten the prompt or lower max_new_tokens"
                )
        for scheduler in schedulers:
            self._switch.check(scheduler.label, scheduler.widths())
            attention_linears(self._model, scheduler.captured_blocks)

    def decode(
        self,
        prompts: Sequence[Prompt],
        scheduler: Scheduler,
        batch_size: int = 1,
        *,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Response]:
        """Answer ``prompts`` under one scheduler; times are measured where ``batch_size`` is 1."""
        grid = self.decode_grid(prompts, [scheduler], batch_size, sampling=sampling, on_token=on_token)
        return grid.responses[0]

    def decode_grid(
        self,
        prompts: Sequence[Prompt],
        schedulers: Sequence[Scheduler],
        batch_size: int = 32,
        *,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> Grid:
        """Answer every prompt under every scheduler.

        Args:
            prompts: With ids that differ.
            schedulers: What to run them under.
            batch_size: Prompts decoded together.
            sampling: How tokens are drawn; greedy by default.
            on_token: Called with every token of every response, in order within a response, as soon as it is made.
                What it raises ends the run; the decoder stays usable.

        Raises:
            InputError: As :meth:`check`.
            ModelBusyError: If the model is decoding already.
        """
        self.check(prompts, schedulers)
        found: dict[tuple[int, str], Response] = {}
        steps_run = 0
        for batch in batches(prompts, batch_size):
            grid = self.decode_batch(batch, schedulers, sampling=sampling, on_token=on_token)
            steps_run += grid.steps_run
            for index, responses in enumerate(grid.responses):
                found.update(((index, response.prompt_id), response) for response in responses)
        table = [[found[index, prompt.id] for prompt in prompts] for index in range(len(schedulers))]
        return Grid(table, _steps(table), steps_run)

    @torch.inference_mode()
    def decode_batch(
        self,
        prompts: Sequence[Prompt],
        schedulers: Sequence[Scheduler],
        *,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        on_block: OnBlock | None = None,
    ) -> Grid:
        """Answer prompts that were checked, all in one batch; see :meth:`decode_grid`.

        A scheduler that decides step by step keeps state, so its prompts run one after another.

        Args:
            prompts: As :meth:`decode_grid`.
            schedulers: The same.
            sampling: The same.
            on_token: The same.
            on_block: Called before every decoder block of every pass, the prefill's too. What it raises ends the run,
                so that even a long prefill can be stopped, and nothing is computed otherwise than without it.

        Raises:
            ModelBusyError: If the model is decoding already.
        """
        with self._lm.alone(), nullcontext() if on_block is None else _before_blocks(self._model, on_block):
            self._switch.forget()
            run = DecodeTree(self._lm, self._switch, self._eos, self._device, prompts, schedulers, sampling, on_token)
            planned = [index for index, one in enumerate(schedulers) if not isinstance(one, StepScheduler)]
            for bits in sorted({schedulers[index].prefill_weight_bits for index in planned}):
                sharing = tuple(index for index in planned if schedulers[index].prefill_weight_bits == bits)
                run.tree(range(len(prompts)), sharing)
            for index, scheduler in enumerate(schedulers):
                if isinstance(scheduler, StepScheduler):
                    for prompt in range(len(prompts)):
                        run.tree([prompt], (index,))
        table = [[run.responses[index, prompt] for prompt in range(len(prompts))] for index in range(len(schedulers))]
        return Grid(table, _steps(table), run.steps_run)


def batches(prompts: Sequence[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Group prompts of similar length, the longest first, so that little is spent on padding.

    Raises:
        InputError: If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: must be >= 1")
    ordered = sorted(prompts, key=lambda prompt: -len(prompt.token_ids))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


@contextmanager
def _before_blocks(model: torch.nn.Module, call: OnBlock) -> Iterator[None]:
    """Call ``call`` before every decoder block of every pass inside the ``with`` block."""
    hooks = [block.register_forward_pre_hook(lambda *_: call()) for block in decoder_blocks(model).values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _steps(table: Sequence[Sequence[Response]]) -> int:
    return sum(len(response.decode_weight_bits) for responses in table for response in responses)
