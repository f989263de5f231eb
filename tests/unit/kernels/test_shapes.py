"""The built-in shapes, held to the simulator's table and to closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels.errors import KernelError
from kernels.shapes import SHAPES, DecoderShape, find_shape, linears, step_linears


@pytest.mark.parametrize("name", SHAPES)
def test_shape_agrees_with_the_simulators(name: str) -> None:
    hwsim_shapes = pytest.importorskip("hwsim.shapes")
    assert tuple(SHAPES) == hwsim_shapes.SHAPE_NAMES
    ours, theirs = SHAPES[name], hwsim_shapes.load_shape(name)
    assert (ours.layers, ours.hidden, ours.ffn) == (theirs.layers, theirs.hidden_size, theirs.ffn_size)
    assert (ours.heads, ours.kv_heads, ours.head_dim) == (theirs.heads, theirs.kv_heads, theirs.head_dim)
    assert (ours.vocab, ours.max_context) == (theirs.vocab_size, theirs.max_context)
    assert {"rms": "rmsnorm", "layer": "layernorm"}[ours.norm] == theirs.norm
    assert {"gated": "gated", "plain": "two-matrix"}[ours.mlp] == theirs.mlp
    assert {"silu": "silu", "gelu_tanh": "gelu"}[ours.activation] == theirs.activation
    assert (ours.parallel, ours.rotary_fraction) == (theirs.parallel_attention, theirs.rotary_fraction)
    assert (ours.qkv_bias, ours.mlp_bias) == (theirs.attention_bias, theirs.mlp_bias)
    single = {f"{name}_proj": shape for name, shape in linears(ours).items() if name not in {"qkv", "gate_up"}}
    assert single == {name: (n, k) for name, n, k in theirs.block_linears()}


def test_a_steps_linears_hold_the_weights_of_the_single_ones() -> None:
    for shape in SHAPES.values():
        every, fused = linears(shape), step_linears(shape)
        single = sum(n * k for name, (n, k) in every.items() if name not in {"qkv", "gate_up"})
        assert sum(n * k for n, k in fused.values()) == single


def test_linears_of_grouped_query_attention_and_of_a_plain_mlp() -> None:
    assert step_linears(find_shape("llama-3-8b")) == {
        "qkv": (6144, 4096),
        "o": (4096, 4096),
        "gate_up": (28672, 4096),
        "down": (4096, 14336),
    }
    assert step_linears(find_shape("phi-1.5")) == {
        "qkv": (6144, 2048),
        "o": (2048, 2048),
        "up": (8192, 2048),
        "down": (2048, 8192),
    }


def test_rotary_part_of_a_head_is_whole() -> None:
    turned = {shape.name: (shape.rotary_dim, shape.head_dim) for shape in SHAPES.values()}
    assert turned["phi-1.5"] == (32, 64)
    assert turned["stablelm-zephyr-3b"] == (20, 80)
    assert turned["vicuna-7b"] == (128, 128)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layers": 0}, "layers = 0: must be >= 1"),
        ({"kv_heads": 3}, "heads = 32: must be a multiple of kv_heads = 3"),
        ({"mlp": "plain"}, "a plain MLP with silu"),
        ({"rotary_fraction": 1.5}, "rotary_fraction = 1.5"),
        ({"head_dim": 63}, "even number of the 63 columns"),
    ],
)
def test_impossible_shape_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(KernelError, match=named):
        replace(SHAPES["vicuna-7b"], **changes)


def test_unknown_name_suggests_and_lists() -> None:
    with pytest.raises(KernelError, match=r"did you mean vicuna-7b\? known: vicuna-7b, mobilellama"):
        find_shape("vicuna-7B")


def test_defaults_are_those_of_llama() -> None:
    shape = DecoderShape("tiny", 2, 32, 48, 4, 2, 8, 61, 96)
    assert (shape.norm, shape.mlp, shape.activation, shape.parallel, shape.rotary_dim) == (
        "rms",
        "gated",
        "silu",
        False,
        8,
    )
    assert (shape.query_width, shape.kv_width) == (32, 16)
