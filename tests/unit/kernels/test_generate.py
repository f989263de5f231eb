"""The decode loop: where it ends, what it times, and that it never waits for a value."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import KernelError, generate
from kernels.decoder import KernelDecoder
from kernels.decoder_weights import random_weights
from kernels.shapes import DecoderShape

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = DecoderShape("llama", 2, 48, 40, 4, 2, 16, 61, 64)
PROMPT = [5, 9, 11]
BITS = [4] * 7 + [3] * 9 + [2] * 14


@pytest.fixture(scope="module")
def decoder() -> KernelDecoder:
    return KernelDecoder(SHAPE, random_weights(SHAPE, (2, 3, 4), seed=3, device=DEVICE, dtype=torch.float32))


@pytest.fixture(scope="module")
def whole(decoder: KernelDecoder) -> tuple[int, ...]:
    """Token 0 and those of all steps, one run after the other."""
    decoder.prefill(PROMPT, 4)
    for bits in BITS:
        decoder.run(bits)
    return tuple(decoder.tokens[0, len(PROMPT) : len(PROMPT) + 1 + len(BITS)].tolist())


def cut(tokens: tuple[int, ...], eos: int) -> tuple[int, ...]:
    return tokens[: tokens.index(eos) + 1]


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_every_step_is_run_at_its_width_and_timed(decoder, whole, chunk: int) -> None:
    found = generate.generate(decoder, PROMPT, 4, BITS, chunk=chunk)
    assert found.tokens == whole
    assert len(found.step_ns) == len(BITS)
    assert min(found.step_ns) > 0
    assert found.prefill_ns > 0


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("chunk", [1, 4, 8, 64])
def test_steps_past_an_eos_are_cut_off(decoder, whole, chunk: int, behind: int, monkeypatch) -> None:
    monkeypatch.setattr(generate._CpuWatch, "behind", behind)
    behind = behind if DEVICE == "cpu" else generate._GpuWatch.behind
    for eos in sorted(set(whole)):
        found = generate.generate(decoder, PROMPT, 4, BITS, eos=[eos, 77], chunk=chunk)
        assert found.tokens == cut(whole, eos)
        assert len(found.step_ns) == len(found.tokens) - 1
        # At most the rest of its chunk and the chunks queued behind it.
        assert decoder.filled <= len(PROMPT) + len(found.tokens) - 1 + chunk * (1 + behind)


@pytest.mark.parametrize("bits", [[], [3]])
def test_shortest_responses(decoder, whole, bits: list[int]) -> None:
    found = generate.generate(decoder, PROMPT, 4, bits)
    assert found.tokens[0] == whole[0]
    assert len(found.tokens) == len(bits) + 1
    assert len(found.step_ns) == len(bits)


class NoLook(TorchDispatchMode):
    """Fails where a value is read off the device, which waits for everything queued."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a host sync"
        return func(*args, **(kwargs or {}))


def test_steps_look_at_no_value(decoder, whole) -> None:
    decoder.prefill(PROMPT, 4)
    decoder.prepare()
    with NoLook():
        tokens, _ = generate.run_steps(decoder, BITS)
    assert tokens == whole[1:]
    with NoLook(), pytest.raises(AssertionError, match="a host sync"):
        generate.first_token(decoder)


def test_widths_change_without_a_capture(decoder) -> None:
    decoder.prepare()
    before = decoder.graphs.captures
    generate.generate(decoder, PROMPT, 2, [4, 2, 3, 4, 4, 2])
    assert decoder.graphs.captures == before == (3 if DEVICE == "cuda" else 0)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (
            lambda d: generate.generate(d, PROMPT, 4, [4] * 62),
            r"3 positions \+ 62 decode steps = 65: the cache holds 64",
        ),
        (lambda d: generate.generate(d, PROMPT, 4, [4], chunk=0), "chunk = 0: must be >= 1"),
        (lambda d: generate.generate(d, PROMPT, 4, [4, 8]), "weight_bits = 8: no such step; widths: 2, 3, 4"),
        (lambda d: generate.generate(d, PROMPT, 8, [4]), "weight_bits = 8: not stored"),
        (
            lambda d: generate.generate(KernelDecoder(SHAPE, d.weights, batch=2), PROMPT, 4, [4]),
            "batch = 2: a response is decoded alone",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_name(decoder, call, named: str) -> None:
    with pytest.raises(KernelError, match=named):
        call(decoder)
