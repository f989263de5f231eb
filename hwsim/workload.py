"""What a model computes: the operators of a prefill and of one decode step, free of any hardware.

Attention reads the KV cache of ``cached`` tokens and computes on ``cached + tokens``; the tokens being
processed have their keys and values on chip. Norm gains are folded into the linear layers that follow, as is
usual before quantisation, so they cost no traffic of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hwsim.trace import FULL_PRECISION_BITS, ModelShape
from hwsim.units import BITS_PER_BYTE, Amount, bits_to_bytes, ceil_div

COLUMNS_PER_WORD = 32  # a bit-plane row is stored in 32-bit words (nested weights contract)
WORD_BYTES = 4
BIAS_BYTES = 2
SCHEDULER_CLASSES = 4  # candidate switch points of the learned scheduler


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of everything that is read or computed, each a separate knob (design decision 4)."""

    weight_bits: int
    activation_bits: int = 8
    kv_bits: int = 16
    lm_head_bits: int = 16
    embedding_bits: int = 16
    codebook_entry_bits: int = 16


class Use(NamedTuple):
    """Tokens of a step that are multiplied with weights of one width."""

    weight_bits: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Linear:
    """Activations of width ``k`` times an ``n x k`` weight.

    Attributes:
        uses: Widths and their tokens, each width once. A batch of mixed widths reads each plane once, up to the
            highest needed, and every width's codebooks.
        nested: Widths below 16 are planes with codebooks; otherwise weights are stored at their width.
        joins: Waits for the outputs of every earlier operator (else it shares their input).
        fused: SFU function applied to each output tile on its way, and the share of outputs it touches.
    """

    name: str
    n: int
    k: int
    uses: tuple[Use, ...]
    nested: bool
    kind: Literal["weights", "lm_head", "scheduler"]
    joins: bool
    bias: bool = False
    fused: str | None = None
    fused_share: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens of all widths."""
        return sum(use.tokens for use in self.uses)

    @property
    def nested_widths(self) -> tuple[int, ...]:
        """Widths that read planes and a codebook."""
        return tuple(use.weight_bits for use in self.uses if self.nested and use.weight_bits != FULL_PRECISION_BITS)

    @property
    def planes(self) -> int:
        """Planes read."""
        return max(self.nested_widths, default=0)

    @property
    def plain_widths(self) -> tuple[int, ...]:
        """Widths that read weights stored as they are."""
        return tuple(use.weight_bits for use in self.uses if use.weight_bits not in self.nested_widths)

    @property
    def row_bytes(self) -> int:
        """Stored bytes read of one output row: planes, plain weights, and the bias."""
        planes = self.planes * ceil_div(self.k, COLUMNS_PER_WORD) * WORD_BYTES
        plain = sum(bits_to_bytes(self.k * bits) for bits in self.plain_widths)
        return planes + plain + (BIAS_BYTES if self.bias else 0)

    def codebook_row_bytes(self, entry_bits: int) -> int:
        """Bytes of one row's codebooks."""
        return sum(bits_to_bytes(entry_bits << bits) for bits in self.nested_widths)

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
    sequences: int = 1


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


def _block(
    shape: ModelShape, precision: Precision, uses: tuple[Use, ...], cached: Sequence[Amount], tokens: int
) -> tuple[Operator, ...]:
    """Operators of one decoder block for sequences with ``cached`` tokens and ``tokens`` new ones each."""
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
            uses=uses,
            nested=True,
            kind="weights",
            joins=name in first,
            bias=shape.attention_bias if name in {"q_proj", "k_proj", "v_proj", "o_proj"} else shape.mlp_bias,
            fused=function if share > 0 else None,
            fused_share=share,
        )
    all_tokens = tokens * len(cached)
    attentions = tuple(
        Attention(
            name="attention",
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            tokens=tokens,
            cached=context,
            kv_bits=precision.kv_bits,
            joins=index == 0,
        )
        for index, context in enumerate(cached)
    )
    append = KvAppend("kv_append", all_tokens * attentions[0].token_bytes, len(cached))
    mlp = tuple(linears[name] for name in ("gate_proj", "up_proj", "down_proj") if name in linears)
    # Phi's MLP reads the same norm as its attention.
    mlp_norm = () if shape.parallel_attention else (Vector("mlp_norm", "norm", all_tokens * shape.hidden_size),)
    return (
        Vector("attention_norm", "norm", all_tokens * shape.hidden_size),
        linears["q_proj"],
        linears["k_proj"],
        linears["v_proj"],
        KvReady(),
        *attentions,
        append,
        linears["o_proj"],
        Sync(),
        *mlp_norm,
        *mlp,
        Sync(),
    )


def _step(
    shape: ModelShape, precision: Precision, uses: tuple[Use, ...], cached: Sequence[Amount], tokens: int
) -> Step:
    sequences = len(cached)
    lm_head = Linear(
        name="lm_head",
        n=shape.vocab_size,
        k=shape.hidden_size,
        uses=(Use(precision.lm_head_bits, sequences),),
        nested=False,
        kind="lm_head",
        joins=True,
        fused="sampling",
    )
    row_bytes = bits_to_bytes(shape.hidden_size * precision.embedding_bits)
    return Step(
        head=(Embedding("embedding", sequences * tokens * row_bytes),),
        block=_block(shape, precision, uses, cached, tokens),
        layers=shape.layers,
        tail=(Vector("final_norm", "norm", sequences * shape.hidden_size), lm_head, Sync()),
    )


def prefill_step(shape: ModelShape, precision: Precision, prompt_tokens: int) -> Step:
    """Operators of a prefill, which yields token 0: lm_head runs for the last prompt token only."""
    return _step(shape, precision, (Use(precision.weight_bits, prompt_tokens),), (0,), prompt_tokens)


def decode_step(shape: ModelShape, precision: Precision, cached: Amount) -> Step:
    """Operators of one decode step with ``cached`` tokens in the KV cache (an array: many steps at once)."""
    return _step(shape, precision, (Use(precision.weight_bits, 1),), (cached,), 1)


def batch_decode_step(shape: ModelShape, precision: Precision, members: Sequence[tuple[int, int]]) -> Step:
    """Operators of one decode step of several sequences at once.

    Args:
        shape: The model.
        precision: Bits of everything but the weights.
        members: Weight bits and cached tokens of each sequence.
    """
    counts = Counter(bits for bits, _ in members)
    uses = tuple(Use(bits, count) for bits, count in sorted(counts.items()))
    return _step(shape, precision, uses, [cached for _, cached in members], 1)


def learned_scheduler_step(shape: ModelShape, precision: Precision, prompt_tokens: int) -> Step:
    """Operators of the learned scheduler, which runs once per prompt behind the prefill.

    Attention of one learned query per head to the last block's cache, of which the newest token is on chip, then
    a hidden layer of the attention's width and an output layer, both fp16.

    Source: Chen et al., PMPD, arXiv:2410.13461, Section 4.3; four classes as in its experiments.
    """
    width = shape.heads * shape.head_dim
    attention = Attention(
        name="scheduler_attention",
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tokens=1,
        cached=prompt_tokens - 1,
        kv_bits=precision.kv_bits,
    )
    layers = tuple(
        Linear(
            name=name,
            n=n,
            k=width,
            uses=(Use(FULL_PRECISION_BITS, 1),),
            nested=False,
            kind="scheduler",
            joins=True,
            bias=True,
            fused=function,
        )
        for name, n, function in (
            ("scheduler_hidden", width, "activation"),
            ("scheduler_output", SCHEDULER_CLASSES, "sampling"),
        )
    )
    return Step(head=(), block=(attention, *layers, Sync()), layers=1, tail=())


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
