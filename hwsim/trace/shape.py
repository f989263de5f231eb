"""The shape of a decoder-only language model: what a simulator needs to know, and no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hwsim.trace.errors import InputError, from_validation, unknown_name
from hwsim.trace.files import canonical_sha256
from hwsim.trace.schedule import Record


class ModelShape(Record):
    """Dimensions of a decoder-only transformer.

    A linear layer is ``N x K``: ``N`` output rows, ``K`` input columns, as torch stores its weight.
    """

    name: str = Field(min_length=1, description="What results call it.")
    layers: int = Field(ge=1, description="Decoder blocks.")
    hidden_size: int = Field(ge=1, description="Width of the residual stream.")
    ffn_size: int = Field(ge=1, description="Inner width of the MLP.")
    heads: int = Field(ge=1, description="Query heads.")
    kv_heads: int = Field(ge=1, description="Key/value heads; fewer than heads is GQA, 1 is MQA.")
    head_dim: int = Field(ge=1, description="Width of one head.")
    vocab_size: int = Field(ge=1, description="Rows of the embedding table and of lm_head.")
    max_context: int = Field(ge=1, description="Longest prompt plus response in tokens.")
    mlp: Literal["gated", "two-matrix"] = Field(description="Gated: up, gate, down; two-matrix: up, down.")
    activation: Literal["silu", "gelu", "relu"] = Field("silu", description="Of the MLP.")
    norm: Literal["rmsnorm", "layernorm"] = Field("rmsnorm", description="Before attention and MLP, and at the end.")
    parallel_attention: bool = Field(False, description="MLP beside attention on one norm's output (Phi).")
    rotary_fraction: float = Field(1.0, ge=0, le=1, description="Share of head_dim that RoPE turns; 0: none.")
    attention_bias: bool = Field(False, description="Whether the projections of attention have biases.")
    mlp_bias: bool = Field(False, description="Whether the layers of the MLP have biases.")
    tied_embeddings: bool = Field(False, description="Whether lm_head is the embedding table.")

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}")
        return self

    def block_linears(self) -> list[tuple[str, int, int]]:
        """Linear layers of one block as ``(name, N, K)``, in execution order."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        mlp_in = ["gate_proj", "up_proj"] if self.mlp == "gated" else ["up_proj"]
        return [
            ("q_proj", query, self.hidden_size),
            ("k_proj", key_value, self.hidden_size),
            ("v_proj", key_value, self.hidden_size),
            ("o_proj", self.hidden_size, query),
            *((name, self.ffn_size, self.hidden_size) for name in mlp_in),
            ("down_proj", self.hidden_size, self.ffn_size),
        ]

    def linear_weights(self) -> int:
        """Number of weights in all blocks' linear layers (the quantised ones)."""
        return self.layers * sum(n * k for _, n, k in self.block_linears())

    def sha256(self) -> str:
        """Hash of the dimensions, the name left out, so that a renamed copy still matches."""
        return canonical_sha256(self.model_dump(mode="json", exclude={"name"}))


def _config_value(config: Mapping[str, Any], *keys: str, default: Any = None) -> Any:
    """First value that is present and not null among ``keys``."""
    return next((config[key] for key in keys if config.get(key) is not None), default)


_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
}

# What a config.json leaves to the architecture's code: (mlp, norm, parallel attention, biases, rotary share).
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"mlp": "gated", "norm": "rmsnorm"},
    "mistral": {"mlp": "gated", "norm": "rmsnorm"},
    "qwen2": {"mlp": "gated", "norm": "rmsnorm", "attention_bias": True},
    "qwen3": {"mlp": "gated", "norm": "rmsnorm"},
    "gemma": {"mlp": "gated", "norm": "rmsnorm", "tied_embeddings": True},
    "gemma2": {"mlp": "gated", "norm": "rmsnorm", "tied_embeddings": True},
    "gemma3_text": {"mlp": "gated", "norm": "rmsnorm", "tied_embeddings": True},
    "stablelm": {"mlp": "gated", "norm": "layernorm", "rotary_fraction": 0.25},
    "phi": {
        "mlp": "two-matrix",
        "norm": "layernorm",
        "parallel_attention": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rotary_fraction": 0.5,
    },
    "phi3": {"mlp": "gated", "norm": "rmsnorm"},
    "gpt_neox": {
        "mlp": "two-matrix",
        "norm": "layernorm",
        "parallel_attention": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rotary_fraction": 0.25,
    },
    "opt": {
        "mlp": "two-matrix",
        "norm": "layernorm",
        "attention_bias": True,
        "mlp_bias": True,
        "rotary_fraction": 0.0,
        "tied_embeddings": True,
    },
}


def shape_from_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """Read the shape out of a Hugging Face ``config.json``.

    Args:
        config: The parsed file.
        name: Name for reports.

    Raises:
        InputError: If the architecture is not a known decoder or a dimension is missing or impossible.
    """
    family = str(config.get("model_type", "(none)"))
    if family not in _FAMILIES:
        raise unknown_name("model_type", family, _FAMILIES)
    base = _FAMILIES[family]
    hidden = _config_value(config, "hidden_size")
    heads = _config_value(config, "num_attention_heads")
    required = {
        "num_hidden_layers": _config_value(config, "num_hidden_layers"),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size or ffn_dim": _config_value(config, "intermediate_size", "ffn_dim"),
        "vocab_size": _config_value(config, "vocab_size"),
    }
    for key, value in required.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"config.json of '{name}': {key} = {value!r}: must be an integer >= 1")
    activation = str(_config_value(config, "hidden_act", "hidden_activation", "activation_function", default="silu"))
    if activation not in _ACTIVATIONS:
        raise unknown_name("activation", activation, _ACTIVATIONS)
    rope = _config_value(config, "rope_parameters", default={})
    fields = {
        **base,
        "name": name,
        "layers": required["num_hidden_layers"],
        "hidden_size": hidden,
        "ffn_size": required["intermediate_size or ffn_dim"],
        "heads": heads,
        "kv_heads": _config_value(config, "num_key_value_heads", default=heads),
        "head_dim": _config_value(config, "head_dim", default=hidden // heads),
        "vocab_size": required["vocab_size"],
        "max_context": _config_value(config, "max_position_embeddings", default=2048),
        "activation": _ACTIVATIONS[activation],
        "rotary_fraction": _config_value(
            config,
            "partial_rotary_factor",
            "rotary_pct",
            default=_config_value(rope, "partial_rotary_factor", default=base.get("rotary_fraction", 1.0)),
        ),
        "attention_bias": _config_value(
            config, "attention_bias", "use_qkv_bias", default=base.get("attention_bias", False)
        ),
        "mlp_bias": _config_value(config, "mlp_bias", default=base.get("mlp_bias", False)),
        "tied_embeddings": _config_value(config, "tie_word_embeddings", default=base.get("tied_embeddings", False)),
    }
    try:
        return ModelShape.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, f"config.json of '{name}'") from None
