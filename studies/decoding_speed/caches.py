"""Decode steps with our preallocated KV cache and with those of transformers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache

from accuracy.decoding.kv_cache import make_cache
from accuracy.linear import set_weight_bits
from accuracy.model import LanguageModel
from studies.decoding_speed.subjects import WIDTHS, Case

PREALLOCATED, DYNAMIC, STATIC = "preallocated", "DynamicCache", "StaticCache"
CACHES = (PREALLOCATED, DYNAMIC, STATIC)
BATCH_SIZES = (1, 32)
PROMPT_TOKENS, STEPS = 64, 32


def measure_caches(lm: LanguageModel, case: Case, repeats: int) -> Iterator[dict[str, Any]]:
    """Time decode steps after a long prompt with every cache in turn; all must choose the same tokens at batch 1."""
    set_weight_bits(lm.model, WIDTHS[0])
    for batch_size in BATCH_SIZES:
        for repeat in range(repeats):
            first = repeat % len(CACHES)
            found = {name: _decode(lm, name, batch_size) for name in (*CACHES[first:], *CACHES[:first])}
            tokens = [found[name][0] for name in CACHES]
            if batch_size == 1 and not all(torch.equal(one, tokens[0]) for one in tokens):
                raise AssertionError(f"{case.name}: the caches give different tokens")
            for name in CACHES:
                yield {
                    "model": case.name,
                    "cache": name,
                    "batch_size": batch_size,
                    "repeat": repeat,
                    "tokens_per_cpu_s": STEPS * batch_size / found[name][1],
                    "ratio_to_dynamic": found[DYNAMIC][1] / found[name][1],
                }


def _make(lm: LanguageModel, name: str) -> Cache:
    if name == DYNAMIC:
        return DynamicCache(config=lm.model.config)
    if name == STATIC:
        return StaticCache(config=lm.model.config, max_cache_len=PROMPT_TOKENS + STEPS)
    return make_cache(lm.model.config.num_hidden_layers, PROMPT_TOKENS + STEPS)


@torch.inference_mode()
def _decode(lm: LanguageModel, name: str, batch_size: int) -> tuple[Tensor, float]:
    """The tokens of a greedy response, and the CPU time of its decode steps."""
    cache = _make(lm, name)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, lm.shape.vocab_size, (batch_size, PROMPT_TOKENS), generator=generator)
    chosen = []
    begin = 0.0
    for step in range(STEPS + 1):
        logits = lm.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1:].argmax(-1)
        chosen.append(ids)
        if step == 0:
            begin = time.process_time()
    return torch.cat(chosen, 1), time.process_time() - begin
