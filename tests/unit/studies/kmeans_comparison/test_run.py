from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pandas as pd
import pytest

from hwsim.trace import InputError
from studies import cli
from studies.kmeans_comparison.methods import optional, original, ours, partition_errors, scikit_learn
from studies.kmeans_comparison.rows import DEFAULT_ROWS, FISHER, UNWEIGHTED, Part, generated_rows, real_rows
from studies.kmeans_comparison.run import errors_of, summarise_nested, summarise_seed, summarise_times, timed_rows


def _part(values, weights=None):
    values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    weights = np.ones(values.shape) if weights is None else np.atleast_2d(np.asarray(weights, dtype=np.float64))
    return Part("m", UNWEIGHTED, values, weights)


def test_error_of_a_partition_is_about_its_weighted_means_and_low_bits_may_be_dropped():
    part = _part([[0, 4, 10, 12]], [[3, 1, 1, 1]])
    labels = np.array([[0, 1, 2, 3]], dtype=np.uint8)
    assert partition_errors(part, labels).tolist() == [0.0]
    # Means 1 and 11: 3 * 1 + 9 and 1 + 1.
    assert partition_errors(part, labels, 1).tolist() == [14.0]
    # Mean (4 + 10 + 12) / 6.
    expected = 3 * (13 / 3) ** 2 + (1 / 3) ** 2 + (17 / 3) ** 2 + (23 / 3) ** 2
    assert partition_errors(part, labels, 2) == pytest.approx([expected])


@pytest.mark.parametrize("method", [lambda p: ours(p, 1, 1), lambda p: original(p, 1, 1), lambda p: scikit_learn(p, 1)])
def test_every_method_finds_two_heaps(method):
    part = _part([[0.0, 9.0, 0.5, 9.5, 8.75], [5.0, -3.0, 5.5, -2.5, -2.75]])
    labels = method(part)
    assert (labels[0] == labels[0, 0]).tolist() == [True, False, True, False, False]
    assert (labels[1] == labels[1, 0]).tolist() == [True, False, True, False, False]


def test_nested_labels_of_the_original_split_their_parents():
    # Distinct values: unstable sorts order equal ones each in its own way.
    part = _part(np.random.default_rng(0).standard_normal((3, 200)))
    wide, narrow = original(part, 2, 4), original(part, 2, 2)
    np.testing.assert_array_equal(wide >> 2, narrow)
    np.testing.assert_array_equal(wide, original(part, 2, 4, sorts_itself=False))


def _errors(ours, original, direct):
    columns = {"model": "m", "weighting": FISHER, "seed_bits": 2, "bits": 2}
    by_method = {"ours": ours, "ours, jointly": direct, "original": original, "scikit-learn": ours, "direct": direct}
    return pd.concat(
        pd.DataFrame({**columns, "method": method, "row": range(len(values)), "error": values})
        for method, values in by_method.items()
    )


def test_summaries_count_the_rows_where_another_method_is_better():
    errors = _errors([1.0, 2.0, 3.0], [2.0, 1.5, 3.0 * (1 - 1e-12)], [1.0, 1.0, 1.0])
    (seed,) = summarise_seed(errors).to_dict("records")
    assert (seed["rows"], seed["rows_original_below"], seed["rows_scikit-learn_below"]) == (3, 1, 0)
    assert seed["original_over_ours"] == pytest.approx(6.5 / 6)
    assert seed["original_row_max"] == 2.0
    (nested,) = summarise_nested(errors).to_dict("records")
    assert (nested["rows_original_below"], nested["ours_over_direct"], nested["jointly_over_ours"]) == (1, 2.0, 0.5)


def test_times_are_given_as_median_and_percentiles():
    keys = {"rows": "r", "cores": 1, "clock": "CPU", "seed_bits": 2, "parent_bits": 4, "method": "ours"}
    times = pd.DataFrame([{**keys, "seconds_per_million_weights": value} for value in (5.0, 1.0, 2.0, 3.0, 4.0)])
    (line,) = summarise_times(times).to_dict("records")
    assert (line["p20"], line["p50"], line["p80"]) == pytest.approx((1.8, 3.0, 4.2))


def test_longest_rows_are_timed_of_the_shipped_model_and_of_all():
    short, long = np.ones((3, 4), dtype=np.float32), np.ones((2, 7), dtype=np.float32)
    parts = [Part("a", FISHER, short, np.ones((3, 4))), Part("b", FISHER, long, np.ones((2, 7)))]
    assert [(part.model, part.columns) for part in timed_rows(parts)] == [("a, 4 columns", 4), ("b, 7 columns", 7)]
    assert [part.model for part in timed_rows(parts[:1])] == ["a, 4 columns"]


def test_seed_is_never_above_the_others_and_direct_clustering_never_above_ours():
    errors = errors_of(generated_rows(6, 400))
    assert not summarise_seed(errors)[["rows_original_below", "rows_scikit-learn_below"]].to_numpy().any()
    nested = summarise_nested(errors)
    assert (nested["ours_over_direct"] >= 1 - 1e-9).all()
    assert (nested.loc[nested["bits"] == nested["seed_bits"], "ours_over_direct"] <= 1 + 1e-9).all()


def test_what_is_not_installed_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"scikit-learn is not installed.*bittaper\[bench\]"):
        optional("sklearn", "scikit-learn")


@pytest.mark.slow
def test_the_study_compares_real_rows_and_keeps_tables_and_figure(capsys, tmp_path, monkeypatch):
    # The shipped model only.
    monkeypatch.setenv("BITTAPER_SHARED", str(tmp_path / "none"))
    options = ["--rows", "56", "--repeats", "1", "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(["study", "kmeans-comparison", *options]) == 0
    assert "rows where another is better: 0 of 672" in capsys.readouterr().out
    with (tmp_path / "out" / "times.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} >= {"ours", "original", "scikit-learn"}
    provenance = json.loads((tmp_path / "out" / "manifest.json").read_text())["provenance"]
    assert provenance["flash1dkmeans"] and provenance["rows"] == "56"
    assert (tmp_path / "out" / "kmeans_comparison.png").is_file()


@pytest.mark.slow
def test_as_many_rows_are_compared_as_the_models_at_hand_have(tmp_path, monkeypatch):
    monkeypatch.setenv("BITTAPER_SHARED", str(tmp_path / "none"))
    found = sum(part.rows for part in real_rows() if part.weighting == UNWEIGHTED)
    assert 0 < found < DEFAULT_ROWS
    with pytest.raises(InputError, match=f"rows = {found + 1}: the models at hand give "):
        real_rows(found + 1)
