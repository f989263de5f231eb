"""What every scheduler must do, ours and anybody's: run :func:`check_scheduler` on two of one kind."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from accuracy.decoding import Decoder, Prompt, Response
from accuracy.schedulers import Scheduler
from hwsim.trace import canonical_sha256

from .conftest import FakeSwitch, tiny_llama

BOUND = 13
PROMPTS = [Prompt(f"p{number}", tuple(range(3, 5 + number)), BOUND) for number in range(4)]
"""Prompts that any scheduler of the suite can answer; a pattern knows their lengths."""


def check_scheduler(make: Callable[[], Scheduler], other: Callable[[], Scheduler]) -> None:
    """Check one kind of scheduler, decoding a small model of widths 2, 3, 4 and 16.

    Args:
        make: Makes one.
        other: Makes one of the same kind with other options.

    Raises:
        AssertionError: If it breaks the interface.
    """
    scheduler = make()
    _check_identity(scheduler, make(), other())
    responses = _decode(scheduler, seed=1)
    for prompt, response in zip(PROMPTS, responses, strict=True):
        assert response.prefill_weight_bits == scheduler.prefill_weight_bits, "plans start with the prefill's width"
        used = {response.prefill_weight_bits, *response.decode_weight_bits}
        assert used <= scheduler.widths(), "widths() covers what runs"
        if scheduler.schedule is not None:
            assert list(response.decode_weight_bits) == scheduler.schedule.expand(len(response.tokens) - 1)
        assert prompt.id == response.prompt_id
    assert responses == _decode(scheduler, seed=2), "a second run decides the same, whatever torch's global seed"
    alone = [response for prompt in PROMPTS[::-1] for response in _decode(make(), seed=1, prompts=[prompt])]
    for together, one in zip(responses[::-1], alone, strict=True):
        assert together.decode_weight_bits == one.decode_weight_bits, "a prompt's plan depends on no other prompt"


def _check_identity(scheduler: Scheduler, twin: Scheduler, other: Scheduler) -> None:
    identities = [one.identity() for one in (scheduler, twin, other)]
    assert json.loads(json.dumps(identities)) == identities, "an identity is JSON"
    same, again, different = map(canonical_sha256, identities)
    assert same == again, "equal options give equal identities"
    assert same != different, "other options give another identity"
    assert scheduler.label == twin.label, "equal options give equal labels"
    assert scheduler.label != other.label, "other options give another label"
    assert "\n" not in scheduler.label
    assert scheduler.name == other.name
    assert scheduler.prefill_weight_bits in scheduler.widths()


def _decode(scheduler: Scheduler, seed: int, prompts: list[Prompt] = PROMPTS) -> list[Response]:
    lm = tiny_llama()
    torch.manual_seed(seed)
    return Decoder(lm, FakeSwitch(lm.model)).decode(prompts, scheduler, batch_size=2)
