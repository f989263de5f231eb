"""The weights of a loaded model as the fused decode step takes them (:mod:`kernels.decoder`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from accuracy.linear import AnyPrecisionLinear, SwitchedLinear
from hwsim.trace import FULL_PRECISION_BITS, InputError
from kernels.combine import interleave, stack
from kernels.decoder_weights import BlockWeights, DecoderWeights, LinearWeight, NormWeight
from kernels.layout import PackedWeight, SparsePart, pack
from kernels.rotary import RotaryTable
from kernels.shapes import DecoderShape

# Rotary embeddings whose frequencies do not change with the length of the context.
_FIXED_ROTARY = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class _Family:
    """How a family names what Llama names ``o_proj``, ``norm``, ``gate_proj``, ``up_proj`` and ``down_proj``."""

    output: str = "o_proj"
    last_norm: str = "norm"
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    activations: tuple[str, ...] = ("silu", "swish")


_FAMILIES: dict[str, _Family] = {
    "llama": _Family(),
    "mistral": _Family(),
    "qwen2": _Family(),
    "stablelm": _Family(),
    "phi": _Family("dense", "final_layernorm", ("fc1", "fc2"), ("gelu_new", "gelu_pytorch_tanh")),
}


def weights_obstacle(model: Any) -> str | None:
    """Why a model's decode step cannot be fused, in words; None if it can."""
    config = getattr(model, "config", None)
    family = _FAMILIES.get(str(getattr(config, "model_type", None)))
    if config is None or family is None or not all(hasattr(model, part) for part in ("model", "lm_head")):
        kind = getattr(config, "model_type", type(model).__name__)
        return f"model_type = {kind}: must be one of {', '.join(_FAMILIES)}"
    activation, rotary = config.hidden_act, model.model.rotary_emb.rope_type
    if activation not in family.activations:
        return f"hidden_act = {activation}: must be {family.activations[0]}"
    if rotary not in _FIXED_ROTARY:
        return f"rope_type = {rotary}: must be one of {', '.join(_FIXED_ROTARY)}"
    if getattr(config, "qk_layernorm", False):
        return "qk_layernorm = True: queries and keys must not be normalised"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        return f"sliding_window = {window}: attention must reach over the whole context"
    for layer in model.model.layers.modules():
        if isinstance(layer, nn.Linear | SwitchedLinear) and type(layer) not in (nn.Linear, AnyPrecisionLinear):
            return f"it has layers of kind {type(layer).__name__}: must be nn.Linear or AnyPrecisionLinear"
    return None


def decoder_weights(model: Any, widths: Collection[int]) -> tuple[DecoderShape, DecoderWeights]:
    """Join a model's linears and bring them into the kernels' layout; the model itself stays as it is.

    Args:
        model: A transformers model of a family without a :func:`weights_obstacle`.
        widths: The widths wanted, each stored by every layer of the decoder blocks: packed weights take the planes up
            to the widest nested one once more, width 16 takes its fp16 weights once more.

    Raises:
        InputError: If the family is not supported, or a layer does not store a width.
    """
    obstacle = weights_obstacle(model)
    if obstacle is not None:
        raise InputError(f"{obstacle}; decode step by step instead")
    family = _FAMILIES[model.config.model_type]
    body, config = model.model, model.config
    embedding = body.embed_tokens.weight.detach()
    dtype = embedding.dtype

    def linear(layers: Sequence[nn.Module], in_turn: bool = False) -> LinearWeight:
        return _join([_layer(layer, widths, dtype) for layer in layers], in_turn)

    blocks = []
    for layer in body.layers:
        attention, mlp = layer.self_attn, [getattr(layer.mlp, name) for name in family.mlp]
        after = getattr(layer, "post_attention_layernorm", None)
        blocks.append(
            BlockWeights(
                norm=_norm(layer.input_layernorm),
                mlp_norm=None if after is None else _norm(after),
                qkv=linear([attention.q_proj, attention.k_proj, attention.v_proj]),
                output=linear([getattr(attention, family.output)]),
                up=linear(mlp[:-1], in_turn=True),
                down=linear(mlp[-1:]),
            )
        )
    rotary, attention = body.rotary_emb, body.layers[0].self_attn
    frequencies = rotary.inv_freq.detach().float().to(embedding.device)
    last_norm = getattr(body, family.last_norm)
    gated = len(family.mlp) == 3
    shape = DecoderShape(
        name=config.model_type,
        layers=len(blocks),
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=attention.head_dim,
        vocab=embedding.shape[0],
        max_context=config.max_position_embeddings,
        norm="layer" if isinstance(last_norm, nn.LayerNorm) else "rms",
        norm_eps=last_norm.eps if isinstance(last_norm, nn.LayerNorm) else last_norm.variance_epsilon,
        mlp="gated" if gated else "plain",
        activation="silu" if gated else "gelu_tanh",
        parallel=blocks[0].mlp_norm is None,
        rotary_fraction=2 * len(frequencies) / attention.head_dim,
    )
    lm_head = model.lm_head
    weights = DecoderWeights(
        embedding=embedding,
        blocks=tuple(blocks),
        norm=_norm(last_norm),
        lm_head=lm_head.weight.detach(),
        lm_head_bias=None if lm_head.bias is None else lm_head.bias.detach(),
        rotary=RotaryTable.from_frequencies(frequencies, shape.max_context, rotary.attention_scaling),
    )
    return shape, weights


def _norm(module: Any) -> NormWeight:
    bias = getattr(module, "bias", None)
    return NormWeight(module.weight.detach(), None if bias is None else bias.detach())


def _layer(layer: nn.Module, widths: Collection[int], dtype: torch.dtype) -> LinearWeight:
    """One layer at the widths wanted."""
    bias = getattr(layer, "bias", None)
    bias = None if bias is None else bias.detach().to(dtype)
    nested = sorted(bits for bits in widths if bits != FULL_PRECISION_BITS)
    if isinstance(layer, AnyPrecisionLinear):
        missing = [bits for bits in widths if bits not in layer.widths]
        if not missing:
            packed = _packed(layer, nested) if nested else None
            kept = layer.weight if FULL_PRECISION_BITS in widths else None
            return LinearWeight(packed, None if kept is None else kept.to(dtype), bias)
    else:
        missing = nested
        if not missing and type(layer) is nn.Linear:
            return LinearWeight(None, layer.weight.detach(), bias)
    lacking = ", ".join(map(str, missing)) or "any"
    raise InputError(f"a {type(layer).__name__} does not store widths {lacking}; decode step by step instead")


def _packed(layer: AnyPrecisionLinear, widths: Sequence[int]) -> PackedWeight:
    sparse = None
    if layer.sparse_rows is not None and layer.sparse_cols is not None and layer.sparse_vals is not None:
        sparse = SparsePart.from_csr(layer.sparse_rows, layer.sparse_cols, layer.sparse_vals, layer.in_features)
    luts = {bits: layer.lut(bits) for bits in widths}
    return pack(layer.planes[: max(widths)], luts, layer.in_features, layer.group_size, sparse=sparse)


def _join(linears: Sequence[LinearWeight], in_turn: bool) -> LinearWeight:
    """Rows of several layers one after the other, or in turn."""
    if len(linears) == 1:
        return linears[0]
    packed = [one.packed for one in linears if one.packed is not None]
    dense = [one.dense for one in linears if one.dense is not None]
    join: Callable[[list[Tensor]], Tensor] = _in_turn if in_turn else torch.cat
    bias = None
    if any(one.bias is not None for one in linears):
        like = next(one.bias for one in linears if one.bias is not None)
        bias = join([like.new_zeros(one.shape()[0]) if one.bias is None else one.bias for one in linears])
    return LinearWeight(
        packed=None if not packed else interleave(*packed) if in_turn else stack(packed),
        dense=join(dense) if dense else None,
        bias=bias,
    )


def _in_turn(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors, 1).flatten(0, 1)
