"""Dimensions of the decoders whose decode step the kernels are made for; data only, no torch.

The simulator keeps its own table (this package imports no other); a contract test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from kernels.errors import KernelError

Norm = Literal["rms", "layer"]
Mlp = Literal["gated", "plain"]
Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class DecoderShape:
    """A decoder-only transformer as its decode step sees it.

    Attributes:
        name: For reports.
        layers: Decoder blocks.
        hidden: Width of the residual stream.
        ffn: Inner width of the MLP.
        heads: Query heads.
        kv_heads: Key/value heads, a divisor of ``heads``.
        head_dim: Width of a head.
        vocab: Rows of the embedding and of lm_head.
        max_context: Longest prompt plus response in tokens.
        norm: ``rms`` (no bias) or ``layer`` (weight and bias).
        norm_eps: Added to the variance.
        mlp: ``gated`` is ``down(act(gate x) * up x)``, ``plain`` is ``down(act(up x))``.
        activation: ``silu``, or ``gelu_tanh`` (transformers' ``gelu_new``).
        parallel: The MLP reads the same norm's output as the attention (Phi), instead of a norm of its own.
        rotary_fraction: Share of ``head_dim``, from the front, that the rotary embedding turns.
        rotary_base: Its base (``rope_theta``).
        qkv_bias: Whether the query, key and value projections have biases.
        output_bias: Whether the attention's output projection has one.
        mlp_bias: Whether the MLP's linears have biases.
        lm_head_bias: Whether lm_head has one.
    """

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    norm: Norm = "rms"
    norm_eps: float = 1e-5
    mlp: Mlp = "gated"
    activation: Activation = "silu"
    parallel: bool = False
    rotary_fraction: float = 1.0
    rotary_base: float = 10000.0
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False

    def __post_init__(self) -> None:
        """Check what the kernels rely on."""
        for field in ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab", "max_context"):
            if getattr(self, field) < 1:
                raise KernelError(f"{self.name}: {field} = {getattr(self, field)}: must be >= 1")
        if self.heads % self.kv_heads:
            raise KernelError(f"{self.name}: heads = {self.heads}: must be a multiple of kv_heads = {self.kv_heads}")
        if (self.mlp == "gated") != (self.activation == "silu"):
            raise KernelError(
                f"{self.name}: a {self.mlp} MLP with {self.activation}: must be gated with silu or plain with gelu_tanh"
            )
        if not 0 <= self.rotary_fraction <= 1 or self.rotary_dim % 2:
            raise KernelError(
                f"{self.name}: rotary_fraction = {self.rotary_fraction}: must turn an even number of the "
                f"{self.head_dim} columns of a head"
            )

    @property
    def rotary_dim(self) -> int:
        """Columns of a head that the rotary embedding turns."""
        return round(self.head_dim * self.rotary_fraction)

    @property
    def query_width(self) -> int:
        """Columns of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of all key (or value) heads."""
        return self.kv_heads * self.head_dim


def linears(shape: DecoderShape) -> dict[str, tuple[int, int]]:
    """The linears of one block as ``name: (N, K)``: first as checkpoints hold them, then the fused ones.

    >>> linears(SHAPES["llama-3-8b"])["qkv"]
    (6144, 4096)
    """
    up = ("gate", "up") if shape.mlp == "gated" else ("up",)
    single = {
        "q": (shape.query_width, shape.hidden),
        "k": (shape.kv_width, shape.hidden),
        "v": (shape.kv_width, shape.hidden),
        "o": (shape.hidden, shape.query_width),
        **dict.fromkeys(up, (shape.ffn, shape.hidden)),
        "down": (shape.hidden, shape.ffn),
    }
    fused = {"qkv": (shape.query_width + 2 * shape.kv_width, shape.hidden)}
    if shape.mlp == "gated":
        fused["gate_up"] = (2 * shape.ffn, shape.hidden)
    return single | fused


def step_linears(shape: DecoderShape) -> dict[str, tuple[int, int]]:
    """The linears that one block launches in a decode step, in order; fused where they can be."""
    names = ("qkv", "o", "gate_up" if shape.mlp == "gated" else "up", "down")
    return {name: linears(shape)[name] for name in names}


def find_shape(name: str) -> DecoderShape:
    """A built-in shape by name.

    Raises:
        KernelError: If there is none; close names are suggested.
    """
    if name not in SHAPES:
        close = get_close_matches(name, SHAPES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise KernelError(f"shape '{name}': unknown; {hint}known: {', '.join(SHAPES)}")
    return SHAPES[name]


# Source: each model's published config.json. The scaling of positions by which longchat-13b reaches 16384 moves
# values, not time, and is left out.
SHAPES: dict[str, DecoderShape] = {
    shape.name: shape
    for shape in (
        DecoderShape("vicuna-7b", 32, 4096, 11008, 32, 32, 128, 32000, 4096),
        DecoderShape("mobilellama-1.4b", 24, 2048, 5632, 16, 16, 128, 32000, 2048),
        DecoderShape(
            "phi-1.5",
            24,
            2048,
            8192,
            32,
            32,
            64,
            51200,
            2048,
            norm="layer",
            mlp="plain",
            activation="gelu_tanh",
            parallel=True,
            rotary_fraction=0.5,
            qkv_bias=True,
            output_bias=True,
            mlp_bias=True,
            lm_head_bias=True,
        ),
        DecoderShape("stablelm-zephyr-3b", 32, 2560, 6912, 32, 32, 80, 50304, 4096, norm="layer", rotary_fraction=0.25),
        DecoderShape("llama-3-8b", 32, 4096, 14336, 32, 8, 128, 128256, 8192, rotary_base=500000.0),
        DecoderShape("longchat-13b", 40, 5120, 13824, 40, 40, 128, 32000, 16384),
    )
}
