from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.perplexity import Perplexity, answer_losses, choose_widths, perplexity, perplexity_score
from accuracy.statistics import Interval, bootstrap, is_lossless
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
    one = found.per_token
    assert (one.value, one.low, one.high) == pytest.approx((61, 61, 61), rel=1e-5)
    assert found.bits_per_byte.value == pytest.approx(199 * math.log2(61) / len(text_of(200)), rel=1e-5)


def test_words_and_bytes_share_out_the_likelihood_of_the_same_tokens():
    statistics = np.array([[30.0, 20.0], [12.0, 10.0]])
    one = Interval(math.exp(42 / 30), math.exp(1.2), math.exp(1.5), 2)
    found = Perplexity(one, statistics, tokens=30, words=12, utf8_bytes=84, window=21, stride=10)
    assert found.per_word.value == pytest.approx(math.exp(42 / 12))
    assert (found.per_word.low, found.per_word.high) == pytest.approx((math.exp(3), math.exp(3.75)))
    assert found.bits_per_byte.value == pytest.approx(42 / math.log(2) / 84)
    assert (found.per_word.n, found.bits_per_byte.n) == (2, 2)


def test_words_are_those_between_white_space_and_bytes_are_utf8(tiny):
    text = "t5  t6\n\nt7\tt8 "
    found = measure(tiny, text)
    assert (found.tokens, found.words, found.utf8_bytes) == (3, 4, len(text))
    assert (found.window, found.stride) == (96, 48)


def test_one_window_over_a_short_text_is_the_models_own_loss(tiny):
    ids = torch.tensor([tiny.tokenizer(text_of(40), add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        loss = float(tiny.model(input_ids=ids, labels=ids).loss)
    assert measure(tiny, text_of(40)).per_token.value == pytest.approx(math.exp(loss), rel=1e-5)


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
    assert full.per_token.low <= full.per_token.value <= full.per_token.high
    assert low.per_token.value != full.per_token.value


def test_what_cannot_be_measured_is_refused_in_one_line(tiny):
    for options, message in (
        ({"window": 97}, "window = 97: must be 2..96, the context of tiny"),
        ({"window": 1}, "window = 1: must be 2..96"),
        ({"window": 8, "stride": 8}, "stride = 8: must be 1..7"),
        ({"batch_size": 0}, "batch_size = 0"),
    ):
        with pytest.raises(InputError, match=message):
            measure(tiny, text_of(20), **options)
    for text in ("t5", "", " \n"):
        with pytest.raises(InputError, match=f"text has {len(text.split())} tokens and .* needs at least 2 tokens"):
            measure(tiny, text)
    with pytest.raises(InputError, match="weight_bits = 5: not stored"):
        measure(tiny, text_of(9), bits=5)


def test_logits_that_are_not_finite_are_named_with_their_width(tiny):
    with torch.no_grad():
        tiny.model.lm_head.weight[7] = torch.inf
    with pytest.raises(InputError, match="weight_bits = 16: the logits of 2 of 2 windows are not finite"):
        measure(tiny, text_of(40), window=30, stride=20)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=7), st.integers(1, 4))
def test_answers_score_as_each_would_alone(lengths, batch_size):
    lm = tiny_llama()
    draw = np.random.default_rng(len(lengths))
    pairs = [tuple(draw.integers(3, 61, size=size).tolist() for size in both) for both in lengths]
    found = answer_losses(lm, pairs, 16, batch_size=batch_size, switch=FakeSwitch(lm.model))
    for (prompt, answer), (nll, tokens) in zip(pairs, found, strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.inference_mode():
            alone = float(lm.model(input_ids=ids, labels=labels).loss)
        assert tokens == len(answer)
        assert nll == pytest.approx(alone * len(answer), rel=1e-4)


def test_pairs_that_cannot_be_scored_are_named(tiny):
    for pair, counts in ((([], [5]), "0 prompt and 1 answer"), (([5] * 90, [6] * 7), "90 prompt and 7 answer")):
        with pytest.raises(InputError, match=f"pair 1: {counts} tokens: must be at least 1 each and 96 together"):
            answer_losses(tiny, [([4], [5]), pair], 16, switch=FakeSwitch(tiny.model))


def measured(*relative_nll: float, windows: int = 50) -> dict[int, Perplexity]:
    """Perplexities of full precision and of 5, 4, 3, ... bits whose logs exceed it by these numbers in every window."""
    nll = np.random.default_rng(0).uniform(100, 200, size=windows)
    found = {}
    for width, more in zip((16, 5, 4, 3, 2), (0.0, *relative_nll), strict=False):
        statistics = np.stack([nll + 64 * more, np.full(windows, 64.0)], axis=1)
        interval = bootstrap(statistics, perplexity_score)
        found[width] = Perplexity(interval, statistics, 64 * windows, 1, 1, 128, 64)
    return found


def test_the_high_width_is_the_lowest_lossless_one_and_the_low_one_bit_less():
    # exp(0.005) is 0.5% more perplexity, exp(0.02) 2%.
    choice = choose_widths(measured(0.001, 0.005, 0.02))
    assert (choice.high, choice.low) == (4, 3)
    assert choice.increases[3].value == pytest.approx(np.expm1(0.02))
    wider = choose_widths(measured(0.001, 0.005, 0.02, 0.3), tolerance=0.1)
    assert (wider.high, wider.low) == (3, 2)


def test_a_width_below_one_that_is_not_lossless_is_not_chosen():
    # 3 bits happen to be lossless though 4 are not: the high width stays 5.
    assert choose_widths(measured(0.001, 0.02, 0.001)).high == 5


def test_a_width_whose_interval_reaches_the_tolerance_is_not_lossless():
    found = measured(0.001, 0.005)
    noisy = found[4].statistics + np.stack([np.random.default_rng(1).normal(0, 5, size=50), np.zeros(50)], axis=1)
    noisy[:, 0] += found[4].statistics[:, 0].mean() - noisy[:, 0].mean()
    found[4] = dataclasses.replace(found[4], statistics=noisy)
    choice = choose_widths(found)
    assert choice.increases[4].value < 0.01 < choice.increases[4].high
    assert choice.high == 5


def test_a_choice_of_widths_that_nothing_shows_is_refused():
    with pytest.raises(InputError, match=r"widths \[4, 5\]: full precision \(16\) must be measured too"):
        choose_widths({width: one for width, one in measured(0, 0).items() if width != 16})
    with pytest.raises(InputError, match=r"no width is lossless within 1.00% \(5: \+2.02%\); measure wider ones"):
        choose_widths(measured(0.02))
    with pytest.raises(InputError, match="no width is lossless .*none measured"):
        choose_widths(measured())
    with pytest.raises(InputError, match="width 4 is lossless within 1.00%, but 3, the low width, was not measured"):
        choose_widths(measured(0.001, 0.001))
    with pytest.raises(InputError, match="width 5: measured on other windows than full precision"):
        choose_widths({**measured(0.001), 5: measured(0.001, windows=40)[5]})
    with pytest.raises(InputError, match="tolerance = 0: must be a number above 0"):
        choose_widths(measured(0.001), tolerance=0)
