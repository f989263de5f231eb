"""The ways a model runs on a CPU that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from accuracy.linear import set_weight_bits
from accuracy.model import LanguageModel, load_model
from hwsim.trace import FULL_PRECISION_BITS

PROMPT_TOKENS = 32
FLOAT, FLOAT_AGAIN, CACHED, UNPACKED = "float32", "float32 again", "cached", "unpacked"
NESTED_WIDTHS = tuple(range(2, 9))


@dataclass(frozen=True)
class Mode:
    """How a model runs.

    Attributes:
        name: One of the names above; the second float run shows how far two equal ones differ.
        bits: Width of the weights; 16 for the float model and the unquantised weights.
        max_bits: Widest width that is loaded from the store; None for all, the unquantised weights among them.
    """

    name: str
    bits: int = FULL_PRECISION_BITS
    max_bits: int | None = None

    def load(self, source: Path, store: Path) -> LanguageModel:
        """Load the float model or the store as this mode needs it, to compute in float32."""
        if self.name in (FLOAT, FLOAT_AGAIN):
            return load_model(source)
        return load_model(store, weight_cache=self.name == CACHED, max_bits=self.max_bits)


SPEED_MODES = (
    Mode(FLOAT),
    Mode(FLOAT_AGAIN),
    *(Mode(CACHED, bits) for bits in (*NESTED_WIDTHS, FULL_PRECISION_BITS)),
    *(Mode(UNPACKED, bits) for bits in NESTED_WIDTHS),
)
# The store up to the width that runs, and all of it.
MEMORY_MODES = (
    Mode(FLOAT),
    *(Mode(name, bits, max_bits=bits) for name in (CACHED, UNPACKED) for bits in (2, 3, 4, 6, 8)),
    *(Mode(name, NESTED_WIDTHS[-1]) for name in (CACHED, UNPACKED)),
)


class GreedyDecoding:
    """A greedy response to a prompt of 32 tokens, batch 1."""

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, bits: int) -> None:
        """Run the prefill; it also brings the weights of the width into the cache."""
        from transformers import DynamicCache

        set_weight_bits(lm.model, bits)
        self._model = lm.model
        self._cache = DynamicCache(config=lm.model.config)
        self._token = torch.arange(PROMPT_TOKENS).unsqueeze(0) % lm.shape.vocab_size
        self.step()

    @torch.inference_mode()
    def step(self) -> None:
        """Run the model on the tokens not yet seen, and choose the next one."""
        logits = self._model(self._token, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
        self._token = logits[:, -1:].argmax(-1)
