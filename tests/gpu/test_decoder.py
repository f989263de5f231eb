"""The fused decode step in real CUDA graphs: what no interpreter can show."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)

from kernels import KernelError
from kernels.decoder import KernelDecoder
from kernels.decoder_weights import random_weights
from kernels.generate import generate, run_steps
from kernels.graph import PrecisionGraphs
from kernels.shapes import SHAPES, DecoderShape

pytestmark = pytest.mark.gpu

# Fresh data in every run; the seed is printed with a failure.
SEED = time.time_ns() % 2**31
SHAPE = DecoderShape("llama", 3, 512, 1408, 4, 2, 128, 4000, 512)
WIDTHS = (2, 3, 4, 16)
PROMPT = list(range(7, 40))
BITS = [4] * 20 + [3] * 20 + [16] * 5 + [2] * 20


@pytest.fixture(scope="module")
def weights():
    return random_weights(SHAPE, WIDTHS, seed=SEED, device="cuda")


@pytest.fixture(scope="module")
def decoder(weights) -> KernelDecoder:
    return KernelDecoder(SHAPE, weights)


def eager(decoder: KernelDecoder, bits: list[int]) -> list[int]:
    """The tokens of steps run one by one, without a graph."""
    decoder.prefill(PROMPT, 4)
    for width in bits:
        decoder.step(width)
    return decoder.tokens[0, len(PROMPT) : len(PROMPT) + len(bits) + 1].tolist()


def test_graphs_give_the_tokens_and_bits_of_the_steps_they_captured(decoder) -> None:
    expected, logits = eager(decoder, BITS), decoder.logits.clone()
    for _ in range(3):
        found = generate(decoder, PROMPT, 4, BITS)
        assert list(found.tokens) == expected, f"seed {SEED}"
        assert torch.equal(decoder.logits, logits), f"seed {SEED}"
        assert len(found.step_ns) == len(BITS)
        assert min(found.step_ns) > 0


def test_kernels_agree_with_plain_torch(weights, decoder) -> None:
    plain = KernelDecoder(SHAPE, weights, kernels=False)
    for one in (plain, decoder):
        one.prefill(PROMPT, 4)
    for bits in (4, 3, 2, 16, 2):
        for one in (plain, decoder):
            one.step(bits)
        difference = (plain.logits - decoder.logits).abs().max() / plain.logits.abs().max()
        assert difference < 2e-2, f"w{bits}: {float(difference)} (seed {SEED})"
        # From here on both go the same way, whatever a near-tie decided.
        plain.token.copy_(decoder.token)


def test_switching_captures_and_allocates_nothing(decoder) -> None:
    decoder.prepare()
    captures = decoder.graphs.captures
    assert captures == len(WIDTHS)
    decoder.prefill(PROMPT, 4)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for step in range(200):
        decoder.run(WIDTHS[step % len(WIDTHS)])
    torch.cuda.synchronize()
    assert decoder.graphs.captures == captures
    assert torch.cuda.memory_allocated() == before


def test_steps_never_wait_for_the_host(decoder) -> None:
    decoder.prepare()
    decoder.prefill(PROMPT, 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens, step_ns = run_steps(decoder, BITS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(tokens) == len(step_ns) == len(BITS)


def test_capturing_in_the_middle_of_a_response_changes_nothing(weights, decoder) -> None:
    expected = eager(decoder, [4, 3, 2, 16])
    fresh = KernelDecoder(SHAPE, weights)
    fresh.prefill(PROMPT, 4)
    for bits in (4, 3, 2, 16):
        fresh.run(bits)
    assert fresh.tokens[0, len(PROMPT) : len(PROMPT) + 5].tolist() == expected, f"seed {SEED}"


def test_another_capacity_captures_anew_and_answers_the_same(weights) -> None:
    decoder = KernelDecoder(SHAPE, weights, capacity=64)
    first = generate(decoder, PROMPT, 4, [4, 3, 2])
    decoder.reserve(300)
    assert generate(decoder, PROMPT, 4, [4, 3, 2]).tokens == first.tokens
    assert decoder.graphs.captures == 3


def test_eos_ends_a_response_in_the_middle_of_queued_steps(decoder) -> None:
    whole = generate(decoder, PROMPT, 4, BITS).tokens
    for eos in whole[:40:6]:
        cut = whole[: whole.index(eos) + 1]
        assert generate(decoder, PROMPT, 4, BITS, eos=[eos]).tokens == cut, f"seed {SEED}"


def test_step_that_waits_for_the_device_is_refused_and_the_others_run_on() -> None:
    count = torch.zeros(1, dtype=torch.int64, device="cuda")

    def step(bits: int) -> None:
        count.add_(bits)
        if bits == 3:
            count.item()

    graphs = PrecisionGraphs(step, (2, 3), "cuda", state=[count])
    graphs.run(2)
    with pytest.raises(KernelError, match="weight_bits = 3: the step cannot be captured"):
        graphs.run(3)
    graphs.run(2)
    assert count.tolist() == [4]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_responses_run_past_positions_of_two_gib_of_cache() -> None:
    # Offsets into the cache of the second sequence pass 2**31 elements.
    shape = replace(SHAPE, layers=1, kv_heads=4, max_context=1 << 22)
    needed = 2 * 2 * 2 * 4 * 128 * (1 << 22)
    if torch.cuda.mem_get_info()[0] < 1.3 * needed:
        pytest.skip(f"needs {1.3 * needed / 1e9:.0f} GB of free GPU memory")
    weights = random_weights(shape, (4,), seed=SEED, device="cuda")
    decoder = KernelDecoder(shape, weights, batch=2)
    for sequence in range(2):
        decoder.prefill(PROMPT, 4, sequence=sequence)
    # Zeros up to the middle of the cache, equal in both sequences.
    decoder.place(9, shape.max_context // 2)
    decoder.run(4)
    torch.testing.assert_close(decoder.logits[0], decoder.logits[1], rtol=1e-2, atol=1e-2)
    for cache in (decoder.keys, decoder.values):
        assert torch.equal(cache[0, 0, :, decoder.filled - 1], cache[0, 1, :, decoder.filled - 1])
        assert cache[0, 1, :, decoder.filled - 1].abs().max() > 0


@pytest.mark.parametrize("name", SHAPES)
def test_two_blocks_of_every_built_in_model_decode(name: str) -> None:
    shape = replace(SHAPES[name], layers=2)
    decoder = KernelDecoder(shape, random_weights(shape, WIDTHS, seed=SEED, device="cuda"), capacity=128)
    bits = [4, 3, 2, 16, 4]
    found = generate(decoder, PROMPT, 4, bits)
    assert list(found.tokens) == eager(decoder, bits), f"seed {SEED}"
    assert decoder.logits.isfinite().all()
