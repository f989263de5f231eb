"""The bits of a step, each a separate knob, and the form in which an NPU stores and runs them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from hwsim.units import Amount, bits_to_bytes, round_up

DENSE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Sparsity:
    """N:M sparsity of linear layers: weights that are stored, at every width the same, beside their positions.

    Attributes:
        index_bits: Position of a stored weight within its group of M.
        densities: Layer name and share of its weights that are stored; layers not named are dense.
    """

    index_bits: int
    densities: tuple[tuple[str, Fraction], ...]


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of everything that is read or computed, each a separate knob (design decision 4), and how it is stored.

    Attributes:
        weight_bits: Width of the linear layers' weights.
        activation_bits: Width of activations.
        kv_bits: Width of stored keys and values.
        lm_head_bits: Width of lm_head's weights.
        embedding_bits: Width of an embedding's elements.
        codebook_entry_bits: Width of a codebook entry, or of a bit-plane's coefficient.
        binary_coded: A weight is the sum of its planes, each times a coefficient of its row, and an offset; else
            it is an entry of its row's codebook.
        sparsity: Which weights are stored; None: all.
        prefill_bucket_tokens: A prefill runs at the next multiple of this many tokens.
        decode_bucket_tokens: A decode step attends to the next multiple of this many tokens.
    """

    weight_bits: int
    activation_bits: int = 8
    kv_bits: int = 16
    lm_head_bits: int = 16
    embedding_bits: int = 16
    codebook_entry_bits: int = 16
    binary_coded: bool = False
    sparsity: Sparsity | None = None
    prefill_bucket_tokens: int = 1
    decode_bucket_tokens: int = 1

    def density(self, linear: str) -> Fraction:
        """Share of a linear layer's weights that are stored."""
        return DENSE if self.sparsity is None else dict(self.sparsity.densities).get(linear, DENSE)

    def prefill_tokens(self, prompt_tokens: int) -> int:
        """Tokens that a prefill computes."""
        return round_up(prompt_tokens, self.prefill_bucket_tokens)

    def decode_context(self, cached: Amount) -> Amount:
        """Tokens that a decode step reads where ``cached`` are in the cache; the step's own token is one more."""
        return round_up(cached + 1, self.decode_bucket_tokens) - 1

    def cache_tokens(self, prompt_tokens: int, decode_tokens: int) -> int:
        """Tokens of keys and values that the memory must hold for one sequence."""
        last_context = round_up(prompt_tokens + decode_tokens, self.decode_bucket_tokens)
        return max(self.prefill_tokens(prompt_tokens), last_context)


def table_bytes(weight_bits: int, entry_bits: int, *, binary_coded: bool) -> int:
    """Bytes of one row's codebook: ``2**weight_bits`` entries, or a coefficient for each plane and an offset."""
    return bits_to_bytes(entry_bits * (weight_bits + 1 if binary_coded else 1 << weight_bits))
