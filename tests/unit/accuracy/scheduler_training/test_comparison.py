from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.scheduler_training.comparison import ClassOutcomes, compare_on_labels
from hwsim.trace import InputError

PRIOR = [0.25, 0.25, 0.25, 0.25]


def outcomes(n: int, seed: int = 0, equal_steps: bool = False) -> ClassOutcomes:
    generator = np.random.default_rng(seed)
    scores = np.sort(generator.uniform(0, 100, (n, 4)), axis=1)
    steps = np.full((n, 4), 10.0) if equal_steps else generator.integers(5, 40, (n, 4)).astype(np.float64)
    bits = steps * np.array([2, 2.4, 2.7, 3])
    return ClassOutcomes(scores, bits, steps, generator.integers(0, 4, n).tolist())


def by_name(found):
    return {one.policy: one for one in found}


def test_always_the_same_class_has_that_classs_score_and_bits():
    measured = outcomes(30)
    found = by_name(compare_on_labels(measured, {"learned": [2] * 30}, PRIOR))
    for policy in ("learned", "always class 2"):
        assert found[policy].score.value == pytest.approx(measured.scores[:, 2].mean())
        assert found[policy].mean_bits.value == pytest.approx(2.7)
        assert found[policy].accuracy.value == pytest.approx(np.mean(np.array(measured.labels) == 2))
        assert found[policy].score.n == 30


def test_random_choice_is_averaged_over_all_draws():
    measured = outcomes(30)
    found = by_name(compare_on_labels(measured, {}, [0.5, 0, 0, 0.5]))
    prior, uniform = found["random-prior"], found["random-uniform"]
    assert prior.score.value == pytest.approx((measured.scores[:, 0] + measured.scores[:, 3]).mean() / 2)
    bits = measured.decode_bits[:, [0, 3]].sum() / measured.decode_steps[:, [0, 3]].sum()
    assert prior.mean_bits.value == pytest.approx(bits)
    assert uniform.accuracy.value == pytest.approx(0.25)
    assert (prior.over_prior.value, prior.bits_over_prior.value) == (0, 0)
    assert prior.over_prior_at_equal_bits.value == pytest.approx(0, abs=1e-9)


def test_the_mix_is_the_point_on_the_line_between_two_classes():
    """Two classes of 2 and 3 bits and scores 10 and 30 on 4 prompts: at 2.25 bits the line says 15."""
    measured = ClassOutcomes(
        np.array([[10.0, 30.0]] * 4), np.array([[20.0, 30.0]] * 4), np.array([[10.0, 10.0]] * 4), [0, 0, 0, 1]
    )
    found = by_name(compare_on_labels(measured, {"learned": [0, 0, 0, 1]}, [0.5, 0.5]))["learned"]
    assert found.mean_bits.value == pytest.approx(2.25)
    assert found.score.value == pytest.approx(15)
    assert found.over_static_mix.value == pytest.approx(0, abs=1e-9)
    assert found.over_prior.value == pytest.approx(-5)
    assert found.bits_over_prior.value == pytest.approx(-0.25)
    assert found.over_prior_at_equal_bits.value == pytest.approx(0, abs=1e-9)


def test_choosing_high_bits_where_they_help_beats_the_mix():
    scores = np.array([[10.0, 10.0]] * 3 + [[0.0, 50.0]])
    measured = ClassOutcomes(scores, np.array([[20.0, 30.0]] * 4), np.array([[10.0, 10.0]] * 4), [0, 0, 0, 1])
    found = by_name(compare_on_labels(measured, {"good": [0, 0, 0, 1], "bad": [1, 0, 0, 0]}, [0.5, 0.5]))
    # The line from (2, 7.5) to (3, 20) has 10.625 at 2.25 bits; the choices score 20 and 7.5.
    assert found["good"].over_static_mix.value == pytest.approx(20 - 10.625)
    assert found["bad"].over_static_mix.value == pytest.approx(7.5 - 10.625)
    assert found["oracle"].over_static_mix == found["good"].over_static_mix


def test_responses_of_different_lengths_are_mixed_exactly():
    """Class 1 answers twice as long: half the prompts at 3 bits are two thirds of the steps."""
    measured = ClassOutcomes(
        np.array([[0.0, 60.0]] * 4), np.array([[20.0, 60.0]] * 4), np.array([[10.0, 20.0]] * 4), [0] * 4
    )
    found = by_name(compare_on_labels(measured, {"half": [0, 1, 0, 1]}, [0.5, 0.5]))["half"]
    assert found.mean_bits.value == pytest.approx(2 + 2 / 3)
    assert found.over_static_mix.value == pytest.approx(0, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.integers(0, 1000))
def test_no_random_choice_beats_the_best_static_mix(weights, seed):
    prior = [weight / sum(weights) for weight in weights]
    found = by_name(compare_on_labels(outcomes(12, seed), {}, prior))
    for policy in ("random-prior", "random-uniform", *(f"always class {k}" for k in range(4))):
        assert found[policy].over_static_mix.value <= 1e-9
    assert found["oracle"].accuracy.value == 1


def test_intervals_are_paired_and_hold_their_value():
    found = by_name(compare_on_labels(outcomes(40, equal_steps=True), {"same": [1] * 40}, [0, 1, 0, 0]))["same"]
    for interval in (found.over_prior, found.bits_over_prior, found.over_prior_at_equal_bits):
        assert max(abs(interval.low), abs(interval.high)) < 1e-9, "equal choices differ in no resample"
    assert found.score.low < found.score.value < found.score.high


@pytest.mark.parametrize(
    ("chosen", "prior", "named"),
    [
        ({"learned": [0, 1]}, PRIOR, "choices of learned: must be 3 classes of 0..3"),
        ({"learned": [0, 1, 4]}, PRIOR, "choices of learned: must be 3 classes of 0..3"),
        ({}, [0.5, 0.5], r"prior = \[0\.5, 0\.5\]: must be 4 probabilities"),
        ({}, [0.5, 0.5, 0.5, -0.5], "must be 4 probabilities"),
    ],
)
def test_choices_that_do_not_fit_are_refused(chosen, prior, named):
    with pytest.raises(InputError, match=named):
        compare_on_labels(outcomes(3), chosen, prior)


def test_prompts_without_a_decode_step_are_left_out():
    steps = np.array([[10.0, 10.0], [0.0, 0.0], [10.0, 10.0]])
    measured = ClassOutcomes(np.array([[1.0, 2.0], [100.0, 100.0], [3.0, 4.0]]), steps * [2, 3], steps, [0, 0, 1])
    found = by_name(compare_on_labels(measured, {"learned": [0, 0, 1]}, [0.5, 0.5]))["learned"]
    assert (found.score.n, found.score.value, found.mean_bits.value) == (2, 2.5, 2.5)


def test_responses_without_any_step_have_no_mean_bits():
    empty = ClassOutcomes(np.ones((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), [0, 0])
    with pytest.raises(InputError, match="no response has a decode step"):
        compare_on_labels(empty, {}, [0.5, 0.5])
