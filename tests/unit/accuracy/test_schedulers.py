from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accuracy.schedulers import (
    PATTERNS,
    PatternScheduler,
    StaticScheduler,
    UniformScheduler,
    make_scheduler,
    pattern_schedule,
    register_scheduler,
    scheduler_names,
)
from hwsim.trace import InputError, Schedule

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


def test_third_parties_add_a_scheduler_without_touching_ours():
    @register_scheduler("test-third-party")
    class Mine(StaticScheduler):
        name = "test-third-party"

    made = make_scheduler("test-third-party", schedule=Schedule.uniform(2))
    assert isinstance(made, Mine)
    with pytest.raises(ValueError, match="already registered"):
        register_scheduler("test-third-party")(Mine)
