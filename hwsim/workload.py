"""What a model computes: the operators of a prefill and of one decode step, free of any hardware.

Attention reads the KV cache of ``cached`` tokens and computes on ``cached + tokens``; the tokens being
processed have their keys and values on chip. Norm gains are folded into the linear layers that follow, as is
usual before quantisation, so they cost no traffic of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwsim.trace import FULL_PRECISION_BITS, ModelShape
from hwsim.units import BITS_PER_BYTE, Amount, bits_to_bytes, ceil_div

COLUMNS_PER_WORD = 32  # a bit-plane row is stored in 32-bit words (nested weights contract)
WORD_BYTES = 4
BIAS_BYTES = 2


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of everything that is read or computed, each a separate knob (design decision 4)."""

    weight_bits: int
    activation_bits: int = 8
    kv_bits: int = 16
    lm_head_bits: int = 16
    embedding_bits: int = 16
    codebook_entry_bits: int = 16


@dataclass(frozen=True, slots=True)
class Linear:
    """``tokens`` activations of width ``k`` times an ``n x k`` weight.

    Attributes:
        weight_bits: Planes read, or 16; ``nested`` says that codebooks belong to them.
        joins: Waits for the outputs of every earlier operator (else it shares their input).
        fused: SFU function applied to each output tile on its way, and the share of outputs it touches.
    """

    name: str
    n: int
    k: int
    tokens: int
    weight_bits: int
    nested: bool
    kind: Literal["weights", "lm_head"]
    joins: bool
    bias: bool = False
    fused: str | None = None
    fused_share: float = 1.0

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one output row at this width: its planes or full-precision weights, and its bias."""
        if self.nested:
            weights = self.weight_bits * ceil_div(self.k, COLUMNS_PER_WORD) * WORD_BYTES
        else:
            weights = bits_to_bytes(self.k * self.weight_bits)
        return weights + (BIAS_BYTES if self.bias else 0)

    def codebook_row_bytes(self, entry_bits: int) -> int:
        """Bytes of one row's codebook; zero for weights that are not nested."""
        return bits_to_bytes(entry_bits << self.weight_bits) if self.nested else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.n * self.k * self.tokens


@dataclass(frozen=True, slots=True)
class Attention:
    """Scores, softmax and weighted sum of all heads, KV tile by KV tile."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int
    cached: Amount
    kv_bits: int
    joins: bool = True

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer."""
        return 2 * bits_to_bytes(self.kv_heads * self.head_dim * self.kv_bits)

    @property
    def pairs(self) -> Amount:
        """Query-key pairs of one head under the causal mask."""
        return self.tokens * self.cached + self.tokens * (self.tokens + 1) // 2

    @property
    def macs(self) -> Amount:
        """Multiply-accumulates of scores and weighted sum."""
        return 2 * self.heads * self.head_dim * self.pairs


@dataclass(frozen=True, slots=True)
class Vector:
    """An SFU function over whole vectors, which no matrix operator can absorb."""

    name: str
    function: str
    elements: int


@dataclass(frozen=True, slots=True)
class KvAppend:
    """Write the new tokens' keys and values of one layer; ready once the projections were."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """Read the embedding rows of the tokens."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class KvReady:
    """Marks the point from which the new keys and values may be written back."""


@dataclass(frozen=True, slots=True)
class Sync:
    """End of a fused layer."""


Operator = Linear | Attention | Vector | KvAppend | KvReady | Embedding | Sync


@dataclass(frozen=True, slots=True)
class Step:
    """One pass through the model: head, ``layers`` equal blocks, tail."""

    head: tuple[Operator, ...]
    block: tuple[Operator, ...]
    layers: int
    tail: tuple[Operator, ...]
    tokens: int


def _block(shape: ModelShape, precision: Precision, tokens: int, cached: Amount) -> tuple[Operator, ...]:
    nested = precision.weight_bits != FULL_PRECISION_BITS
    fused: dict[str, tuple[str, float]] = {
        "q_proj": ("rope", shape.rotary_fraction),
        "k_proj": ("rope", shape.rotary_fraction),
        "o_proj": ("residual", 1.0),
        "down_proj": ("residual", 1.0),
        "up_proj": ("multiply" if shape.mlp == "gated" else "activation", 1.0),
        "gate_proj": ("activation", 1.0),
    }
    # A projection whose input is the previous operator's output waits for it; its siblings share its input.
    first = {"q_proj", "o_proj", "down_proj", "gate_proj" if shape.mlp == "gated" else "up_proj"}
    linears: dict[str, Operator] = {}
    for name, n, k in shape.block_linears():
        function, share = fused.get(name, (None, 0.0))
        linears[name] = Linear(
            name=name,
            n=n,
            k=k,
            tokens=tokens,
            weight_bits=precision.weight_bits,
            nested=nested,
            kind="weights",
            joins=name in first,
            bias=shape.attention_bias if name in {"q_proj", "k_proj", "v_proj", "o_proj"} else shape.mlp_bias,
            fused=function if share > 0 else None,
            fused_share=share,
        )
    norm = Vector("attention_norm", "norm", tokens * shape.hidden_size)
    attention = Attention(
        name="attention",
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tokens=tokens,
        cached=cached,
        kv_bits=precision.kv_bits,
    )
    append = KvAppend("kv_append", tokens * attention.token_bytes)
    mlp = tuple(linears[name] for name in ("gate_proj", "up_proj", "down_proj") if name in linears)
    # Phi's MLP reads the same norm as its attention.
    mlp_norm = () if shape.parallel_attention else (Vector("mlp_norm", "norm", tokens * shape.hidden_size),)
    return (
        norm,
        linears["q_proj"],
        linears["k_proj"],
        linears["v_proj"],
        KvReady(),
        attention,
        append,
        linears["o_proj"],
        Sync(),
        *mlp_norm,
        *mlp,
        Sync(),
    )


def _step(shape: ModelShape, precision: Precision, tokens: int, cached: Amount) -> Step:
    lm_head = Linear(
        name="lm_head",
        n=shape.vocab_size,
        k=shape.hidden_size,
        tokens=1,
        weight_bits=precision.lm_head_bits,
        nested=False,
        kind="lm_head",
        joins=True,
        fused="sampling",
    )
    embedding_bytes = tokens * bits_to_bytes(shape.hidden_size * precision.embedding_bits)
    return Step(
        head=(Embedding("embedding", embedding_bytes),),
        block=_block(shape, precision, tokens, cached),
        layers=shape.layers,
        tail=(Vector("final_norm", "norm", shape.hidden_size), lm_head, Sync()),
        tokens=tokens,
    )


def prefill_step(shape: ModelShape, precision: Precision, prompt_tokens: int) -> Step:
    """Operators of a prefill, which yields token 0: lm_head runs for the last prompt token only."""
    return _step(shape, precision, prompt_tokens, 0)


def decode_step(shape: ModelShape, precision: Precision, cached: Amount) -> Step:
    """Operators of one decode step with ``cached`` tokens in the KV cache (an array: many steps at once)."""
    return _step(shape, precision, 1, cached)


def kv_cache_bytes(shape: ModelShape, kv_bits: int, tokens: int) -> int:
    """Size of the KV cache of ``tokens`` tokens over all layers."""
    return 2 * shape.layers * tokens * bits_to_bytes(shape.kv_heads * shape.head_dim * kv_bits)


def stored_model_bytes(shape: ModelShape, widths: set[int], precision: Precision) -> int:
    """Memory the model occupies where the planes of the widest nested width and all used codebooks are stored.

    Args:
        shape: The model.
        widths: Weight widths in use, 16 among them if the unquantised weights are.
        precision: The other bits; ``weight_bits`` is ignored.
    """
    nested = {bits for bits in widths if bits != FULL_PRECISION_BITS}
    rows = sum(n for _, n, _ in shape.block_linears())
    total = 0
    if nested:
        words = sum(n * ceil_div(k, COLUMNS_PER_WORD) for _, n, k in shape.block_linears())
        codebooks = sum(bits_to_bytes(precision.codebook_entry_bits << bits) for bits in nested)
        total += shape.layers * (max(nested) * words * WORD_BYTES + rows * codebooks)
    if FULL_PRECISION_BITS in widths:
        total += shape.linear_weights() * FULL_PRECISION_BITS // BITS_PER_BYTE
    table = shape.vocab_size * shape.hidden_size
    shared = shape.tied_embeddings and precision.embedding_bits == precision.lm_head_bits
    total += bits_to_bytes(table * precision.embedding_bits)
    return total + (0 if shared else bits_to_bytes(table * precision.lm_head_bits))
