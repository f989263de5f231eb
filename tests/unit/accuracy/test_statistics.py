from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accuracy.statistics import (
    bootstrap,
    equal_bits,
    holm,
    is_lossless,
    mean,
    paired_difference,
    paired_p_value,
    resample_counts,
)
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


def ratio_of_sums(sums, n):
    return sums[..., 0] / sums[..., 1]


def test_the_interval_of_tiny_data_equals_that_of_all_resamples():
    statistics = np.array([[1.0, 2.0], [5.0, 4.0], [2.0, 9.0], [7.0, 3.0]])
    every = [statistics[list(draw)].sum(0) for draw in itertools.product(range(4), repeat=4)]
    expected = np.quantile(ratio_of_sums(np.array(every), 4), [0.025, 0.975])
    found = bootstrap(statistics, ratio_of_sums, resamples=40_000)
    # A quantile of 256 outcomes is one of few values: the sampled one is that or its neighbour.
    assert (found.low, found.high) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("n", "least", "most"), [(20, 0.85, 0.93), (100, 0.90, 0.97)])
def test_intervals_cover_the_truth_as_often_as_documented(n, least, most):
    generator = np.random.default_rng(0)
    # The module says 89.1% and 93.6%; the standard deviation of 400 trials is 1.6% and 1.2%.
    skewed = generator.exponential(1.0, size=(400, n))
    intervals = [bootstrap(column(row), seed=seed, resamples=300) for seed, row in enumerate(skewed)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in intervals])
    assert least < covered < most


def turns_of_questions(generator, questions: int) -> np.ndarray:
    """Two turns a question: what the question shares has variance 9, what each turn adds has 1."""
    return (generator.normal(0, 3, size=(questions, 1)) + generator.normal(0, 1, size=(questions, 2))).reshape(-1)


def test_resampling_groups_covers_the_truth_where_resampling_rows_does_not():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 2).tolist()
    rows = [turns_of_questions(generator, 80) for _ in range(300)]
    grouped = [bootstrap(column(row), groups=groups, seed=seed, resamples=200) for seed, row in enumerate(rows)]
    single = [bootstrap(column(row), seed=seed, resamples=200) for seed, row in enumerate(rows)]
    # 2,000 trials gave 92.8% and 82.0%; the standard deviation of 300 trials is 1.5% and 2.2%.
    assert np.mean([one.low <= 0 <= one.high for one in grouped]) > 0.88
    assert np.mean([one.low <= 0 <= one.high for one in single]) < 0.88
    assert grouped[0].n == 80
    assert single[0].n == 160


def test_groups_of_one_row_change_nothing_and_identical_rows_of_a_group_count_once():
    values = np.random.default_rng(0).normal(size=30)
    plain = bootstrap(column(values))
    assert bootstrap(column(values), groups=[f"q{i}" for i in range(30)]) == plain
    doubled = bootstrap(column(np.repeat(values, 2)), groups=np.repeat(np.arange(30), 2).tolist())
    assert (doubled.value, doubled.low, doubled.high, doubled.n) == pytest.approx(
        (plain.value, plain.low, plain.high, 30)
    )


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 3)), min_size=1, max_size=12), st.randoms())
def test_a_grouped_mean_weighs_rows_whatever_their_order(rows, random):
    values, groups = [value for value, _ in rows], [group for _, group in rows]
    found = bootstrap(column(values), groups=groups, resamples=200)
    assert found.value == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    # Groups of unequal size: a resample without the largest one is still the mean of the rows it holds.
    assert found.n == len(set(groups))


def test_corpus_scores_take_groups_in_paired_comparisons():
    generator = np.random.default_rng(0)
    baseline = generator.uniform(1, 2, size=(40, 2))
    groups = np.repeat(np.arange(20), 2).tolist()
    better = baseline * [1.1, 1.0]
    difference = paired_difference(better, baseline, ratio_of_sums, relative=True, groups=groups)
    assert (difference.value, difference.low, difference.high, difference.n) == pytest.approx((0.1, 0.1, 0.1, 20))
    assert is_lossless(baseline * [0.995, 1], baseline, ratio_of_sums, groups=groups)
    assert not is_lossless(baseline * [0.985, 1], baseline, ratio_of_sums, groups=groups)


def brute_force_p_value(ours, theirs, aggregate) -> float:
    """Share of the swaps of sides whose difference is at least as large as the observed one."""
    differences = []
    for swaps in itertools.product((False, True), repeat=len(ours)):
        left = np.array([b if swap else a for a, b, swap in zip(ours, theirs, swaps, strict=True)]).sum(0)
        right = np.array([a if swap else b for a, b, swap in zip(ours, theirs, swaps, strict=True)]).sum(0)
        differences.append(float(aggregate(left, len(ours)) - aggregate(right, len(ours))))
    return float(np.mean(np.abs(differences) >= abs(differences[0]) - 1e-9))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=7))
def test_the_p_value_of_few_prompts_equals_trying_all_swaps(rows):
    ours = np.array([[a, weight] for a, _, weight in rows], dtype=float)
    theirs = np.array([[b, weight] for _, b, weight in rows], dtype=float)
    expected = brute_force_p_value(ours, theirs, ratio_of_sums)
    assert paired_p_value(ours, theirs, ratio_of_sums) == pytest.approx(expected)


def test_p_values_of_exchangeable_sides_are_uniform_and_of_a_clear_gain_small():
    generator = np.random.default_rng(0)
    values = [
        paired_p_value(column(a), column(b), seed=seed, resamples=300)
        for seed, (a, b) in enumerate(generator.normal(size=(600, 2, 15)))
    ]
    # 5% of 600 with a binomial standard deviation of 0.9%.
    assert 0.02 < np.mean(np.array(values) <= 0.05) < 0.08
    prompts = generator.normal(0, 50, size=100)
    assert paired_p_value(column(prompts + generator.normal(1, 1, size=100)), column(prompts)) < 0.001


def test_p_values_swap_groups_as_one():
    # One question of two turns: swapped or not, both differences are equally large.
    assert paired_p_value(column([3, 4]), column([1, 1]), groups=["q", "q"]) == 1.0
    assert paired_p_value(column([3, 4]), column([1, 1])) == 0.5


@given(st.dictionaries(st.integers(0, 20), st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_value_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, value in p_values.items():
        assert value <= adjusted[name] <= min(1.0, len(p_values) * value)
        assert all(adjusted[name] <= adjusted[other] for other, more in p_values.items() if more > value)
    if p_values:
        least = min(p_values, key=p_values.__getitem__)
        assert adjusted[least] == min(1.0, len(p_values) * p_values[least])


def test_holm_holds_the_error_of_a_whole_table():
    tables = np.random.default_rng(0).uniform(size=(2000, 10))
    wrong = [min(holm(dict(enumerate(row))).values()) <= 0.05 for row in tables]
    assert 0.035 < np.mean(wrong) < 0.065  # 5% with a standard deviation of 0.5%


def test_equal_bits_refuses_averages_that_print_differently():
    assert equal_bits(2.333, 2.330) == pytest.approx(0.003)
    assert equal_bits(3.0, 3.2, tolerance=0.5) == pytest.approx(-0.2)
    with pytest.raises(InputError, match="mean decode bits 2.5000 and 2.4000: differ by 0.1000, .* allows 0.005"):
        equal_bits(2.5, 2.4)
    with pytest.raises(InputError, match="nan"):
        equal_bits(float("nan"), 2.4)


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
    with pytest.raises(InputError, match="groups: 1 for 2 rows; every row needs one"):
        bootstrap(column([1, 2]), groups=["a"])
    with pytest.raises(InputError, match="n = 0, resamples = 2000: both must be >= 1"):
        paired_p_value(np.zeros((0, 1)), np.zeros((0, 1)))
    with pytest.raises(InputError, match="p-value of a = 1.5: must be 0..1"):
        holm({"a": 1.5})
    with pytest.raises(InputError, match=r"\(2, 1\) and \(1, 1\)"):
        paired_difference(column([1, 2]), column([1]))
    with pytest.raises(InputError, match="baseline score = 0, 0 in 2,000 of 2,000 resamples of 2 prompts"):
        paired_difference(column([1, 2]), column([0, 0]), relative=True)
