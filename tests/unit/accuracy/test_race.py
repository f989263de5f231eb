from __future__ import annotations

import dataclasses
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from accuracy.decoding import Prompt, Response
from accuracy.evaluation import distinct_steps
from accuracy.metrics import get_metric
from accuracy.search.contender import Contender
from accuracy.search.race import Race
from accuracy.search.selection import FULL_PRECISION, Target, order_key
from hwsim.trace import InputError, Schedule, candidate_schedules

BOUND = 7
WORDS = ["a", "b", "c", "dog"]
CANDIDATES = candidate_schedules([4, 3, 2], BOUND, 4)


class Answering:
    """Plays decoding: a response's text and length are drawn from the seed, the prompt and the widths that ran.

    A step at a width gets the reference's word with the probability ``quality[width]``.
    """

    def __init__(self, seed: int, quality: dict[int, float], stop: float = 0.0) -> None:
        self.seed, self.quality, self.stop, self.asked = seed, quality, stop, 0

    def give(self, requests):
        ((prompts, schedulers),) = requests
        self.asked += len(prompts) * len(schedulers)
        return {one.label: [self.answer(prompt, one.schedule) for prompt in prompts] for one in schedulers}

    def answer(self, prompt: Prompt, schedule: Schedule) -> Response:
        steps, words = [], []
        while True:
            draw = random.Random(f"{self.seed} {prompt.id} {schedule.prefill_weight_bits} {steps}")
            bits = schedule.bits_at(len(steps))
            right = draw.random() < self.quality[bits]
            words.append(gold_of(prompt).split()[len(words)] if right else draw.choice(WORDS))
            if len(words) == BOUND or draw.random() < self.stop:
                break
            steps.append(bits)
        tokens = tuple(WORDS.index(word) for word in words)
        return Response(prompt.id, 1, tokens, " ".join(words), schedule.prefill_weight_bits, tuple(steps), "eos")


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"p{i}", (1,) * (1 + i % 3), BOUND) for i in range(n)]


def gold_of(prompt: Prompt) -> str:
    return " ".join(random.Random(prompt.id).choices(WORDS, k=BOUND))


def race(source, n, metric, target, schedules=CANDIDATES, **options) -> Race:
    asked = prompts(n)
    made = Race(source, asked, [gold_of(one) for one in asked], get_metric(metric), target, schedules, **options)
    made.run()
    return made


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 14),
    metric=st.sampled_from(["rouge_l", "bleu", "sacrebleu", "fidelity_rouge_l", "identical_prefix_tokens"]),
    reference=st.sampled_from([FULL_PRECISION, Schedule.uniform(4), Schedule.uniform(3, 4), 40.0]),
    tolerance=st.sampled_from([0.0, 0.01, 0.1, 0.3]),
    criterion=st.sampled_from(["point", "lossless"]),
    batch_size=st.integers(1, 5),
    low=st.floats(0, 1),
)
def test_dropping_early_never_changes_what_is_chosen_or_nearest(
    seed, n, metric, reference, tolerance, criterion, batch_size, low
):
    assume(criterion == "point" or isinstance(reference, Schedule))
    target = Target(reference, tolerance, criterion)
    source = Answering(seed, {16: 1.0, 4: 0.95, 3: (0.95 + low) / 2, 2: low}, stop=0.2)
    try:
        naive = race(source, n, metric, target, batch_size=batch_size, drop_early=False)
    except InputError as error:
        assert "scores 0" in str(error) or "needs one that is not 0" in str(error)
        return
    decoded = source.asked
    fast = race(source, n, metric, target, batch_size=batch_size)
    assert (fast.chosen, fast.nearest) == (naive.chosen, naive.nearest)
    assert (fast.reference_value, fast.required_value) == (naive.reference_value, naive.required_value)
    assert fast.responses == source.asked - decoded <= naive.responses
    assert fast.responses + fast.responses_dropped == naive.responses
    known = {one.label: one for one in naive.candidates()}
    for one in fast.candidates():
        if one.dropped:
            assert not one.feasible
            if one.best_possible is not None:
                assert known[one.label].value <= one.best_possible + 1e-9
        else:
            assert one == known[one.label]


def chosen_by_hand(source, n, metric, target) -> Schedule | None:
    """The definition: measure all, keep those that keep the quality, take the cheapest."""
    asked = prompts(n)

    def score(schedule):
        answers = [source.answer(prompt, schedule) for prompt in asked]
        statistics = metric.statistics_many(answers, [SimpleReference(gold_of(prompt)) for prompt in asked])
        bits = [width for answer in answers for width in answer.decode_weight_bits]
        return float(metric.aggregate(statistics.sum(0), n)), bits

    required = score(target.reference)[0] * (1 - target.tolerance)
    feasible = []
    for schedule in CANDIDATES:
        value, bits = score(schedule)
        if value >= required:
            cost = Fraction(sum(bits), len(bits)) if bits else Fraction(schedule.bits_at(0))
            feasible.append((cost, schedule.prefill_weight_bits, len(schedule.decode), schedule.label(), schedule))
    return min(feasible)[-1] if feasible else None


class SimpleReference:
    def __init__(self, gold: str) -> None:
        self.gold = gold

    def text(self, kind: str) -> str:
        return self.gold


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 12), tolerance=st.sampled_from([0.0, 0.05, 0.3]))
def test_the_choice_is_the_cheapest_of_all_that_keep_the_quality(seed, n, tolerance):
    source = Answering(seed, {16: 1.0, 4: 0.95, 3: 0.9, 2: 0.6}, stop=0.2)
    target = Target(FULL_PRECISION, tolerance)
    found = race(source, n, "rouge_l", target, batch_size=4)
    assert found.chosen == chosen_by_hand(source, n, get_metric("rouge_l"), target)


def test_a_schedule_far_below_the_target_stops_after_the_first_batch():
    source = Answering(0, {16: 1.0, 4: 1.0, 3: 1.0, 2: 0.0})
    wanted = [Schedule.uniform(2), Schedule.uniform(4)]
    found = race(source, 12, "rouge_l", Target(), wanted, batch_size=2)
    chosen, dropped = found.candidates()
    assert (found.chosen, chosen.label, chosen.dropped) == (Schedule.uniform(4), "p4:4", None)
    assert (dropped.dropped, dropped.feasible, dropped.value) == ("quality", False, None)
    assert dropped.n < 12
    assert dropped.best_possible < found.required_value
    assert found.responses_dropped == 12 - dropped.n


def test_a_schedule_that_can_only_cost_more_than_a_feasible_one_is_never_decoded():
    source = Answering(0, {16: 1.0, 4: 1.0, 3: 1.0, 2: 1.0})
    wanted = [Schedule.uniform(2, 4), Schedule.uniform(3, 4), Schedule.uniform(4)]
    found = race(source, 6, "rouge_l", Target(), wanted, batch_size=2)
    assert found.chosen == Schedule.uniform(2, 4)
    assert [(one.label, one.dropped, one.n) for one in found.candidates()] == [
        ("p4:2", None, 6),
        ("p4:3", "cost", 0),
        ("p4:4", "cost", 0),
    ]
    assert source.asked == 12  # full precision and p4:2


def test_where_nothing_is_feasible_the_nearest_is_named():
    source = Answering(0, {16: 1.0, 4: 0.5, 3: 0.3, 2: 0.0})
    found = race(source, 10, "rouge_l", Target(tolerance=0.0), batch_size=2)
    values = {one.schedule: one.value for one in found.candidates() if one.value is not None}
    assert found.chosen is None
    assert values[found.nearest] == max(values.values())
    assert not any(one.feasible for one in found.candidates())


def test_an_approximate_race_may_drop_by_interval_and_keeps_its_hands_off_few_prompts():
    source = Answering(1, {16: 0.9, 4: 0.9, 3: 0.5, 2: 0.5})
    wanted = [Schedule.uniform(3), Schedule.uniform(4)]
    found = race(source, 80, "bleu", Target(70.0), wanted, batch_size=10, approximate=True)
    low = next(one for one in found.candidates() if one.label == "p3:3")
    assert (low.dropped, low.feasible) == ("interval", False)
    assert 30 <= low.n < 80


def test_steps_are_counted_once_where_they_are_shared():
    source = Answering(3, {16: 1.0, 4: 0.9, 3: 0.9, 2: 0.9}, stop=0.2)
    found = race(source, 8, "rouge_l", Target(), batch_size=4, drop_early=False)
    asked = prompts(8)
    per_prompt = [[source.answer(prompt, schedule) for schedule in CANDIDATES] for prompt in asked]
    full = [len(source.answer(prompt, FULL_PRECISION).decode_weight_bits) for prompt in asked]
    steps = sum(len(one.decode_weight_bits) for answers in per_prompt for one in answers)
    assert found.decode_steps == steps + sum(full)
    assert found.decode_steps_run == sum(map(distinct_steps, per_prompt)) + sum(full)


def test_a_reference_that_scores_nothing_is_refused():
    source = Answering(0, {16: 0.0, 4: 1.0, 3: 1.0, 2: 1.0})
    with pytest.raises(InputError, match=r"reference: scores 0 bleu on 1 prompts, which every schedule keeps"):
        race(source, 1, "bleu", Target(), batch_size=1)


@given(
    st.lists(st.integers(1, 20), max_size=6),
    st.lists(st.integers(0, 19), max_size=6),
    st.sampled_from([*candidate_schedules([4, 3, 2], 20, 5), Schedule.from_label("p4:2>4@6")]),
)
def test_no_lengths_of_the_remaining_responses_cost_less_than_the_bound(done, rest, schedule):
    def made(steps):
        return Response("p", 1, (0,) * (steps + 1), "", 4, tuple(schedule.expand(steps)), "eos")

    one = Contender(schedule)
    one.add(range(len(done)), [made(steps) for steps in done], np.zeros((len(done), 1)))
    least = one.least_mean_bits(len(rest), 20)
    one.add(range(100, 100 + len(rest)), [made(steps) for steps in rest], np.zeros((len(rest), 1)))
    assert one.order_key[0] >= least


def test_the_bound_on_cost_is_reached_when_nothing_more_runs_or_everything_to_the_end():
    one = Contender(Schedule.from_label("p4:4>2@2"))
    assert one.least_mean_bits(3, 9) == Fraction(2 * 4 + 6 * 2, 8)
    assert one.least_mean_bits(3, 1) == 4
    assert one.least_mean_bits(0, 9) == 4


def test_the_order_of_choice_is_bits_then_prefill_then_switches_then_label():
    keys = [
        order_key(Schedule.from_label(label), bits, 4)
        for label, bits in [("p3:4>3@5", 12), ("p4:3", 12), ("p4:3>2@9", 12), ("p4:4>2@3", 12), ("p3:4", 16)]
    ]
    assert keys == sorted(keys)
    assert order_key(Schedule.uniform(3), 0, 0)[0] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "exact"}, "unknown criterion 'exact'"),
        ({"tolerance": -0.01}, r"tolerance = -0.01: must be 0\.\.1"),
        ({"tolerance": math.nan}, "tolerance = nan"),
        ({"reference": 0.0}, r"reference = 0.0: must be a schedule, or a score that is finite and not 0"),
        ({"reference": math.inf}, "reference = inf"),
        ({"reference": 30.0, "criterion": "lossless"}, "compares prompt by prompt and needs a schedule"),
    ],
)
def test_a_target_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Target(**options)


def distance_race(source, n, target, **options) -> Race:
    """A race by a metric of which less is better, and of which no bound is known."""
    metric = get_metric("rouge_l")
    distance = dataclasses.replace(
        metric,
        name="distance",
        direction="minimize",
        statistics_many=lambda answers, references: 101 - metric.statistics_many(answers, references),
    )
    asked, wanted = prompts(n), [Schedule.uniform(3), Schedule.uniform(4)]
    made = Race(source, asked, [gold_of(one) for one in asked], distance, target, wanted, batch_size=5, **options)
    made.run()
    return made


def test_a_metric_to_be_minimised_is_kept_from_rising():
    found = distance_race(Answering(0, {16: 0.9, 4: 0.9, 3: 0.1}), 10, Target(tolerance=0.2))
    assert found.required_value == pytest.approx(1.2 * found.reference_value)
    assert found.chosen == Schedule.uniform(4)


def test_the_nearest_by_a_metric_to_be_minimised_has_the_least():
    # Both drop out by their intervals, and the nearer one is completed.
    found = distance_race(Answering(0, {16: 0.9, 4: 0.5, 3: 0.1}), 60, Target(2.0), approximate=True)
    assert found.chosen is None
    assert found.nearest == Schedule.uniform(4)
    assert {one.label: one.dropped for one in found.candidates()} == {"p4:4": None, "p3:3": "interval"}
