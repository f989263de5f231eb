"""Interpolation is linear between the nearest measured schedules, never beyond, and as unsure as it was seen to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.interpolation import MIN_COMPARISONS, Estimate, Interpolator, Point, coverage
from hwsim.trace import Schedule

STEPS = 100
EXAMPLE = Path(__file__).parents[3] / "studies" / "codesign" / "example" / "codesign.json"


def falling(*widths_and_steps: int, prefill: int = 4) -> Schedule:
    first, *rest = widths_and_steps
    return Schedule.from_pairs(prefill, [(0, first), *zip(rest[1::2], rest[::2], strict=True)])


def points(score, schedules, half=1.0):
    return [Point(one, score(one), score(one) - half, score(one) + half) for one in schedules]


def grid(prefill=4):
    """Uniform 4, 3, 2 and switches 4>3, 4>2, 3>2 at three steps each."""
    pairs = [(4, 3), (4, 2), (3, 2)]
    uniform = [falling(bits, prefill=prefill) for bits in (4, 3, 2)]
    return uniform + [falling(a, b, step, prefill=prefill) for a, b in pairs for step in (20, 50, 80)]


def mean_bits(schedule: Schedule) -> float:
    return 3.0 + 2.0 * schedule.mean_bits(STEPS)


def test_a_score_linear_in_bits_is_found_exactly_and_without_error():
    interpolator = Interpolator(points(mean_bits, grid()), [STEPS])
    wanted = [falling(4, 3, 35), falling(3, 2, 99)]
    found = interpolator.estimate(wanted)
    for schedule in wanted:
        estimate = found[schedule.label()]
        assert estimate.value == pytest.approx(mean_bits(schedule))
        assert estimate.error == pytest.approx(0, abs=1e-9)
        assert (estimate.low, estimate.high) == pytest.approx((estimate.value - 1, estimate.value + 1))
        assert estimate.comparisons == 9


def test_the_nearest_measured_schedules_on_both_sides_are_taken():
    found = Interpolator(points(mean_bits, grid()), [STEPS]).estimate([falling(4, 3, 35)])["p4:4>3@35"]
    assert set(found.neighbours) == {"p4:4>3@20", "p4:4>3@50"}


def test_the_error_is_the_largest_seen_when_a_measured_schedule_was_left_out():
    def curved(schedule):
        return schedule.mean_bits(STEPS) ** 2

    interpolator = Interpolator(points(curved, grid()), [STEPS])
    seen = interpolator.differences(2)
    # Of a parabola x^2 between a and b, the chord is (x - a)(b - x) above; 4>2 is left out over the widest gap in bits.
    assert seen["p4:4>2@50"] == pytest.approx((3.0 - 2.4) * (3.6 - 3.0))
    estimate = interpolator.estimate([falling(4, 3, 60)])["p4:4>3@60"]
    assert estimate.error == pytest.approx(max(abs(value) for value in seen.values()))
    # The weighted mean of the neighbours' intervals, and the error on both sides.
    assert estimate.high - estimate.value == pytest.approx(1 + estimate.error)


def test_three_widths_lie_in_a_triangle_of_measured_schedules():
    corners = grid() + [falling(4, 3, a, 2, b) for a, b in ((10, 30), (20, 60), (30, 70), (40, 80), (25, 50), (15, 80))]
    interpolator = Interpolator(points(mean_bits, corners), [STEPS])
    found = interpolator.estimate([falling(4, 3, 22, 2, 55)])["p4:4>3@22>2@55"]
    assert found.value == pytest.approx(mean_bits(falling(4, 3, 22, 2, 55)))
    assert found.comparisons >= MIN_COMPARISONS
    assert len(found.neighbours) == 3


def test_response_lengths_turn_steps_into_shares():
    # Half of the responses end before step 35, so that a switch there leaves 20 + 35 of 180 steps before it.
    lengths = [20, 160]

    def bits(schedule):
        return sum(width * count for steps in lengths for width, count in schedule.runs(steps)) / sum(lengths)

    found = Interpolator(points(bits, grid()), lengths).estimate([falling(4, 3, 35)])["p4:4>3@35"]
    assert found.value == pytest.approx(3 + (20 + 35) / 180)


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        (Schedule.from_pairs(8, [(0, 4), (30, 3)]), "does not lie between measured schedules of its prefill"),
        (Schedule.from_pairs(4, [(0, 4), (30, 1)]), "does not lie between"),
        (Schedule.from_pairs(4, [(0, 3), (30, 4)]), "its widths rise"),
        (Schedule.from_pairs(8, [(0, 8), (10, 4), (20, 3), (30, 2)]), "or are more than 3"),
        (Schedule.from_pairs(4, [(0, 4), (30, 3), (40, 2)]), "only 0 measured schedules of 3 decode widths"),
    ],
)
def test_what_is_not_between_measured_schedules_is_not_invented(schedule, reason):
    found = Interpolator(points(mean_bits, grid()), [STEPS]).estimate([schedule])
    assert reason in found[schedule.label()]


def test_too_few_comparisons_say_nothing_about_the_error():
    few = [falling(4), falling(3), *(falling(4, 3, step) for step in (20, 40, 60))]
    assert (
        "only 3 measured schedules of 2"
        in Interpolator(points(mean_bits, few), [STEPS]).estimate([falling(4, 3, 30)])["p4:4>3@30"]
    )


def test_without_intervals_there_is_a_value_and_no_interval():
    quoted = [Point(one, mean_bits(one), None, None) for one in grid()]
    found = Interpolator(quoted, [STEPS]).estimate([falling(4, 3, 35)])["p4:4>3@35"]
    assert isinstance(found, Estimate)
    assert (found.low, found.high) == (None, None)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=12, max_size=12), st.integers(1, 99))
def test_a_pair_is_interpolated_as_numpy_does(values, step):
    scores = dict(zip((one.label() for one in grid()), values, strict=True))
    interpolator = Interpolator(points(lambda one: scores[one.label()], grid()), [STEPS])
    target = falling(4, 2, step)
    if target.label() in scores:
        return
    shares, known = [0.0, 0.2, 0.5, 0.8, 1.0], ["p4:2", "p4:4>2@20", "p4:4>2@50", "p4:4>2@80", "p4:4"]
    expected = np.interp(step / STEPS, shares, [scores[label] for label in known])
    assert interpolator.estimate([target])[target.label()].value == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["bleu", "rouge_l"])
def test_on_the_kept_measurements_the_error_of_the_others_covers_the_one_left_out(metric):
    """128 prompts, 26 schedules, of which 12 lie between others; the workload's mean response has 53 steps."""
    rows = [row for row in json.loads(EXAMPLE.read_text())["quality"]["val"] if row["metric"] == metric]
    measured = [
        Point(Schedule.from_label(row["schedule"]), row["value"], row["ci_low"], row["ci_high"]) for row in rows
    ]
    found = coverage(measured, [53])
    assert found.comparisons == 12
    assert found.covered >= 11
    # Interpolation adds less than sampling leaves open: half of the interval over 128 prompts.
    half = np.mean([point.high - point.low for point in measured]) / 2
    assert found.largest < half
