"""The fused decode step against whole-sequence attention in float64, and what it refuses.

Which logits a step gives is held to a naive decoder written out here; that loaded models give the tokens of
transformers is tested with the accuracy package.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kernels import KernelError
from kernels.decoder import KernelDecoder
from kernels.decoder_weights import DecoderWeights, LinearWeight, NormWeight, dequantized, random_weights
from kernels.rotary import rotate
from kernels.shapes import SHAPES, DecoderShape, step_linears
from kernels.step_ops import StepOps, step_ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Fresh data in every run; the seed is printed with a failure.
SEED = time.time_ns() % 2**31
LLAMA = DecoderShape("llama", 2, 48, 40, 4, 2, 16, 61, 64)
PHI = DecoderShape(
    "phi", 2, 48, 40, 3, 3, 16, 61, 64, norm="layer", mlp="plain", activation="gelu_tanh", parallel=True,
    rotary_fraction=0.5, qkv_bias=True, output_bias=True, mlp_bias=True, lm_head_bias=True,
)  # fmt: skip
STABLELM = DecoderShape("stablelm", 2, 40, 36, 2, 1, 20, 61, 64, norm="layer", rotary_fraction=0.2, qkv_bias=True)
BLOCKS = {shape.name: shape for shape in (LLAMA, PHI, STABLELM)}
WIDTHS = (2, 3, 4, 16)


def naive_logits(shape: DecoderShape, weights: DecoderWeights, ids: list[int], bits_of: list[int]) -> Tensor:
    """Logits after the last of ``ids`` in float64; position p runs at width ``bits_of[p]``."""
    positions = torch.arange(len(ids))
    causal = positions[:, None] >= positions[None, :]

    def linear(x: Tensor, weight: LinearWeight) -> Tensor:
        rows = []
        for row, bits in zip(x, bits_of, strict=True):
            matrix = weight.dense if bits == 16 else dequantized(weight.packed, bits, torch.float64)
            bias = None if weight.bias is None else weight.bias.double().cpu()
            rows.append(functional.linear(row, matrix.double().cpu(), bias))
        return torch.stack(rows)

    def normed(x: Tensor, weight: NormWeight) -> Tensor:
        if shape.norm == "rms":
            return x / (x.square().mean(1, keepdim=True) + shape.norm_eps).sqrt() * weight.weight.double().cpu()
        scale, bias = weight.weight.double().cpu(), weight.bias.double().cpu()
        return functional.layer_norm(x, (shape.hidden,), scale, bias, shape.norm_eps)

    hidden = weights.embedding.double().cpu()[ids]
    cos, sin = (table.cpu()[: len(ids)] for table in (weights.rotary.cos, weights.rotary.sin))
    for block in weights.blocks:
        x = normed(hidden, block.norm)
        heads = linear(x, block.qkv).view(len(ids), -1, shape.head_dim)
        turned = rotate(heads[:, : shape.heads + shape.kv_heads], cos, sin)
        query, key = turned[:, : shape.heads].double(), turned[:, shape.heads :].double()
        group = shape.heads // shape.kv_heads
        key = key.repeat_interleave(group, 1)
        value = heads[:, shape.heads + shape.kv_heads :].repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", query, key) / shape.head_dim**0.5
        shares = scores.masked_fill(~causal, -torch.inf).softmax(-1)
        hidden = hidden + linear(torch.einsum("hqk,khd->qhd", shares, value).flatten(1), block.output)
        if block.mlp_norm is not None:
            x = normed(hidden, block.mlp_norm)
        inner = linear(x, block.up)
        if shape.mlp == "gated":
            inner = functional.silu(inner[:, 0::2]) * inner[:, 1::2]
        else:
            inner = functional.gelu(inner, approximate="tanh")
        hidden = hidden + linear(inner, block.down)
    bias = None if weights.lm_head_bias is None else weights.lm_head_bias.double().cpu()
    return functional.linear(normed(hidden, weights.norm)[-1], weights.lm_head.double().cpu(), bias)


def make(shape: DecoderShape, *, dtype: torch.dtype = torch.float32, **options: object) -> KernelDecoder:
    weights = random_weights(shape, WIDTHS, seed=SEED, device=DEVICE, dtype=dtype)
    return KernelDecoder(shape, weights, **options)


def interpreted() -> None:
    pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.parametrize(
    ("name", "kernels", "dtype", "tolerance"),
    [
        ("llama", False, torch.float32, 1e-4),
        ("phi", False, torch.float32, 1e-4),
        ("stablelm", False, torch.float32, 1e-4),
        ("llama", True, torch.float16, 2e-2),
        ("phi", True, torch.float32, 1e-4),
        ("stablelm", True, torch.float16, 2e-2),
    ],
)
def test_logits_are_those_of_the_whole_sequence(name: str, kernels: bool, dtype: torch.dtype, tolerance: float) -> None:
    if kernels:
        interpreted()
    decoder = make(BLOCKS[name], dtype=dtype, kernels=kernels)
    ids, bits_of = [5, 60, 0, 17], [4] * 4
    found = [decoder.prefill(ids, 4).logits]
    ids.append(int(decoder.token[0]))
    for bits in (3, 2, 16):
        decoder.run(bits)
        found.append(decoder.logits[0].clone())
        bits_of.append(bits)
        ids.append(int(decoder.token[0]))
    for step, logits in enumerate(found):
        length = 4 + step
        expected = naive_logits(BLOCKS[name], decoder.weights, ids[:length], bits_of[:length])
        error = float((logits.double().cpu() - expected).abs().max() / expected.abs().max())
        assert error < tolerance, f"step {step}: relative error {error} (seed {SEED})"
        assert ids[length] == int(logits.argmax())
    assert decoder.tokens[0, : len(ids)].tolist() == ids
    assert decoder.position.tolist() == [len(ids) - 1] == [decoder.filled]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("llama", ["rms_norm", "linear", "attend", "linear+", "rms_norm", "swiglu_linear", "linear+"]),
        ("phi", ["layer_norm", "linear", "attend", "linear+", "linear", "linear+"]),
    ],
)
def test_a_block_is_seven_launches_where_kernels_run(
    name: str, block: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(BLOCKS[name], kernels=False)
    weights = expected.weights
    log: list[str] = []

    def linear(x, packed, weight_bits, bias=None, *, addend=None):
        log.append("linear" if addend is None else "linear+")
        y = functional.linear(x, dequantized(packed, weight_bits, x.dtype), bias)
        return y if addend is None else y + addend

    def swiglu_linear(x, packed, weight_bits, bias=None):
        y = linear(x, packed, weight_bits, bias)
        log[-1] = "swiglu_linear"
        return functional.silu(y[:, 0::2]) * y[:, 1::2]

    def counted(ops):
        def record(name: str):
            def run(*arguments):
                log.append(name)
                return getattr(ops, name)(*arguments)

            return run

        return StepOps(*(record(field.name) for field in fields(ops)))

    monkeypatch.setattr("kernels.decoder.packed_linear", linear)
    monkeypatch.setattr("kernels.decoder.packed_swiglu_linear", swiglu_linear)
    monkeypatch.setattr("kernels.decoder.obstacle", lambda x: None)
    monkeypatch.setattr("kernels.decoder.step_ops", lambda kernels: counted(step_ops(False)))
    decoder = KernelDecoder(BLOCKS[name], weights)
    for one in (expected, decoder):
        one.prefill([3, 4, 5], 4)
        log.clear()
        one.step(3)
    assert log == block * 2 + [block[0], "choose_token"]
    torch.testing.assert_close(decoder.logits, expected.logits, rtol=1e-4, atol=1e-4, msg=f"seed {SEED}")
    decoder.step(16)
    expected.step(16)
    torch.testing.assert_close(decoder.logits, expected.logits, rtol=1e-4, atol=1e-4, msg=f"seed {SEED}")


def test_a_batch_answers_as_its_sequences_alone() -> None:
    prompts = [[5, 9, 11], [7], [60, 1, 2, 3, 4, 8]]
    weights = random_weights(LLAMA, WIDTHS, seed=SEED, device=DEVICE, dtype=torch.float32)
    together = KernelDecoder(LLAMA, weights, batch=3, capacity=20)
    alone = KernelDecoder(LLAMA, weights, capacity=20)
    for sequence, prompt in enumerate(prompts):
        together.prefill(prompt, 4, sequence=sequence)
    for bits in (4, 2, 3):
        together.run(bits)
    for sequence, prompt in enumerate(prompts):
        alone.prefill(prompt, 4)
        for bits in (4, 2, 3):
            alone.run(bits)
        end = len(prompt) + 4
        torch.testing.assert_close(together.logits[sequence], alone.logits[0], rtol=1e-4, atol=1e-4)
        assert together.tokens[sequence, :end].tolist() == alone.tokens[0, :end].tolist(), f"seed {SEED}"
        assert int(together.position[sequence]) == end - 1


def test_sequences_of_a_batch_are_answered_anew_without_end() -> None:
    decoder = make(LLAMA, batch=2, capacity=8)
    for _ in range(3):
        for sequence in range(2):
            decoder.prefill([1, 2, 3, 4, 5], 4, sequence=sequence)
        for _ in range(3):
            decoder.run(2)
    with pytest.raises(KernelError, match="position 8"):
        decoder.run(2)


def test_a_new_prompt_sees_nothing_of_the_last_one() -> None:
    used, fresh = make(LLAMA), make(LLAMA)
    used.prefill(list(range(40)), 2)
    for _ in range(10):
        used.run(2)
    for decoder in (used, fresh):
        decoder.prefill([3, 4], 4)
        decoder.run(3)
    assert torch.equal(used.logits, fresh.logits)
    assert torch.equal(used.tokens[:, :4], fresh.tokens[:, :4])


def test_unwritten_cache_may_hold_anything() -> None:
    poisoned, clean = make(PHI), make(PHI)
    for cache in (poisoned.keys, poisoned.values):
        cache.fill_(torch.nan)
    for decoder in (poisoned, clean):
        decoder.prefill([3, 4, 5], 3)
        decoder.run(3)
    assert torch.equal(poisoned.logits, clean.logits)


def test_prefill_gives_what_schedulers_look_at() -> None:
    decoder = make(LLAMA)
    prefilled = decoder.prefill([3, 4, 5], 4, captured_blocks={1})
    assert prefilled.logits.shape == (61,)
    assert {block: tuple(found.shape) for block, found in prefilled.activations.items()} == {1: (3, 64)}
    held = prefilled.logits.clone()
    decoder.run(4)
    assert torch.equal(prefilled.logits, held), "a step must not move what the prefill gave out"


def test_place_lets_a_step_run_anywhere() -> None:
    decoder = make(LLAMA)
    decoder.place(7, 63)
    decoder.run(2)
    assert decoder.tokens[0, 64] == decoder.token[0]
    with pytest.raises(KernelError, match="position 64: the cache holds 64; reserve a larger capacity"):
        decoder.run(2)


def test_full_cache_is_started_again_before_a_capture() -> None:
    decoder = make(LLAMA, capacity=4)
    decoder.prefill([1, 2, 3], 4)
    decoder.run(4)
    assert decoder.filled == 4
    decoder.prepare([2])
    assert decoder.position.tolist() == [decoder.filled] == [0]
    decoder.prefill([1, 2, 3], 4)
    decoder.prepare([2])
    assert decoder.position.tolist() == [decoder.filled] == [3]


def test_reserve_replaces_the_cache_and_decodes_on() -> None:
    decoder = make(LLAMA, capacity=4)
    decoder.prefill([1, 2, 3], 4)
    expected = decoder.logits.clone()
    with pytest.raises(KernelError, match=r"prompt of 4 tokens: must be 1\.\.3"):
        decoder.prefill([1, 2, 3, 4], 4)
    decoder.reserve(32)
    assert (decoder.capacity, decoder.filled, tuple(decoder.keys.shape)) == (32, 0, (2, 1, 2, 32, 16))
    decoder.prefill([1, 2, 3], 4)
    assert torch.equal(decoder.logits, expected)


def test_buffers_made_in_inference_mode_outlive_it() -> None:
    with torch.inference_mode():
        decoder = make(LLAMA)
        decoder.prefill([3, 4], 4)
        decoder.run(4)
    decoder.run(4)
    assert decoder.filled == 4


@pytest.mark.parametrize("name", SHAPES)
def test_random_weights_fit_every_built_in_model(name: str) -> None:
    # One block of a model of the same proportions, small enough for a CPU.
    full = SHAPES[name]
    scale = full.head_dim * full.kv_heads // (16 * min(full.kv_heads, 2))
    heads = min(full.kv_heads, 2) * full.heads // full.kv_heads
    shape = replace(
        full, layers=1, hidden=max(32, full.hidden // scale), ffn=full.ffn // scale, heads=heads,
        kv_heads=min(full.kv_heads, 2), head_dim=20, vocab=50, max_context=16, rotary_fraction=0.5,
    )  # fmt: skip
    weights = random_weights(shape, (2, 4), seed=SEED, dtype=torch.float16)
    assert weights.widths == (2, 4)
    sizes = [linear.shape() for linear in weights.blocks[0].linears().values()]
    assert sizes == list(step_linears(shape).values())
    decoder = KernelDecoder(shape, weights, kernels=False)
    decoder.prefill([1, 2], 4)
    decoder.run(2)
    assert decoder.logits.isfinite().all()


def test_random_weights_repeat_with_their_seed_and_have_unit_gain() -> None:
    weights, again = (random_weights(LLAMA, (2, 4), seed=5) for _ in range(2))
    other = random_weights(LLAMA, (2, 4), seed=6)
    for one, same, differs in zip(weights.blocks, again.blocks, other.blocks, strict=True):
        assert torch.equal(one.qkv.packed.planes, same.qkv.packed.planes)
        assert not torch.equal(one.qkv.packed.planes, differs.qkv.packed.planes)
    # The mean square of a normal distribution's quantiles: 0.71 of four, 0.92 of sixteen.
    for bits, low in ((2, 0.6), (4, 0.8)):
        matrix = dequantized(weights.blocks[0].down.packed, bits, torch.float32)
        assert low < float(matrix.square().mean() * LLAMA.ffn) < 1.15


def edited(**changes: Callable[[DecoderWeights], object]) -> DecoderWeights:
    weights = random_weights(LLAMA, (2, 4), dtype=torch.float32, device=DEVICE)
    return replace(weights, **{name: change(weights) for name, change in changes.items()})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blocks": lambda w: w.blocks[:1]}, "1 blocks of weights: llama has 2"),
        ({"blocks": lambda w: (w.blocks[0], replace(w.blocks[1], mlp_norm=None))}, "block 1: no norm before its MLP"),
        ({"blocks": lambda w: (replace(w.blocks[0], up=w.blocks[0].down),) * 2}, r"block 0: up has N x K = \(48, 40\)"),
        ({"blocks": lambda w: (replace(w.blocks[0], up=LinearWeight()),) * 2}, "neither packed nor dense"),
        ({"lm_head": lambda w: w.lm_head[1:]}, r"lm_head is \(60, 48\), must be \(61, 48\)"),
        ({"rotary": lambda w: replace(w.rotary, cos=w.rotary.cos[:, 1:])}, "rotary tables turn 14 columns, must be 16"),
    ],
)
def test_weights_of_another_shape_are_refused_by_name(changes, named: str) -> None:
    with pytest.raises(KernelError, match=named):
        KernelDecoder(LLAMA, edited(**changes))


def test_layers_without_a_width_in_common_are_refused() -> None:
    weights = edited()
    dense = LinearWeight(dense=weights.blocks[0].down.matrix(4, torch.float32))
    blocks = (replace(weights.blocks[0], down=dense), weights.blocks[1])
    with pytest.raises(KernelError, match="no width in common"):
        KernelDecoder(LLAMA, replace(weights, blocks=blocks))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda decoder: decoder.prefill([], 4), r"prompt of 0 tokens: must be 1\.\.63"),
        (lambda decoder: decoder.prefill([1, 61], 4), r"token id 61: must be 0\.\.60, the vocabulary"),
        (lambda decoder: decoder.prefill([1], 5), "weight_bits = 5: not stored; stored widths: 2, 3, 4, 16"),
        (lambda decoder: decoder.prefill([1], 4, sequence=1), r"sequence = 1: must be 0\.\.0"),
        (lambda decoder: decoder.step(5), "weight_bits = 5: not stored; stored widths: "),
        (lambda decoder: decoder.run(5), "weight_bits = 5: no such step; widths: 2, 3, 4, 16"),
        (lambda decoder: decoder.place(-1, 0), "token id -1"),
        (lambda decoder: decoder.place(0, 64), r"position = 64: must be 0\.\.63"),
        (lambda decoder: decoder.reserve(65), r"capacity = 65: must be 1\.\.64, the positions of the rotary tables"),
        (lambda decoder: KernelDecoder(LLAMA, decoder.weights, batch=9), r"batch = 9: must be 1\.\.8"),
        (lambda decoder: random_weights(LLAMA, (2, 9)), r"widths = \(2, 9\): must be some of 1\.\.8 and 16"),
        (lambda decoder: random_weights(LLAMA, ()), r"widths = \(\)"),
    ],
)
def test_calls_that_cannot_run_are_refused_by_name(call, named: str) -> None:
    with pytest.raises(KernelError, match=named):
        call(make(LLAMA))
