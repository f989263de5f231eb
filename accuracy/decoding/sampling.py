"""Sampling whose random numbers belong to the token, not to the run.

A token is ``argmax(log p + g)`` with Gumbel noise g, which draws exactly from p (Gumbel 1954; Maddison et al., "A*
Sampling", arXiv:1411.0030). The noise of a vocabulary entry is a function of (seed, prompt id, token index, entry)
alone, by a counter-based generator. So a response does not depend on its batch, on the order of prompts or on what
shares its steps, and schedules are compared under common random numbers: where two schedules give distributions that
differ by d in total variation, they choose different tokens with probability at most 2d / (1 + d), whatever the
order of the vocabulary (Bavarian et al., "Optimality of Correlated Sampling Strategies", arXiv:1612.01041). An
inverse distribution function does not have this bound: a little mass moved at its beginning moves every later entry.

The generator is SplitMix64 (Steele et al., OOPSLA 2014), in integer arithmetic that is the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from hwsim.trace import InputError

# The constants of SplitMix64, as the signed integers that torch has.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; without it decoding is greedy.

    Applied in the order temperature, top-k, top-p, as in transformers.

    Attributes:
        temperature: Divides the logits, > 0.
        top_k: Draw from the k likeliest tokens only; of equal ones those of lowest id.
        top_p: Draw from the likeliest tokens that together have at least this probability only.
        seed: Of the random numbers; another seed gives another sample of each response.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature = {self.temperature}: must be > 0; leave sampling out for greedy decoding")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k = {self.top_k}: must be >= 1, or left out to keep every token")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p}: must be > 0 and <= 1, or left out to keep every token")
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be >= 0")

    def choose(self, logits: Tensor, prompt_ids: Sequence[str], index: int) -> Tensor:
        """Draw token ``index`` (0-based) of every row's response.

        Args:
            logits: ``[B, vocab]``.
            prompt_ids: The prompt that each row answers.
            index: How many tokens each row has so far.

        Returns:
            ``[B]`` token ids, on the device of ``logits``; no row depends on another.
        """
        keys = torch.tensor([_key(self.seed, prompt, index) for prompt in prompt_ids], device=logits.device)
        return (self.filter(logits) + gumbel_noise(keys, logits.shape[-1])).argmax(-1)

    def filter(self, logits: Tensor) -> Tensor:
        """Scores after temperature, top-k and top-p, ``[B, vocab]`` float64; what may not be drawn is -inf."""
        scores = logits.double() / self.temperature
        if self.top_k is None and self.top_p is None:
            return scores
        # Stable, so that equal scores come by rising id.
        ordered, ids = scores.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ordered[..., self.top_k :] = -torch.inf
        if self.top_p is not None:
            probabilities = ordered.softmax(-1)
            before = probabilities.cumsum(-1) - probabilities
            # The likeliest token is always kept: nothing comes before it.
            ordered[before >= self.top_p] = -torch.inf
        return torch.full_like(scores, -torch.inf).scatter(-1, ids, ordered)


def gumbel_noise(keys: Tensor, vocab: int) -> Tensor:
    """Standard Gumbel variables ``[B, vocab]`` float64, a function of the row's key and the entry alone.

    Args:
        keys: ``[B]`` int64.
        vocab: Number of entries.
    """
    # 53 bits at the middle of their interval: never 0 or 1, whose logarithms are infinite.
    uniform = (_shift(split_mix(keys, vocab), 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


def split_mix(keys: Tensor, count: int) -> Tensor:
    """The first ``count`` outputs of SplitMix64 for every seed in ``keys`` ``[B]``, as int64 ``[B, count]``."""
    mixed = keys[:, None] + torch.arange(1, count + 1, device=keys.device) * _GAMMA
    mixed = (mixed ^ _shift(mixed, 30)) * _MIX_1
    mixed = (mixed ^ _shift(mixed, 27)) * _MIX_2
    return mixed ^ _shift(mixed, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Shift to the right as unsigned integers."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _key(seed: int, prompt_id: str, index: int) -> int:
    digest = blake2b(f"{seed}/{index}/{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
