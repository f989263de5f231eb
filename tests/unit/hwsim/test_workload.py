from __future__ import annotations

import numpy as np
import pytest

from hwsim.precision import Precision
from hwsim.shapes import SHAPE_NAMES, load_shape
from hwsim.workload import (
    Attention,
    Linear,
    Use,
    Vector,
    batch_decode_step,
    decode_step,
    kv_cache_bytes,
    prefill_step,
    stored_model_bytes,
)


def _linears(step):
    return [operator for operator in step.runs[0].block if isinstance(operator, Linear)]


@pytest.mark.parametrize("name", SHAPE_NAMES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_decode_step_reads_every_plane_of_every_linear_layer(name, bits):
    shape = load_shape(name)
    step = decode_step(shape, Precision(bits), 10)
    read = shape.layers * sum(linear.n * linear.row_bytes for linear in _linears(step))
    biases = 2 * shape.layers * sum(linear.n for linear in _linears(step) if linear.bias)
    # All published widths are multiples of 32, so planes carry no padding.
    assert read == shape.linear_weights() * bits // 8 + biases


def _linear(k, *uses, nested=True):
    return Linear("x", 1, k, tuple(Use(*use) for use in uses), nested, "weights", True)


def test_plane_rows_are_padded_to_32_columns_and_full_precision_rows_are_not():
    assert _linear(33, (3, 1)).row_bytes == 3 * 2 * 4
    assert _linear(33, (16, 1)).row_bytes == 66
    assert _linear(33, (8, 1), nested=False).row_bytes == 33


def test_a_codebook_has_one_entry_per_code():
    assert _linear(64, (4, 1)).codebooks_row_bytes(16) == (32,)
    assert _linear(64, (16, 1)).codebooks_row_bytes(16) == ()
    assert _linear(64, (8, 1), nested=False).codebooks_row_bytes(16) == ()


def test_a_mixed_batch_reads_each_plane_once_and_every_codebook():
    mixed = _linear(64, (2, 3), (4, 1), (16, 2))
    assert mixed.tokens == 6
    assert mixed.planes == 4
    assert mixed.row_bytes == 4 * 8 + 64 * 2
    assert mixed.codebooks_row_bytes(16) == (8, 32)


def test_a_batch_of_one_is_a_decode_step():
    shape = load_shape("phi-1.5")
    assert batch_decode_step(shape, Precision(3), [(3, 77)]) == decode_step(shape, Precision(3), 77)


def test_a_batch_shares_weights_but_not_keys_and_values():
    shape = load_shape("llama-3-8b")
    step = batch_decode_step(shape, Precision(4), [(3, 10), (4, 20), (3, 5)])
    attentions = [operator for operator in step.runs[0].block if isinstance(operator, Attention)]
    assert [attention.cached for attention in attentions] == [10, 20, 5]
    assert [attention.joins for attention in attentions] == [True, False, False]
    assert _linears(step)[0].uses == (Use(3, 2), Use(4, 1))


def test_causal_attention_counts_only_what_a_query_sees():
    attention = Attention("a", heads=2, kv_heads=1, head_dim=8, tokens=3, cached=0, kv_bits=16)
    assert attention.pairs == 1 + 2 + 3
    assert attention.macs == 2 * 2 * 8 * 6
    decode = Attention("a", heads=2, kv_heads=1, head_dim=8, tokens=1, cached=9, kv_bits=16)
    assert decode.pairs == 10
    assert decode.token_bytes == 2 * 8 * 2


def test_lm_head_runs_for_the_last_prompt_token_only():
    shape = load_shape("phi-1.5")
    lm_head = next(op for op in prefill_step(shape, Precision(4), 100).tail if isinstance(op, Linear))
    assert (lm_head.uses, lm_head.n, lm_head.nested) == ((Use(16, 1),), 51200, False)


def test_phi_runs_attention_and_mlp_on_one_norm_and_two_mlp_matrices():
    phi, llama = (decode_step(load_shape(name), Precision(4), 5) for name in ("phi-1.5", "mobilellama-1.4b"))
    assert sum(isinstance(op, Vector) for op in phi.runs[0].block) == 1
    assert sum(isinstance(op, Vector) for op in llama.runs[0].block) == 2
    assert [linear.name for linear in _linears(phi)][-2:] == ["up_proj", "down_proj"]
    assert [linear.fused for linear in _linears(phi)][-2:] == ["activation", "residual"]
    assert [linear.fused for linear in _linears(llama)][-3:] == ["activation", "multiply", "residual"]


def test_many_contexts_at_once_equal_one_by_one():
    shape = load_shape("vicuna-7b")
    contexts = np.array([1, 7, 500])
    attention = next(op for op in decode_step(shape, Precision(4), contexts).runs[0].block if isinstance(op, Attention))
    for index, cached in enumerate(contexts.tolist()):
        single = next(op for op in decode_step(shape, Precision(4), cached).runs[0].block if isinstance(op, Attention))
        assert attention.macs[index] == single.macs


def test_the_kv_cache_of_vicuna_takes_half_a_mib_per_token():
    shape = load_shape("vicuna-7b")
    assert kv_cache_bytes(shape, 16, 1) == 2 * 32 * 4096 * 2
    assert kv_cache_bytes(shape, 8, 10) == 10 * 2 * 32 * 4096


def test_stored_bytes_count_the_widest_planes_once_and_each_codebook():
    shape = load_shape("vicuna-7b")
    tables = 2 * 32000 * 4096 * 2
    rows = 32 * (5 * 4096 + 2 * 11008)
    two = stored_model_bytes(shape, {2}, Precision(2))
    assert two == shape.linear_weights() * 2 // 8 + rows * 4 * 2 + tables
    nested = stored_model_bytes(shape, {2, 4}, Precision(2))
    assert nested == shape.linear_weights() * 4 // 8 + rows * (4 + 16) * 2 + tables
    assert stored_model_bytes(shape, {16}, Precision(16)) == shape.linear_weights() * 2 + tables


def test_tied_tables_are_stored_once():
    shape = load_shape("vicuna-7b").model_copy(update={"tied_embeddings": True})
    untied = load_shape("vicuna-7b")
    saved = stored_model_bytes(untied, {2}, Precision(2)) - stored_model_bytes(shape, {2}, Precision(2))
    assert saved == 32000 * 4096 * 2
    other_bits = Precision(2, lm_head_bits=8)
    assert stored_model_bytes(untied, {2}, other_bits) == stored_model_bytes(shape, {2}, other_bits)
