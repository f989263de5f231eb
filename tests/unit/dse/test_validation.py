"""The error shown in validation: what is shipped equals the kept results of the study."""

from __future__ import annotations

from statistics import median

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.validation import DATA_PATH, ErrorBasis, ErrorRange, Point, error_bases, judged_by, validation_errors
from studies.validation.shipped_error import RESULTS, shipped_errors


def test_the_shipped_file_equals_the_kept_results():
    assert shipped_errors() == validation_errors()
    assert DATA_PATH.read_text(encoding="utf-8") == shipped_errors().model_dump_json(indent=2) + "\n"


def test_an_npu_that_nothing_is_fitted_to_is_judged_by_every_error_with_nothing_fitted():
    for metric in ("decode_tokens_per_s", "tpot_s", "ttft_s", "e2e_s"):
        judging = judged_by("realistic", metric).bases
        assert judging == tuple(basis for basis in error_bases("realistic", metric) if not basis.fitted) != ()
    rows = pd.read_csv(RESULTS / "validation.csv").set_index("case")["error"]
    errors = judged_by("realistic", "decode_tokens_per_s")
    profiler, peak = errors.bases
    expected = [rows[f"NPU file as it is: rate, 128 + {tokens} tokens"] for tokens in (512, 1024, 1536)]
    assert [point.error for point in profiler.points] == pytest.approx(expected)
    assert (profiler.median, profiler.worst) == pytest.approx((expected[1], expected[2]))
    assert str(profiler).startswith("median 34.2%, worst 38.0%, all too fast (n = 3, FlightLLM's profiler, NPU file as")
    # Three comparisons with one device say less than 19 with others: the worst of all judges, and only one way.
    assert errors.n == 22 and (errors.smallest, errors.largest) == (0, peak.worst) != (0, profiler.worst)
    assert errors.brief() == "up to 73.7% too fast"
    assert str(errors) == f"up to 73.7% too fast (n = 19, {peak.title})"
    assert str(judged_by("realistic", "ttft_s")).startswith("19.9% too short (n = 1, FlightLLM's profiler")


def basis(*errors, metric="decode_tokens_per_s", fitted=False):
    points = tuple(Point(case="c", error=error) for error in errors)
    return ErrorBasis(mode="realistic", metrics=(metric,), title=f"{len(errors)} cases", fitted=fitted, points=points)


def test_where_everything_was_fitted_everything_judges():
    slow, fast, both = basis(-0.1, fitted=True), basis(0.2, fitted=True), basis(-0.5, 0.5, fitted=True)
    assert ErrorRange.judging([slow, fast]).bases == (slow, fast)
    assert ErrorRange.judging([both, basis(0.1)]).bases == (basis(0.1),)
    assert ErrorRange.judging([]) is None
    assert str(ErrorRange((slow, fast))) == "up to 20.0% too fast (n = 1, 1 cases) and 10.0% too slow (n = 1, 1 cases)"
    assert ErrorRange((basis(0.0),)).brief() == "nothing"


ERRORS = st.lists(st.floats(-0.9, 9), min_size=1, max_size=4)


@given(bases=st.lists(ERRORS, min_size=1, max_size=3), true=st.floats(1e-3, 1e3), at=st.floats(0, 1))
def test_the_true_value_lies_between_the_ends_for_every_error_up_to_those_seen(bases, true, at):
    found = ErrorRange(tuple(basis(*errors) for errors in bases))
    seen = [0.0, *(error for errors in bases for error in errors)]
    assert (found.smallest, found.largest) == (min(seen), max(seen))
    error = min(seen) + at * (max(seen) - min(seen))
    predicted = true * (1 + error)
    assert found.true_low(predicted) <= true * (1 + 1e-9)
    assert found.true_high(predicted) >= true * (1 - 1e-9)
    # The ends are reached: true values of the two largest errors.
    assert found.true_low(true * (1 + max(seen))) == pytest.approx(true)
    assert found.true_high(true * (1 + min(seen))) == pytest.approx(true)
    # 0 is among the errors: what is simulated may be true.
    assert found.true_low(predicted) <= predicted <= found.true_high(predicted)


@given(errors=ERRORS, rate=st.floats(1e-3, 1e3))
def test_a_rate_and_the_time_of_a_step_have_the_same_ends(errors, rate):
    both = basis(*errors).model_copy(update={"metrics": ("decode_tokens_per_s", "tpot_s")})
    rates, times = (ErrorRange((both.of(name),)) for name in both.metrics)
    assert 1 / rates.true_low(rate) == pytest.approx(times.true_high(1 / rate))
    assert 1 / rates.true_high(rate) == pytest.approx(times.true_low(1 / rate))


def test_an_error_that_would_make_a_prediction_negative_is_refused():
    with pytest.raises(ValueError, match="greater than -1"):
        basis(-1.0)


def test_speeds_from_the_peak_alone_are_the_rooflines_of_all_devices_that_bandwidth_bounds():
    devices = pd.read_csv(RESULTS / "devices.csv").query("`class` == 'bandwidth'").set_index("id")
    basis = next(one for one in error_bases("realistic", "decode_tokens_per_s") if "peak bandwidth alone" in one.title)
    expected = devices["roofline_tokens_per_s"] / devices["measured_tokens_per_s"] - 1
    assert {point.case.split(" from ")[0]: point.error for point in basis.points} == pytest.approx(expected.to_dict())
    assert basis.n == 19 and basis.direction == "fast"


def test_the_fitted_basis_is_the_validations_own_headline():
    basis = next(one for one in error_bases("realistic", "decode_tokens_per_s") if one.fitted)
    rows = pd.read_csv(RESULTS / "validation.csv").set_index("case")
    headline = rows.loc["median leave-one-out error, 6 speeds of devices with three or more"]
    assert basis.n == 6 and basis.direction is None
    assert basis.median == pytest.approx(headline["predicted"], rel=1e-6)
    assert basis.median == median(abs(point.error) for point in basis.points)
    assert basis.worst == max(abs(rows.loc[point.case, "error"]) for point in basis.points)
    assert str(basis).startswith("median 3.6%, worst 5.1% (n = 6, published speeds of devices")


def test_whole_responses_are_the_parts_that_were_compared_put_together():
    unfitted, held_out = error_bases("realistic", "e2e_s")
    assert (unfitted.direction, held_out.direction) == ("short", "long")
    assert (held_out.n, unfitted.n, held_out.fitted, unfitted.fitted) == (3, 3, True, False)
    published = pd.read_csv(RESULTS.parent / "data" / "flightllm_vhk158.csv").set_index(
        ["prompt_tokens", "decode_tokens"]
    )
    rows = pd.read_csv(RESULTS / "validation.csv").set_index("case")["predicted"]
    for point, decode in zip(held_out.points, (512, 1024, 1536), strict=True):
        ours_ms = rows["two constants, held out: prefill of 512 tokens"]
        ours_ms += decode / rows[f"two constants, held out: rate, 512 + {decode} tokens"] * 1e3
        theirs = published.loc[(512, decode)]
        assert point.case.endswith(f"response of 512 + {decode} tokens")
        assert point.error == pytest.approx(ours_ms / (theirs["prefill_ms"] + theirs["decode_ms"]) - 1, abs=1e-6)


def test_a_rate_that_is_too_high_is_a_time_that_is_too_short():
    rate, time = error_bases("realistic", "decode_tokens_per_s")[0], error_bases("realistic", "tpot_s")[0]
    assert [one.error for one in time.points] == pytest.approx([1 / (1 + one.error) - 1 for one in rate.points])
    assert (rate.direction, time.direction) == ("fast", "short")
    assert time.worst == pytest.approx(0.2751, abs=1e-4)


@pytest.mark.parametrize("metric", ["energy_j_per_token", "area_mm2"])
def test_what_was_compared_with_nothing_has_no_error(metric):
    assert judged_by("realistic", metric) is None


def test_errors_belong_to_the_mode_they_were_shown_in():
    assert judged_by("pmpd-analytic", "decode_tokens_per_s").n == 18
    assert judged_by("pmpd-analytic", "ttft_s") is None
    unfitted = [basis for basis in error_bases("realistic", "tpot_s") if not basis.fitted]
    assert [basis.n for basis in unfitted] == [3, 19]
