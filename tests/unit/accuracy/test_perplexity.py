from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.perplexity import perplexity, perplexity_score
from accuracy.statistics import is_lossless
from hwsim.trace import InputError

from .conftest import FakeSwitch, tiny_llama


def text_of(tokens: int, seed: int = 0) -> str:
    ids = np.random.default_rng(seed).integers(3, 61, size=tokens)
    return " ".join(f"t{i}" for i in ids)


def measure(lm, text, bits=16, **options):
    return perplexity(lm, text, bits, switch=FakeSwitch(lm.model), **options)


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(tiny):
    with torch.no_grad():
        tiny.model.lm_head.weight.zero_()
    found = measure(tiny, text_of(200), window=32)
    assert (found.interval.value, found.interval.low, found.interval.high) == pytest.approx((61, 61, 61), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(199 * math.log2(61) / len(text_of(200)), rel=1e-5)


def test_one_window_over_a_short_text_is_the_models_own_loss(tiny):
    ids = torch.tensor([tiny.tokenizer(text_of(40), add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        loss = float(tiny.model(input_ids=ids, labels=ids).loss)
    assert measure(tiny, text_of(40)).interval.value == pytest.approx(math.exp(loss), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_windows_score_every_token_once_with_the_context_promised(data):
    lm = tiny_llama()
    length = data.draw(st.integers(2, 60))
    window = data.draw(st.integers(2, 24))
    stride = data.draw(st.integers(1, window - 1))
    ids = lm.tokenizer(text_of(length), add_special_tokens=False)["input_ids"]
    total = 0.0
    with torch.inference_mode():
        for target in range(1, length):
            first_reach = max(0, -(-(target - window + 1) // stride))
            context = torch.tensor([ids[first_reach * stride : target]])
            total -= float(lm.model(input_ids=context).logits[0, -1].log_softmax(-1)[ids[target]])
    found = measure(lm, text_of(length), window=window, stride=stride, batch_size=3)
    assert found.tokens == length - 1
    assert found.statistics[:, 1].sum() == length - 1
    assert found.statistics[:, 0].sum() == pytest.approx(total, rel=1e-4)


def test_lower_widths_are_compared_window_by_window(tiny):
    text = text_of(300)
    full, low = (measure(tiny, text, bits, window=32) for bits in (16, 2))
    assert full.statistics.shape == low.statistics.shape
    assert is_lossless(full.statistics, full.statistics, perplexity_score, direction="minimize")
    assert full.interval.low <= full.interval.value <= full.interval.high
    assert low.interval.value != full.interval.value


def test_what_cannot_be_measured_is_refused_in_one_line(tiny):
    for options, message in (
        ({"window": 97}, "window = 97: must be 2..96, the context of tiny"),
        ({"window": 1}, "window = 1: must be 2..96"),
        ({"window": 8, "stride": 8}, "stride = 8: must be 1..7"),
        ({"batch_size": 0}, "batch_size = 0"),
    ):
        with pytest.raises(InputError, match=message):
            measure(tiny, text_of(20), **options)
    with pytest.raises(InputError, match="text has 1 tokens"):
        measure(tiny, "t5")
    with pytest.raises(InputError, match="weight_bits = 5: not stored"):
        measure(tiny, text_of(9), bits=5)
