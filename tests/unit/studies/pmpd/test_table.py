import numpy as np
import pytest

from accuracy.statistics import Interval
from studies.pmpd.bench import Measured, above_line, further_above_line
from studies.pmpd.learning import average
from studies.pmpd.table import Place, Tables, verdict

METRIC = "rouge_l"
PLACE = Place("model", "table1", "4/3")


def measured(method, bits, scores):
    statistics = np.array(scores, dtype=float)[:, None]
    interval = Interval(float(statistics.mean()), 0.0, 100.0, len(scores))
    ids = [str(i) for i in range(len(scores))]
    return Measured(method, method, bits, {METRIC: interval}, {METRIC: statistics}, dict.fromkeys(ids, ""), {})


LOW, HIGH = measured("low", 3.0, [10, 20, 30, 40]), measured("high", 4.0, [20, 30, 40, 50])


def test_a_point_on_the_line_lies_zero_above_it_and_another_by_its_height():
    on_it = measured("half", 3.5, [15, 25, 35, 45])
    gain = above_line(on_it, LOW, HIGH, METRIC)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0, 0, 0), abs=1e-12)
    above = above_line(measured("better", 3.25, [15, 25, 35, 45]), LOW, HIGH, METRIC)
    assert (above.value, above.low, above.high) == pytest.approx((2.5, 2.5, 2.5))


def test_two_schedulers_are_compared_each_with_the_line_at_its_own_bits():
    ours, theirs = measured("ours", 3.5, [16, 26, 36, 46]), measured("theirs", 3.9, [19, 29, 39, 49])
    difference = further_above_line(ours, theirs, LOW, HIGH, METRIC)
    assert difference.value == pytest.approx(1.0)
    assert difference.low == pytest.approx(1.0)


def test_bits_beyond_the_ends_are_compared_with_the_end():
    assert above_line(measured("narrow", 2.5, [10, 20, 30, 40]), LOW, HIGH, METRIC).value == pytest.approx(0)


def test_seeds_are_averaged_prompt_by_prompt():
    mean = average("x", [measured("a", 3.0, [0, 10]), measured("b", 4.0, [10, 30])])
    assert mean.mean_bits == 3.5
    assert mean.statistics[METRIC][:, 0].tolist() == [5, 20]
    assert mean.scores[METRIC].value == 12.5


@pytest.mark.parametrize(
    ("relative", "low", "high", "says"),
    [
        (False, 0.1, 1, "holds"),
        (False, 0, 1, "not resolved"),
        (False, -1, 0, "not resolved"),
        (False, -1, -0.1, "contradicted"),
        (False, 0, 0, "the same"),
        (True, -0.009, 0.1, "holds"),
        (True, 0, 0, "holds"),
        (True, -0.02, 0.1, "not resolved"),
        (True, -0.03, -0.011, "contradicted"),
    ],
)
def test_a_verdict_needs_an_interval_that_leaves_its_bound(relative, low, high, says):
    assert verdict({"relative": relative, "ci_low": low, "ci_high": high}) == says


def test_a_comparison_says_whether_the_bits_are_equal_and_lossless_means_less_than_one_percent():
    tables = Tables()
    PLACE.compare(tables, "claim", HIGH, LOW, METRIC)
    nearly = measured("nearly", 3.99, [19.9, 29.9, 39.9, 49.9])
    PLACE.compare_lossless(tables, "lossless", nearly, HIGH, METRIC)
    worse = measured("worse", 4.0, [18, 27, 36, 45])
    PLACE.compare_lossless(tables, "lossless", worse, HIGH, METRIC)
    assert [row["equal_bits"] for row in tables.comparisons] == [False, True, True]
    assert [verdict(row) for row in tables.comparisons] == ["holds", "holds", "contradicted"]
    assert tables.comparisons[0]["n"] == 4


def test_scores_carry_the_paired_difference_to_the_high_width():
    tables = Tables()
    PLACE.add(tables, LOW, HIGH)
    (row,) = tables.scores
    assert (row["value"], row["minus_high_value"], row["minus_high_ci_low"]) == (25, -10, -10)


def test_a_baseline_that_some_resamples_score_0_leaves_a_note_instead_of_a_share_of_nothing():
    tables = Tables()
    rarely_right = measured("high", 4.0, [14, 0, 0, 0])
    PLACE.compare_lossless(tables, "lossless", LOW, rarely_right, METRIC)
    assert tables.comparisons == []
    (note,) = tables.notes
    assert note["experiment"] == "table1"
    assert "lossless, rouge_l: baseline score = 3.5, 0 in" in note["note"]
    assert "resamples of 4 prompts" in note["note"]
    assert "measure more prompts" in note["note"]
