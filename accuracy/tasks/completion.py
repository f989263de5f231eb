"""Open-ended completion: the model continues beginnings that it wrote itself.

For a model without a task of its own (a story model): prompts are sampled from it at temperature 1 with a fixed seed
and cut at a random length; the only reference is its full-precision greedy continuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from accuracy.precision import PrecisionSwitch
from accuracy.tasks.base import Example, Split, Task, hashed_split, prompt_sha256, register_task
from hwsim.trace import InputError, canonical_sha256

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

CHUNK = 64
MAX_BARREN_CHUNKS = 5


@register_task("self-completion")
class SelfCompletionTask(Task):
    """Beginnings of ``min_prompt_tokens`` to ``max_prompt_tokens`` tokens, split by their hashes."""

    name = "self-completion"
    metrics = ("fidelity_rouge_l", "identical_prefix_tokens")
    has_references = False

    def __init__(
        self,
        lm: LanguageModel,
        *,
        min_prompt_tokens: int = 8,
        max_prompt_tokens: int = 48,
        max_new_tokens: int = 128,
        seed: int = 0,
        switch: PrecisionSwitch | None = None,
    ) -> None:
        """Prepare; the prompts are sampled when asked for.

        Args:
            lm: The model, sampled at its highest width.
            min_prompt_tokens: Shortest beginning.
            max_prompt_tokens: Longest beginning.
            max_new_tokens: Bound on a response.
            seed: Of the sampling.
            switch: How the width is set, where it is not a model of any-precision layers.

        Raises:
            InputError: If the lengths are out of bounds or the tokenizer names no token to begin with.
        """
        context = lm.shape.max_context
        if not 1 <= min_prompt_tokens <= max_prompt_tokens or max_prompt_tokens + max_new_tokens > context:
            raise InputError(
                f"min_prompt_tokens = {min_prompt_tokens}, max_prompt_tokens = {max_prompt_tokens}, "
                f"max_new_tokens = {max_new_tokens}: must rise from 1, the last two together within {context}"
            )
        if lm.tokenizer.bos_token_id is None:
            raise InputError(f"{lm.name}: its tokenizer has no bos_token to begin a text with; give a file of prompts")
        self._lm, self._seed = lm, seed
        self._lengths = min_prompt_tokens, max_prompt_tokens
        self._switch = switch or PrecisionSwitch(lm.model)
        self._chunks: dict[int, list[str]] = {}
        self.max_new_tokens = max_new_tokens
        self.version = canonical_sha256([1, lm.model_sha256, *self._lengths, seed, max(self._switch.widths)])[:16]

    def _stream(self, split: Split) -> Iterator[Example]:
        seen: set[str] = set()
        chunk = barren = 0
        while barren < MAX_BARREN_CHUNKS:
            fresh = [text for text in self._chunk(chunk) if text and prompt_sha256(text) not in seen]
            barren = 0 if fresh else barren + 1
            for number, text in enumerate(fresh):
                identity = prompt_sha256(text)
                if identity not in seen and hashed_split(text) == split:
                    yield Example(f"{chunk}-{number}", text, None)
                seen.add(identity)
            chunk += 1

    def _chunk(self, chunk: int) -> list[str]:
        """Beginnings of one chunk, sampled once."""
        if chunk not in self._chunks:
            self._chunks[chunk] = list(self._sample(chunk))
        return self._chunks[chunk]

    @torch.inference_mode()
    def _sample(self, chunk: int) -> Iterable[str]:
        """Sample one chunk of beginnings; equal chunks are equal whatever was asked for before."""
        low, high = self._lengths
        self._switch.forget()
        self._switch.set(max(self._switch.widths))
        device = next(self._lm.model.parameters()).device
        generator = torch.Generator(device).manual_seed(self._seed * 1_000_003 + chunk)
        tokens = torch.full((CHUNK, 1), self._lm.tokenizer.bos_token_id, device=device)
        lengths = torch.randint(low, high + 1, (CHUNK,), generator=generator, device=device).tolist()
        eos = self._lm.model.generation_config.eos_token_id
        cache = None
        for _ in range(high):
            output = self._lm.model(input_ids=tokens[:, -1:], past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            if eos is not None:
                logits[:, eos] = -torch.inf
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            tokens = torch.cat([tokens, drawn], 1)
        for row, length in zip(tokens[:, 1:].tolist(), lengths, strict=True):
            yield self._lm.tokenizer.decode(row[:length], skip_special_tokens=True).strip()
