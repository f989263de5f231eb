"""What a model computes: the operators of a prefill and of one decode step, free of any hardware.

Attention reads the KV cache of ``cached`` tokens and computes on ``cached + tokens``; the tokens being
processed have their keys and values on chip. Where one instruction stream serves a bucket of lengths, a step is
built at the bucket's upper end: a prefill computes and stores the padding too, a decode step reads and computes
attention over it, and lm_head still runs once. Norm gains are folded into the linear layers that follow, as is
usual before quantisation, so they cost no traffic of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from math import ceil
from typing import Literal, NamedTuple

from hwsim.precision import DENSE, Precision, table_bytes
from hwsim.trace import FULL_PRECISION_BITS, InputError, ModelShape
from hwsim.units import Amount, bits_to_bytes, ceil_div

COLUMNS_PER_WORD = 32  # a bit-plane row is stored in 32-bit words (nested weights contract)
WORD_BYTES = 4
BIAS_BYTES = 2
SCHEDULER_CLASSES = 4  # candidate switch points of the learned scheduler


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
        resident: The codebooks are on chip: looked up, not read.
        fused: SFU function applied to each output tile on its way, and the share of outputs it touches.
        density: Share of the weights that are stored, multiplied and, if below 1, indexed.
        index_bits: Position of a stored weight within its group.
        binary_coded: Planes have coefficients instead of a codebook.
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
    resident: bool = False
    density: Fraction = DENSE
    index_bits: int = 0
    binary_coded: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of all widths."""
        return sum(use.tokens for use in self.uses)

    @property
    def nested_widths(self) -> tuple[int, ...]:
        """Widths that read planes and a codebook."""
        return tuple(use.weight_bits for use in self.uses if self.nested and use.weight_bits != FULL_PRECISION_BITS)

    @property
    def lookup_widths(self) -> tuple[int, ...]:
        """Widths whose weights are looked up in a codebook."""
        return () if self.binary_coded else self.nested_widths

    @property
    def nonzeros(self) -> int:
        """Stored weights of one row."""
        return ceil(self.k * self.density)

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
        planes = self.planes * ceil_div(self.nonzeros, COLUMNS_PER_WORD) * WORD_BYTES
        plain = sum(bits_to_bytes(self.nonzeros * bits) for bits in self.plain_widths)
        return planes + plain + (BIAS_BYTES if self.bias else 0)

    @property
    def index_row_bytes(self) -> int:
        """Bytes of the positions of one row's stored weights, which all widths share."""
        return bits_to_bytes(self.nonzeros * self.index_bits) if self.density < 1 else 0

    def codebooks_row_bytes(self, entry_bits: int) -> tuple[int, ...]:
        """Bytes of each of one row's codebooks that are read; none where they stay on chip."""
        if self.resident:
            return ()
        return tuple(table_bytes(bits, entry_bits, binary_coded=self.binary_coded) for bits in self.nested_widths)

    @property
    def activations(self) -> int:
        """Elements that go in and come out for one token."""
        return self.k + self.n

    @property
    def macs(self) -> int:
        """Multiply-accumulates with stored weights."""
        return self.n * self.nonzeros * self.tokens


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
    def activations(self) -> int:
        """Elements of the queries that go in and of what comes out for one token."""
        return 2 * self.heads * self.head_dim

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
class LayerRun:
    """Consecutive equal decoder blocks."""

    block: tuple[Operator, ...]
    layers: int


@dataclass(frozen=True, slots=True)
class Step:
    """One pass through the model: head, runs of equal decoder blocks, tail."""

    head: tuple[Operator, ...]
    runs: tuple[LayerRun, ...]
    tail: tuple[Operator, ...]


def _block(
    shape: ModelShape,
    precision: Precision,
    uses: tuple[Use, ...],
    cached: Sequence[Amount],
    tokens: int,
    *,
    resident: bool,
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
            resident=resident,
            density=precision.density(name),
            index_bits=0 if precision.sparsity is None else precision.sparsity.index_bits,
            binary_coded=precision.binary_coded,
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
    shape: ModelShape,
    precision: Precision,
    layer_uses: Sequence[tuple[Use, ...]],
    cached: Sequence[Amount],
    tokens: int,
    *,
    resident_layers: int,
) -> Step:
    """One pass for ``cached`` sequences; ``layer_uses`` holds each layer's widths, neighbours that agree form a run."""
    sequences = len(cached)
    kinds = [(uses, layer < resident_layers) for layer, uses in enumerate(layer_uses)]
    runs = tuple(
        LayerRun(_block(shape, precision, uses, cached, tokens, resident=resident), len(list(layers)))
        for (uses, resident), layers in groupby(kinds)
    )
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
        runs=runs,
        tail=(Vector("final_norm", "norm", sequences * shape.hidden_size), lm_head, Sync()),
    )


def prefill_step(shape: ModelShape, precision: Precision, prompt_tokens: int, *, resident_layers: int = 0) -> Step:
    """Operators of a prefill, which yields token 0: lm_head runs for the last prompt token only.

    Args:
        shape: The model.
        precision: All bits.
        prompt_tokens: Length of the prompt.
        resident_layers: Leading layers whose codebooks of this width are on chip.
    """
    tokens = precision.prefill_tokens(prompt_tokens)
    uses = [(Use(precision.weight_bits, tokens),)] * shape.layers
    return _step(shape, precision, uses, (0,), tokens, resident_layers=resident_layers)


def decode_step(
    shape: ModelShape,
    precision: Precision,
    cached: Amount,
    *,
    resident_layers: int = 0,
    layer_weight_bits: Sequence[int] | None = None,
) -> Step:
    """Operators of one decode step of one sequence.

    Args:
        shape: The model.
        precision: All bits.
        cached: Tokens in the KV cache; an array describes many steps at once.
        resident_layers: Leading layers whose codebooks of this width are on chip.
        layer_weight_bits: Weight bits of each layer, where they differ; replaces ``precision.weight_bits``.
    """
    widths = [precision.weight_bits] * shape.layers if layer_weight_bits is None else layer_weight_bits
    if len(widths) != shape.layers:
        raise InputError(
            f"layer_weight_bits has {len(widths)} entries: must be {shape.layers}, one per layer of {shape.name}"
        )
    uses = [(Use(bits, 1),) for bits in widths]
    return _step(shape, precision, uses, (precision.decode_context(cached),), 1, resident_layers=resident_layers)


def batch_decode_step(
    shape: ModelShape, precision: Precision, members: Sequence[tuple[int, int]], *, resident_layers: int = 0
) -> Step:
    """Operators of one decode step of several sequences at once.

    Args:
        shape: The model.
        precision: Bits of everything but the weights.
        members: Weight bits and cached tokens of each sequence.
        resident_layers: Leading layers whose codebooks of all these widths are on chip.
    """
    counts = Counter(bits for bits, _ in members)
    uses = [tuple(Use(bits, count) for bits, count in sorted(counts.items()))] * shape.layers
    cached = [precision.decode_context(tokens) for _, tokens in members]
    return _step(shape, precision, uses, cached, 1, resident_layers=resident_layers)


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
        cached=precision.decode_context(prompt_tokens - 1),
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
    return Step(head=(), runs=(LayerRun((attention, *layers, Sync()), layers=1),), tail=())


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
    head = bits_to_bytes(shape.vocab_size * shape.hidden_size * precision.lm_head_bits)
    tables = embedding_bytes(shape, precision) + (0 if shares_embedding(shape, precision) else head)
    return shape.layers * _stored_block_bytes(shape, tuple(sorted(widths)), precision) + tables


# A grid asks it of every NPU, and most answers are the same.
@lru_cache(maxsize=1024)
def _stored_block_bytes(shape: ModelShape, widths: tuple[int, ...], precision: Precision) -> int:
    """What a step in which tokens of all ``widths`` meet reads of the linear layers of one block."""
    uses = tuple(Use(bits, 1) for bits in widths)
    return sum(
        linear.n
        * (linear.row_bytes + linear.index_row_bytes + sum(linear.codebooks_row_bytes(precision.codebook_entry_bits)))
        for linear in _block(shape, precision, uses, (0,), 1, resident=False)
        if isinstance(linear, Linear)
    )


def embedding_bytes(shape: ModelShape, precision: Precision) -> int:
    """Size of the embedding table."""
    return bits_to_bytes(shape.vocab_size * shape.hidden_size * precision.embedding_bits)


def shares_embedding(shape: ModelShape, precision: Precision) -> bool:
    """Whether the lm_head reads the embedding table itself."""
    return shape.tied_embeddings and precision.embedding_bits == precision.lm_head_bits
