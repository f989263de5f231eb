"""Verdicts, and files that hold what was found."""

import csv

import pytest

from studies.validation.table import at_least, at_most, shown, within, write_table


@pytest.mark.parametrize(("predicted", "verdict"), [(103.0, "pass"), (97.0, "pass"), (103.1, "fail"), (96.9, "fail")])
def test_within_judges_the_size_of_the_relative_error(predicted, verdict):
    row = within("c", "case", "ms", predicted, 100.0, 0.03 + 1e-12)
    assert row.verdict == verdict
    assert row.error == pytest.approx(predicted / 100 - 1)


@pytest.mark.parametrize(
    ("judge", "predicted", "limit", "verdict"),
    [
        (at_most, 5.0, 5.0, "pass"),
        (at_most, 5.1, 5.0, "fail"),
        (at_most, 0, 0, "pass"),
        (at_most, 1, 0, "fail"),
        (at_least, 5.0, 5.0, "pass"),
        (at_least, 4.9, 5.0, "fail"),
    ],
)
def test_limits_are_one_sided_and_may_be_zero(judge, predicted, limit, verdict):
    assert judge("c", "case", "cycles", predicted, limit).verdict == verdict


def test_what_is_only_shown_has_no_verdict_however_far_off():
    row = shown("c", "case", "ms", 1.0, 1e9)
    assert (row.verdict, row.demand, row.bound) == ("shown", "", None)


def test_a_table_reads_back_with_nine_digits(tmp_path):
    write_table(tmp_path / "t.csv", [{"name": "a, b", "value": 1 / 3}, {"name": "c", "value": None}])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"name": "a, b", "value": "0.333333333"}, {"name": "c", "value": ""}]
