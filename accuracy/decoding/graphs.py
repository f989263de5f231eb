"""PMPD decoding of single prompts by a fused decode step, one CUDA graph for each width (:mod:`kernels.decoder`).

Gives the responses of the ordinary decoder with batches of 1, faster on a GPU: no Python between a step's kernels, no
host sync per token, and a precision switch that costs the choice of another graph. Greedy decoding of schedules that
are known after the prefill only; everything else is the ordinary decoder's.

Near-ties. The fused step rounds in other places than a model's own layers (norms, rotary embedding and attention in
fp32, residuals added before rounding), and adds in another order. Where the two best logits lie closer than that
rounding error, it may choose the other one (:mod:`accuracy.decoding.decoder` on batches, which is the same matter);
a run of its own always repeats bit for bit. In float32, as on a CPU, the errors are about 1e-6 relative, in float16
about 1e-3.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from accuracy.decoding.decoder import Decoder, Grid, OnBlock
from accuracy.decoding.graph_weights import decoder_weights, weights_obstacle
from accuracy.decoding.sampling import Sampling
from accuracy.decoding.streaming import OnToken
from accuracy.decoding.tree import Prompt, Response, checked_plan
from accuracy.schedulers import KVCacheView, Prefill, Scheduler, StepScheduler
from hwsim.trace import InputError
from kernels.decoder import KernelDecoder
from kernels.errors import KernelError
from kernels.generate import first_token, run_steps

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from accuracy.model import LanguageModel


def graph_obstacle(
    lm: LanguageModel, schedulers: Sequence[Scheduler], *, batch_size: int = 1, sampling: Sampling | None = None
) -> str | None:
    """Why responses cannot come from captured steps, in words; None if they can."""
    if batch_size != 1:
        return f"batch_size = {batch_size}: must be 1"
    if sampling is not None:
        return "tokens are sampled: decoding must be greedy"
    for scheduler in schedulers:
        if isinstance(scheduler, StepScheduler):
            return f"scheduler {scheduler.label} decides step by step: schedules must be known after the prefill"
    return weights_obstacle(lm.model)


class GraphDecoder(Decoder):
    """Decodes one prompt at a time with captured steps; without a GPU the same steps run one by one.

    The KV cache is sized for the longest prompt and response seen by :meth:`check`; a longer one later replaces it,
    and every graph is captured again.
    """

    def __init__(self, lm: LanguageModel, schedulers: Sequence[Scheduler]) -> None:
        """Bring the model's weights into the kernels' layout.

        Args:
            lm: The model; its own weights stay where they are.
            schedulers: What will be decoded; weights are packed for their widths.

        Raises:
            InputError: If there is a :func:`graph_obstacle`, or a width is not stored.
        """
        super().__init__(lm)
        obstacle = graph_obstacle(lm, schedulers)
        if obstacle is not None:
            raise InputError(f"{lm.name}: {obstacle}; use the ordinary decoder")
        self._wanted = frozenset[int]().union(*(_widths(scheduler) for scheduler in schedulers))
        for scheduler in schedulers:
            self._switch.check(scheduler.label, _widths(scheduler))
        with _one_line(lm):
            self._shape, self._weights = decoder_weights(lm.model, self._wanted)
        self._kernels: KernelDecoder | None = None
        self._longest = 0

    def check(self, prompts: Sequence[Prompt], schedulers: Sequence[Scheduler]) -> None:
        """As the ordinary decoder's; and refuse widths that no weights were packed for, and responses of forced length.

        Raises:
            InputError: Naming what cannot run.
        """
        super().check(prompts, schedulers)
        for scheduler in schedulers:
            missing = _widths(scheduler) - self._wanted
            if missing:
                raise InputError(
                    f"scheduler {scheduler.label}: weight_bits = {min(missing)}: no weights were packed for it; "
                    "name every scheduler when the decoder is made"
                )
        for prompt in prompts:
            if prompt.min_new_tokens:
                raise InputError(
                    f"prompt '{prompt.id}': min_new_tokens = {prompt.min_new_tokens}: captured steps cannot rule EOS "
                    "out; use the ordinary decoder"
                )
            self._longest = max(self._longest, len(prompt.token_ids) + prompt.max_new_tokens)

    def decode_batch(
        self,
        prompts: Sequence[Prompt],
        schedulers: Sequence[Scheduler],
        *,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        on_block: OnBlock | None = None,
    ) -> Grid:
        """Answer a prompt that was checked; see :meth:`decode_grid`.

        Raises:
            InputError: If there is a :func:`graph_obstacle`, or tokens are to be streamed.
            ModelBusyError: If the model is decoding already.
        """
        obstacle = graph_obstacle(self._lm, schedulers, batch_size=len(prompts), sampling=sampling)
        if obstacle is None and (on_token is not None or on_block is not None):
            obstacle = "tokens are to be streamed, which waits for each of them"
        if obstacle is not None:
            raise InputError(f"{self._lm.name}: {obstacle}; use the ordinary decoder")
        with self._lm.alone(), _one_line(self._lm):
            table = [[self._answer(prompts[0], scheduler)] for scheduler in schedulers]
        steps = sum(len(responses[0].decode_weight_bits) for responses in table)
        return Grid(table, steps, steps)

    def _answer(self, prompt: Prompt, scheduler: Scheduler) -> Response:
        decoder = self._ready(prompt, scheduler)
        begin = time.perf_counter_ns()
        prefilled = decoder.prefill(
            prompt.token_ids, scheduler.prefill_weight_bits, captured_blocks=scheduler.captured_blocks
        )
        first = first_token(decoder)
        schedule = checked_plan(
            scheduler,
            Prefill(
                prompt_id=prompt.id,
                prompt_tokens=len(prompt.token_ids),
                max_new_tokens=prompt.max_new_tokens,
                logits=prefilled.logits,
                kv_cache=KVCacheView(_filled_cache(decoder, len(prompt.token_ids)), 0, 0),
                activations=prefilled.activations,
            ),
            self._switch,
        )
        prefill_ns = time.perf_counter_ns() - begin
        widths = [] if first in self._eos else schedule.expand(prompt.max_new_tokens - 1)
        later, step_ns = run_steps(decoder, widths, eos=self._eos)
        tokens = (first, *later)
        text: str = self._lm.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return Response(
            prompt_id=prompt.id,
            prompt_tokens=len(prompt.token_ids),
            tokens=tokens,
            text=text.strip(),
            prefill_weight_bits=scheduler.prefill_weight_bits,
            decode_weight_bits=tuple(widths[: len(later)]),
            finish_reason="eos" if tokens[-1] in self._eos else "length",
            prefill_ns=prefill_ns,
            step_ns=step_ns,
        )

    def _ready(self, prompt: Prompt, scheduler: Scheduler) -> KernelDecoder:
        """A decoder with room for the response and its graphs captured, so that measured times hold neither."""
        self._longest = max(self._longest, len(prompt.token_ids) + prompt.max_new_tokens)
        decoder, fresh = self._kernels, False
        if decoder is None:
            decoder = self._kernels = KernelDecoder(self._shape, self._weights, capacity=self._longest)
            fresh = True
        elif decoder.capacity < self._longest:
            decoder.reserve(self._longest)
        if fresh and self._device.type == "cuda":
            # Kernels are compiled and loaded when they first run.
            decoder.prefill(prompt.token_ids, scheduler.prefill_weight_bits)
        decoder.prepare(sorted(_widths(scheduler)))
        return decoder


def _widths(scheduler: Scheduler) -> frozenset[int]:
    return scheduler.widths() | {scheduler.prefill_weight_bits}


@contextmanager
def _one_line(lm: LanguageModel) -> Iterator[None]:
    """Turn what the kernels refuse, and a GPU that is too small, into one line."""
    try:
        yield
    except KernelError as error:
        raise InputError(f"{lm.name}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{lm.name}: too little GPU memory for a second copy of the weights; use the ordinary decoder"
        ) from error


@dataclass(frozen=True)
class _FilledLayer:
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class _FilledCache:
    """What schedulers read of a cache: the filled part of every layer, ``[1, kv_heads, T, head_dim]``."""

    layers: list[_FilledLayer]


def _filled_cache(decoder: KernelDecoder, positions: int) -> Cache:
    layers = [
        _FilledLayer(keys[:, :, :positions], values[:, :, :positions])
        for keys, values in zip(decoder.keys, decoder.values, strict=True)
    ]
    return cast("Cache", _FilledCache(layers))
