from __future__ import annotations

import numpy as np
import pytest

from hwsim.load import load_npu
from hwsim.lowering import build_lowering
from hwsim.precision import Precision
from hwsim.program import Kind, Pool, timing_at
from hwsim.shapes import load_shape
from hwsim.trace import InputError
from hwsim.workload import decode_step, prefill_step


def _program(step_of, *args, bits=4, npu="pmpd-4k", shape="mobilellama-1.4b", overrides=None, **precision):
    model, what = load_shape(shape), Precision(bits, **precision)
    lowering = build_lowering(load_npu(npu, overrides), what, model.hidden_size)
    return lowering.program(step_of(model, what, *args))


def _stage(program, name):
    return next(stage for stage in (*program.head, *program.runs[0].block, *program.tail) if stage.name == name)


def test_tiles_are_whole_rows_within_half_of_the_weight_buffer():
    timing = _stage(_program(decode_step, 9, bits=16), "q_proj").timing
    # 512 KiB hold 128 rows of 2048 fp16 weights; 2048 rows make 16 tiles.
    assert (timing.kind, timing.pool, timing.tiles) == (Kind.TILES, Pool.WEIGHT, 16)


def test_the_codebook_buffer_limits_the_rows_of_a_tile():
    # One row's 8-bit codebook is 512 bytes; half of 256 KiB holds 256 rows, and 2048 rows make 8 tiles.
    assert _stage(_program(decode_step, 9, bits=8), "q_proj").timing.tiles == 8
    wide = _program(decode_step, 9, bits=8, overrides={"buffers.codebook_kib": 4096})
    # Then 512 KiB of planes do: 256 rows of 2048 bytes.
    assert _stage(wide, "q_proj").timing.tiles == 8


def test_the_last_tile_takes_the_remaining_rows():
    timing = _stage(_program(decode_step, 9, bits=3), "lm_head").timing
    # 128 rows of 2048 fp16 weights: 32000 rows are 250 tiles, all full.
    assert timing.tiles == 250
    assert timing.last_load == timing.load
    small = _program(decode_step, 9, bits=3, overrides={"buffers.weight_kib": 900})
    timing = _stage(small, "lm_head").timing
    # 112 rows of 4096 bytes fit 450 KiB; 285 full tiles leave 80 rows.
    assert timing.tiles == 286
    assert timing.last_load < timing.load


def test_keys_and_values_of_a_decode_step_come_tile_by_tile_and_the_new_ones_from_the_chip():
    stage = _stage(_program(decode_step, 100, kv_bits=16), "attention")
    # 8 KiB a token and layer: 256 KiB hold 32 tokens; 100 cached tokens make 4 tiles, the last of 4.
    assert stage.timing.tiles == 4
    assert stage.work.kv_read_bytes == 100 * 8192
    assert stage.work.macs == 2 * 16 * 128 * 101


def test_new_keys_and_values_are_written_after_a_decode_steps_loads_but_before_a_long_prefills():
    decode = [stage.name for stage in _program(decode_step, 100).runs[0].block]
    assert decode.index("kv_append") == decode.index("attention") + 1
    prefill = _program(prefill_step, 300)
    names = [stage.name for stage in prefill.runs[0].block]
    assert names.index("kv_append") == names.index("attention") - 1
    assert _stage(prefill, "attention").work.kv_read_bytes == 300 * 8192


def test_a_short_prefill_keeps_its_keys_and_values_on_chip():
    attention = _stage(_program(prefill_step, 20), "attention")
    assert attention.work.kv_read_bytes == 0
    assert attention.timing.load is None


def test_a_prompt_of_one_token_reads_no_cache():
    attention = _stage(_program(prefill_step, 1), "attention")
    assert (attention.timing.load, attention.timing.tiles) == (None, 1)
    assert attention.work.macs == 2 * 16 * 128


def test_activations_that_do_not_fit_are_spilled_and_the_weights_read_again():
    fits, spills = (_program(prefill_step, 128, overrides={"buffers.activation_kib": size}) for size in (8192, 1024))
    assert fits.work().activation_bytes == 0
    work = spills.work()
    assert work.activation_bytes > 0
    assert work.weight_bytes > fits.work().weight_bytes
    down = [stage for stage in spills.runs[0].block if stage.name.startswith("down_proj")]
    # One token of down_proj takes 5632 + 2048 + 2 x 2048 bytes: 1 MiB holds 89, so 128 run in two blocks.
    assert [stage.name for stage in down] == ["down_proj.reload", "down_proj", "down_proj.done", "down_proj.spill"] * 2
    reloaded = sum(stage.work.activation_bytes for stage in down if stage.name == "down_proj.reload")
    assert reloaded == 128 * 5632


def test_a_decode_step_never_spills_on_the_paper_npus():
    for name in ("pmpd-4k", "pmpd-16k"):
        for shape in ("vicuna-7b", "phi-1.5", "longchat-13b"):
            assert _program(decode_step, 1000, npu=name, shape=shape).work().activation_bytes == 0


def test_causal_prefill_takes_less_matrix_time_than_the_full_square():
    timing = _stage(_program(prefill_step, 512), "attention").timing
    services = build_lowering(load_npu("pmpd-4k"), Precision(4), 2048).services
    full = 16 * (services.matrix.cycles(32, 128, 512) + services.matrix.cycles(128, 32, 512)) * 2
    assert timing.tiles == 16
    # Tiles of 32 keys, blocks of 128 queries: 4 + 4 + ... of 16 tiles see 4, 3, 2 and 1 block: 40 of 64.
    assert timing.matrix - 1 <= full * 40 / 64


def test_many_contexts_at_once_equal_one_by_one():
    contexts = np.array([1, 31, 32, 33, 500])
    many = _program(decode_step, contexts)
    for index, cached in enumerate(contexts.tolist()):
        one = _program(decode_step, cached)
        for left, right in zip(many.runs[0].block, one.runs[0].block, strict=True):
            assert timing_at(left.timing, index) == right.timing
        once = np.arange(len(contexts)) == index
        assert many.work().weighted(once) == one.work()


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"buffers.weight_kib": 1}, ["buffers.weight_kib = 1", "one row of q_proj at 4 bits needs 1024", "least 2"]),
        ({"buffers.codebook_kib": 0.03}, ["buffers.codebook_kib = 0.03", "codebook of q_proj", "32 bytes"]),
        ({"buffers.kv_kib": 8}, ["buffers.kv_kib = 8", "one token in one layer needs 8192", "at least 16"]),
        ({"buffers.activation_kib": 4}, ["buffers.activation_kib = 4", "one token of q_proj needs 8192"]),
        ({"buffers.global_kib": 0.05}, ["buffers.global_kib = 0.05", "scores of all heads needs 32"]),
    ],
)
def test_a_buffer_too_small_for_one_tile_is_refused_with_what_it_needs(overrides, parts):
    with pytest.raises(InputError) as caught:
        _program(decode_step, 9, overrides=overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
