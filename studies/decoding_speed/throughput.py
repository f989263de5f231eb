"""Tokens per second of one schedule: a plain loop, ``generate`` of transformers, and our decoder with batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from accuracy.decoding import Decoder, Prompt
from accuracy.decoding.generate_plugin import generate_with_schedule
from accuracy.model import LanguageModel
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import StaticScheduler
from hwsim.trace import Schedule
from studies.decoding_speed.subjects import Case

PLAIN, GENERATE, OWN = "plain loop", "generate", "own decoder"
Tokens = list[tuple[int, ...]]


@dataclass(frozen=True)
class Mode:
    """A way of decoding.

    Attributes:
        name: One of the names above.
        batch_size: Prompts that run together.
        prompts: How many are timed in one turn; others in the next.
    """

    name: str
    batch_size: int
    prompts: int


SINGLE_PROMPTS = 4
MODES = (
    Mode(PLAIN, 1, SINGLE_PROMPTS),
    Mode(GENERATE, 1, SINGLE_PROMPTS),
    Mode(OWN, 1, SINGLE_PROMPTS),
    Mode(OWN, 8, 16),
    Mode(GENERATE, 32, 32),
    Mode(OWN, 32, 32),
    Mode(OWN, 64, 64),
)


def measure_throughput(lm: LanguageModel, case: Case, modes: Sequence[Mode], repeats: int) -> Iterator[dict[str, Any]]:
    """Time every mode in turn, again and again, so that a slow minute is slow for all.

    Yields:
        One row a mode and repeat; ``ratio_to_plain`` is of tokens per CPU second within the repeat, and
        ``differ_from_plain`` counts responses of batch 1 that are not the plain loop's (None for batches).
    """
    for mode in modes:
        _run(mode, lm, case.prompts[:1], case.schedule)
    for repeat in range(repeats):
        first = repeat % len(modes)
        found = {}
        # Another mode goes first each time, so that none always has the same share of what varies slowly.
        for mode in (*modes[first:], *modes[:first]):
            found[mode] = _timed(mode, lm, _turn(case.prompts, mode.prompts, repeat), case.schedule)
        plain, plain_cpu_s, _ = found[modes[0]]
        for mode in modes:
            tokens, cpu_s, wall_s = found[mode]
            made = sum(map(len, tokens))
            rate, plain_rate = made / cpu_s, sum(map(len, plain)) / plain_cpu_s
            differ = (
                sum(one != other for one, other in zip(tokens, plain, strict=True)) if mode.batch_size == 1 else None
            )
            yield {
                "model": case.name,
                "mode": mode.name,
                "batch_size": mode.batch_size,
                "repeat": repeat,
                "prompts": len(tokens),
                "tokens": made,
                "cpu_s": cpu_s,
                "wall_s": wall_s,
                "tokens_per_cpu_s": rate,
                "ratio_to_plain": rate / plain_rate,
                "differ_from_plain": differ,
            }


def _turn(prompts: Sequence[Prompt], count: int, repeat: int) -> list[Prompt]:
    """The prompts of one turn; every turn takes the next ones."""
    count = min(count, len(prompts))
    return [prompts[(repeat * count + place) % len(prompts)] for place in range(count)]


def _timed(mode: Mode, lm: LanguageModel, prompts: Sequence[Prompt], schedule: Schedule) -> tuple[Tokens, float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = _run(mode, lm, prompts, schedule)
    return tokens, time.process_time() - cpu, time.perf_counter() - wall


def _run(mode: Mode, lm: LanguageModel, prompts: Sequence[Prompt], schedule: Schedule) -> Tokens:
    """The responses of a mode, in the order of the prompts."""
    if mode.name == OWN:
        found = Decoder(lm).decode(prompts, StaticScheduler(schedule), mode.batch_size)
        return [response.tokens for response in found]
    answer: Callable[..., Tokens] = _plain_loop if mode.name == PLAIN else _generate
    starts = range(0, len(prompts), mode.batch_size)
    return [one for start in starts for one in answer(lm, prompts[start : start + mode.batch_size], schedule)]


@torch.inference_mode()
def _plain_loop(lm: LanguageModel, prompts: Sequence[Prompt], schedule: Schedule) -> Tokens:
    """The loop that everybody writes: one prompt, a cache that grows, and the width set where it changes."""
    (prompt,) = prompts
    switch, cache = PrecisionSwitch(lm.model), DynamicCache(config=lm.model.config)
    ids, tokens = torch.tensor([prompt.token_ids]), list[int]()
    while len(tokens) < prompt.max_new_tokens and (not tokens or tokens[-1] != _eos(lm)):
        switch.set(schedule.bits_at(len(tokens) - 1) if tokens else schedule.prefill_weight_bits)
        logits = lm.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1:].argmax(-1)
        tokens.append(int(ids))
    return [tuple(tokens)]


def _generate(lm: LanguageModel, prompts: Sequence[Prompt], schedule: Schedule) -> Tokens:
    """``generate`` of transformers under the schedule, prompts padded on the left."""
    longest = max(len(prompt.token_ids) for prompt in prompts)
    padding = [longest - len(prompt.token_ids) for prompt in prompts]
    rows = [[0] * pad + list(prompt.token_ids) for pad, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    out = generate_with_schedule(
        lm,
        torch.tensor(rows),
        schedule,
        attention_mask=torch.tensor(mask),
        max_new_tokens=prompts[0].max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    responses, eos = out[:, longest:].tolist(), _eos(lm)
    return [tuple(row[: row.index(eos) + 1] if eos in row else row) for row in responses]


def _eos(lm: LanguageModel) -> int | None:
    """The one token that ends a response of the models studied here."""
    eos: int | None = lm.model.generation_config.eos_token_id
    return eos
