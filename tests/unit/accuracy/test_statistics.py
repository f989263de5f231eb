from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accuracy.statistics import bootstrap, is_lossless, mean, paired_difference, resample_counts
from hwsim.trace import InputError


def column(values) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None]


def test_every_resample_draws_n_prompts_and_each_equally_often():
    counts = resample_counts(20, 4000, seed=1)
    assert (counts.sum(1) == 20).all()
    # A prompt's count is Binomial(20, 1/20): mean 1, variance 0.95; 5 sigma over 4000 resamples.
    assert np.abs(counts.mean(0) - 1).max() < 5 * np.sqrt(0.95 / 4000)


def test_the_interval_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(0).normal(10, 3, size=400)
    interval = bootstrap(column(values), resamples=4000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.n == 400
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(0, 5))
def test_an_interval_holds_its_value_lies_within_the_data_and_repeats(values, seed):
    first = bootstrap(column(values), seed=seed, resamples=1000)
    assert first.low <= first.value <= first.high
    assert min(values) - 1e-9 <= first.low
    assert first.high <= max(values) + 1e-9
    assert first == bootstrap(column(values), seed=seed, resamples=1000)


def test_pairing_removes_the_spread_that_both_sides_share():
    prompts = np.random.default_rng(0).normal(0, 50, size=100)
    difference = paired_difference(column(prompts + 1), column(prompts))
    assert (difference.value, difference.low, difference.high) == pytest.approx((1, 1, 1))
    assert bootstrap(column(prompts)).high - bootstrap(column(prompts)).low > 10


def test_a_relative_difference_divides_by_each_resamples_baseline():
    baseline = np.random.default_rng(0).uniform(1, 100, size=50)
    difference = paired_difference(column(baseline * 1.1), column(baseline), relative=True)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))


def test_pairs_are_resampled_together_for_scores_that_are_not_means():
    statistics = np.random.default_rng(0).uniform(1, 2, size=(30, 2))

    def ratio(sums, n):
        return sums[..., 0] / sums[..., 1]

    same = paired_difference(statistics, statistics, ratio, relative=True)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_lossless_means_a_lower_bound_above_minus_one_percent():
    full = np.full(50, 40.0)
    assert is_lossless(column(full * 0.991), column(full))
    assert not is_lossless(column(full * 0.99), column(full))
    assert is_lossless(column(full * 1.5), column(full))


def test_lossless_counts_a_rise_of_a_minimised_metric_as_loss():
    full = np.full(50, 40.0)
    assert is_lossless(column(full * 1.009), column(full), direction="minimize")
    assert not is_lossless(column(full * 1.02), column(full), direction="minimize")
    assert is_lossless(column(full * 0.5), column(full), direction="minimize")


def test_a_mean_within_one_percent_is_not_lossless_when_its_spread_is_wide():
    generator = np.random.default_rng(0)
    full = np.full(20, 40.0)
    noisy = full + generator.normal(0, 8, size=20)
    noisy += full.mean() - noisy.mean()
    assert not is_lossless(column(noisy), column(full))


def test_mean_divides_by_n():
    assert mean(np.array([[6.0], [9.0]]), 3).tolist() == [2.0, 3.0]


def test_unusable_input_is_refused_by_name():
    with pytest.raises(InputError, match="n = 0"):
        bootstrap(np.zeros((0, 1)))
    with pytest.raises(InputError, match="resamples = 0"):
        bootstrap(column([1.0]), resamples=0)
    with pytest.raises(InputError, match=r"\(2, 1\) and \(1, 1\)"):
        paired_difference(column([1, 2]), column([1]))
    with pytest.raises(InputError, match=r"baseline score = 0.0"):
        paired_difference(column([1, 2]), column([0, 0]), relative=True)
