from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accuracy.schedulers import (
    MEASURES,
    PATTERNS,
    ConfidenceScheduler,
    PatternScheduler,
    RandomPriorScheduler,
    RandomUniformScheduler,
    StaticScheduler,
    UniformScheduler,
    find_scheduler,
    make_scheduler,
    pattern_schedule,
    register_scheduler,
    scheduler_names,
)
from hwsim.trace import InputError, Schedule

from .conftest import fixed_decoder
from .scheduler_suite import BOUND, PROMPTS, check_scheduler

LENGTHS = {prompt.id: BOUND - 1 for prompt in PROMPTS}
SUITE = {
    "uniform": [{"weight_bits": 3}, {"weight_bits": 3, "prefill_weight_bits": 4}],
    "static": [{"schedule": Schedule.from_label("p4:4>2@5")}, {"schedule": Schedule.from_label("p4:4>2@6")}],
    "pattern": [
        {"pattern": "middle-half", "steps": LENGTHS, "high_bits": 4, "low_bits": 2, "prefill_weight_bits": 16},
        {"pattern": "alternate", "steps": LENGTHS, "high_bits": 4, "low_bits": 2},
    ],
    "random-uniform": [{"widths": [2, 3, 4], "prefill_weight_bits": 16}, {"widths": [2, 3, 4], "seed": 1}],
    "random-prior": [
        {"widths": [3, 4], "label_probabilities": [0.301, 0.340, 0.219, 0.141]},
        {"widths": [3, 4], "label_probabilities": [0.5, 0.5], "points": 2},
    ],
    "confidence": [
        {"widths": [2, 3, 4], "thresholds": [0.2, 0.4], "prefill_weight_bits": 16},
        {"widths": [2, 4], "thresholds": [0.3], "measure": "probability-margin", "monotone": True},
    ],
}
"""Two lots of options of every scheduler; ``learned`` needs a checkpoint and has the suite in its own tests."""

MIXED = ("first-half", "middle-half", "last-half", "alternate")


@pytest.mark.parametrize(
    ("pattern", "bits"),
    [
        ("first-half", [4, 4, 4, 3, 3, 3]),
        ("middle-half", [3, 4, 4, 4, 3, 3]),
        ("last-half", [3, 3, 3, 4, 4, 4]),
        ("alternate", [4, 3, 4, 3, 4, 3]),
        ("all-high", [4] * 6),
        ("all-low", [3] * 6),
    ],
)
def test_patterns_place_the_high_width_as_named(pattern, bits):
    assert pattern_schedule(pattern, 6, 4, 3).expand(6) == bits


@given(st.sampled_from(MIXED), st.integers(0, 300))
def test_mixed_patterns_spend_exactly_half_rounded_up(pattern, steps):
    bits = pattern_schedule(pattern, steps, 4, 3).expand(steps)
    assert (bits.count(4), bits.count(3)) == ((steps + 1) // 2, steps // 2)


def test_a_pattern_follows_each_prompts_own_length():
    scheduler = PatternScheduler("first-half", {"a": 4, "b": 2}, 4, 3, prefill_weight_bits=8)
    plans = [scheduler.plan(SimpleNamespace(prompt_id=name)) for name in "ab"]
    assert [plan.expand(4) for plan in plans] == [[4, 4, 3, 3], [4, 3, 3, 3]]
    assert {plan.prefill_weight_bits for plan in plans} == {8}
    assert scheduler.widths() == {8, 4, 3}
    with pytest.raises(InputError, match="prompt 'c': no baseline length"):
        scheduler.plan(SimpleNamespace(prompt_id="c"))


def test_unknown_patterns_are_refused_with_a_suggestion():
    for make in (lambda: pattern_schedule("first-hlaf", 4, 4, 3), lambda: PatternScheduler("first-hlaf", {}, 4, 3)):
        with pytest.raises(InputError, match=r"unknown pattern 'first-hlaf'; did you mean 'first-half'\?"):
            make()
    with pytest.raises(InputError, match="steps = -1"):
        pattern_schedule(PATTERNS[0], -1, 4, 3)


@pytest.mark.parametrize("name", SUITE)
def test_every_scheduler_keeps_the_interface(name):
    one, other = SUITE[name]
    check_scheduler(lambda: make_scheduler(name, **one), lambda: make_scheduler(name, **other))


def test_no_built_in_scheduler_is_left_out_of_the_suite():
    ours = {name for name in scheduler_names() if not name.startswith("test-")}
    assert ours - {"learned"} == set(SUITE)


def test_built_in_schedulers_are_registered_and_made_by_name():
    assert {"static", "uniform", "pattern"} <= set(scheduler_names())
    uniform = make_scheduler("uniform", weight_bits=3, prefill_weight_bits=4)
    assert isinstance(uniform, UniformScheduler)
    assert uniform.label == "p4:3"


def test_unknown_scheduler_names_suggest_the_nearest():
    with pytest.raises(InputError, match=r"unknown scheduler 'statik'; did you mean 'static'\?"):
        make_scheduler("statik")


def test_options_that_do_not_fit_are_one_line():
    with pytest.raises(InputError, match="scheduler 'uniform': missing a required argument: 'weight_bits'"):
        make_scheduler("uniform")
    with pytest.raises(InputError, match="scheduler 'uniform': got an unexpected keyword argument 'bits'"):
        make_scheduler("uniform", weight_bits=3, bits=3)


class ThirdParty(StaticScheduler):
    """Somebody else's scheduler, found by its module and class."""

    name = "third-party"

    def __init__(self, weight_bits: int) -> None:
        super().__init__(Schedule.uniform(weight_bits, 4))


def test_a_class_of_another_package_is_found_without_being_registered():
    made = find_scheduler(f"{__name__}:ThirdParty", weight_bits=2)
    assert (type(made).__name__, made.label) == ("ThirdParty", "p4:2")
    assert isinstance(find_scheduler("uniform", weight_bits=2), UniformScheduler)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:Mine", "module 'no_such_module' cannot be imported"),
        (":Mine", "module '' cannot be imported"),
        ("accuracy.schedulers:Nothing", "must name a class derived from accuracy.schedulers.Scheduler"),
        ("accuracy.schedulers:Scheduler", "must name a class derived from"),
        ("os:system", "must name a class derived from"),
        (f"{__name__}:ThirdParty", "missing a required argument: 'weight_bits'"),
        ("unifrom", "unknown scheduler 'unifrom'; did you mean 'uniform'"),
    ],
)
def test_a_scheduler_that_cannot_be_found_is_refused_in_one_line(reference, message):
    with pytest.raises(InputError) as caught:
        find_scheduler(reference)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_third_parties_add_a_scheduler_without_touching_ours():
    @register_scheduler("test-third-party")
    class Mine(StaticScheduler):
        name = "test-third-party"

    made = make_scheduler("test-third-party", schedule=Schedule.uniform(2))
    assert isinstance(made, Mine)
    with pytest.raises(ValueError, match="already registered"):
        register_scheduler("test-third-party")(Mine)


def chosen(scheduler, prompts: int) -> list[int]:
    classes = scheduler.candidates.schedules(61)
    plans = [scheduler.plan(SimpleNamespace(prompt_id=f"p{i}", max_new_tokens=61)) for i in range(prompts)]
    return [classes.index(plan) for plan in plans]


def test_random_uniform_chooses_every_candidate_about_equally_often():
    counts = [chosen(RandomUniformScheduler([2, 3, 4], points=3), 3000).count(label) for label in range(6)]
    # Five standard deviations of a binomial of 3000 and 1/6.
    assert all(abs(count - 500) < 5 * (3000 * 5 / 36) ** 0.5 for count in counts)


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any), st.integers(0, 2**32))
def test_random_prior_never_chooses_what_has_no_probability(weights, seed):
    scheduler = RandomPriorScheduler([4, 3], [weight / sum(weights) for weight in weights], seed=seed)
    assert all(weights[label] for label in chosen(scheduler, 40))


def test_random_prior_follows_the_published_distribution_although_it_adds_up_to_1_001():
    published = [0.301, 0.340, 0.219, 0.141]
    labels = chosen(RandomPriorScheduler([4, 3], published), 4000)
    for label, probability in enumerate(published):
        expected = 4000 * probability / 1.001
        assert abs(labels.count(label) - expected) < 5 * expected**0.5


def test_random_schedulers_of_one_seed_draw_the_same_number_for_a_prompt():
    uniform, prior = RandomUniformScheduler([4, 3], seed=3), RandomPriorScheduler([4, 3], [0.25] * 4, seed=3)
    assert chosen(uniform, 100) == chosen(prior, 100) != chosen(RandomUniformScheduler([4, 3], seed=4), 100)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.5, 0.5], "label_probabilities: 2 given, p4:4/3 N=4 has 4 classes"),
        ([0.5, 0.6, -0.1, 0.0], "must be >= 0 and add up to 1"),
        ([0.3, 0.3, 0.3, 0.3], "must be >= 0 and add up to 1"),
        ([float("nan"), 0.5, 0.25, 0.25], "must be >= 0 and add up to 1"),
    ],
)
def test_probabilities_that_are_none_are_refused(probabilities, message):
    with pytest.raises(InputError, match=message):
        RandomPriorScheduler([4, 3], probabilities)


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_confidence_is_the_best_probability_or_its_lead():
    scores = logits_of(0.2, 0.5, 0.3)
    assert MEASURES["top-probability"](scores) == pytest.approx(0.5)
    assert MEASURES["probability-margin"](scores) == pytest.approx(0.2)


def bits_after(scheduler, *confidences: float) -> list[int]:
    scheduler.plan(SimpleNamespace())
    rest = [logits_of(confidence, *[(1 - confidence) / 9] * 9) for confidence in confidences]
    return [scheduler.next_bits(step, scores, None) for step, scores in enumerate(rest)]


def test_a_confident_model_gets_fewer_bits_and_an_unsure_one_more():
    scheduler = ConfidenceScheduler([2, 4, 3], [0.5, 0.9])
    assert bits_after(scheduler, 0.3, 0.6, 0.95, 0.6, 0.3) == [4, 3, 2, 3, 4]


def test_a_monotone_confidence_schedule_never_rises_and_starts_anew_for_each_prompt():
    scheduler = ConfidenceScheduler([2, 4, 3], [0.5, 0.9], monotone=True)
    for _ in range(2):
        assert bits_after(scheduler, 0.3, 0.6, 0.3, 0.95, 0.3) == [4, 3, 3, 2, 2]


def test_thresholds_at_the_ends_mean_always_and_never():
    sure = fixed_decoder(lambda position, bits: 5)
    for thresholds, bits in ([0.0], 3), ([1.0], 4):
        (response,) = sure.decode(PROMPTS[:1], ConfidenceScheduler([4, 3], thresholds))
        assert set(response.decode_weight_bits) == {bits}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [4, 3], "thresholds": []}, "thresholds: 0 given for 2 widths; give 1"),
        ({"widths": [4, 3], "thresholds": [1.5]}, r"thresholds = \[1.5\]: each must be 0..1"),
        ({"widths": [4, 3], "thresholds": [float("nan")]}, "each must be 0..1"),
        ({"widths": [4, 3, 2], "thresholds": [0.9, 0.5]}, r"thresholds = \[0.9, 0.5\]: must rise"),
        ({"widths": [4, 4], "thresholds": [0.9]}, "at least one width, each once"),
        ({"widths": [4, 3], "thresholds": [0.9], "measure": "margin"}, "unknown measure 'margin'"),
    ],
)
def test_a_confidence_rule_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        ConfidenceScheduler(**options)
