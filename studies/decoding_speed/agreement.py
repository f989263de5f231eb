"""How often a batch resolves a near-tie differently than a single prompt does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from accuracy.decoding import Decoder, Prompt
from accuracy.decoding.generate_plugin import generate_with_schedule
from accuracy.model import LanguageModel, load_model
from accuracy.schedulers import StaticScheduler
from studies.decoding_speed.subjects import Case

BATCH_SIZE = 32
DTYPES = (torch.float32, torch.float16)


def measure_agreement(case: Case, prompts: int = BATCH_SIZE) -> Iterator[dict[str, Any]]:
    """Compare responses of batch 1 and of a batch, in both number formats.

    Yields:
        Per format: how many responses differ, and the largest gap between the two best logits (batch 1) at the
        place where one first differs; a gap that no rounding explains would be an error of the decoder.
    """
    asked = case.prompts[:prompts]
    for dtype in DTYPES:
        lm = load_model(case.store, dtype=dtype)
        decoder, scheduler = Decoder(lm), StaticScheduler(case.schedule)
        single = [response.tokens for response in decoder.decode(asked, scheduler, 1)]
        batched = [response.tokens for response in decoder.decode(asked, scheduler, len(asked))]
        gaps = [
            _gap(lm, case, prompt, _common(one, many))
            for prompt, one, many in zip(asked, single, batched, strict=True)
            if one != many
        ]
        yield {
            "model": case.name,
            "dtype": str(dtype).removeprefix("torch."),
            "batch_size": len(asked),
            "responses": len(asked),
            "tokens": sum(map(len, single)),
            "differ": len(gaps),
            "largest_gap": max(gaps, default=None),
        }


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning of two token sequences that differ."""
    return next(place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])


def _gap(lm: LanguageModel, case: Case, prompt: Prompt, tokens: int) -> float:
    """Difference of the two best logits after ``tokens`` tokens, at batch 1."""
    seen = generate_with_schedule(
        lm,
        torch.tensor([prompt.token_ids]),
        case.schedule,
        max_new_tokens=tokens + 1,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best, second = seen.logits[tokens][0].topk(2).values.tolist()  # type: ignore[attr-defined]
    return float(best - second)
