"""One-line questions: the best design with its margins, or the limit that binds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dse
from dse.answer import Margin
from dse.question import ALIASES, find_binding
from dse.study import Constraint
from dse.validation import ErrorBasis, Point, error_bases, validation_errors
from hwsim.trace import InputError, Interpolation, read_quality, write_quality

KEPT: dict[str, dse.Exploration] = {}
"""Explored once for all tests that only ask."""


@pytest.fixture
def found(study_fields, tmp_path, npu):
    if not KEPT:
        study = dse.parse_study(study_fields | {"budget": 500}, "study.yaml")
        KEPT["found"] = dse.explore(study, tmp_path / "out", evaluate=npu, progress=False)
    return KEPT["found"]


def limits(*items):
    return [Constraint(name=name, op=op, bound=bound) for name, op, bound in items]


def words(text):
    """A text on one line."""
    return " ".join(str(text).split())


def test_the_answer_is_the_brute_force_optimum(found):
    answer = dse.ask(found, {"min_tokens_per_s": 60, "min_quality": 0.85}, minimise="bandwidth")
    kept = found.trials.query("decode_tokens_per_s >= 60 and relative_quality >= 0.85")
    assert answer.design["bandwidth_bytes_per_s"] == kept["bandwidth_bytes_per_s"].min() == 32e9
    # Of the designs with this bandwidth, the fastest: the study's first objective decides.
    assert (
        answer.design["decode_tokens_per_s"] == kept.query("bandwidth_bytes_per_s == 32e9")["decode_tokens_per_s"].max()
    )
    assert {str(margin.constraint): margin.amount for margin in answer.margins} == {
        "decode_tokens_per_s >= 60": answer.design["decode_tokens_per_s"] - 60,
        "relative_quality >= 0.85": pytest.approx(answer.design["relative_quality"] - 0.85),
    }


def test_options_with_dashes_and_constraints_ask_the_same(found):
    by_option = dse.ask(found, {"min-tokens-per-s": 60.0}, minimise="bandwidth")
    by_constraint = dse.ask(found, limits(("decode_tokens_per_s", ">=", 60)), minimise="bandwidth_bytes_per_s")
    assert by_option == by_constraint


def test_a_folder_answers_like_the_exploration(found, tmp_path, npu):
    dse.explore(found.study, tmp_path / "out", evaluate=npu, progress=False)
    assert dse.ask(tmp_path / "out", maximise="tokens_per_s") == dse.ask(found, maximise="decode_tokens_per_s")


def test_the_studys_limits_stay_in_force_unless_asked_otherwise(found):
    def limited_by(*question):
        return [str(margin.constraint) for margin in dse.ask(found, *question, minimise="bits").margins]

    assert limited_by() == ["relative_quality >= 0.8"]
    assert limited_by({"min_quality": 0.9}) == ["relative_quality >= 0.9"]


def test_every_validated_quantity_can_be_asked_for_by_a_short_name():
    validated = {metric for basis in validation_errors().bases for metric in basis.metrics}
    assert validated <= set(ALIASES.values())


def test_a_parameter_can_be_minimised(found):
    assert dse.ask(found, minimise="matrix.macs").design["matrix.macs"] == 4096


def test_the_answer_names_design_and_margin(found):
    answer = dse.ask(found, {"min_tokens_per_s": 60, "max_area": 9}, minimise="bandwidth")
    lines = str(answer).splitlines()
    number, parameters = answer.design["number"], answer.design["parameters"]
    assert words(lines[0] + lines[1]).startswith(f"bandwidth_bytes_per_s = 32 GB/s: trial {number}, schedule p4:")
    assert f"matrix.macs = {parameters['matrix.macs']}" in lines[0] + lines[1]
    assert "memory.bandwidth_bytes_per_s = 32 GB/s" in lines[0] + lines[1]
    titles = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert titles == ["keeps", "quality", "simulator", "certainty"]
    (kept,) = (line for line in lines if line.startswith("  keeps"))
    assert kept.startswith(f"  keeps      {answer.margins[0].constraint} by {answer.margins[0].amount:.4g} (")
    assert max(map(len, lines)) <= 100


def test_a_limit_beyond_every_design_binds_alone(found):
    answer = dse.ask(found, {"min_tokens_per_s": 1000}, minimise="bandwidth")
    assert answer.design is None
    assert answer.binding.alone and answer.binding.best == found.trials["decode_tokens_per_s"].max()
    assert words(answer).startswith(
        "no design of 84 keeps all limits decode_tokens_per_s >= 1000 binds: the best of any design is "
    )
    assert "not simulated" not in str(answer)
    sampled = replace(found, exhausted=False, certificate=None)
    assert str(dse.ask(sampled, {"min_tokens_per_s": 1000}, minimise="bandwidth")).endswith(
        "\n  designs that were not simulated may keep them"
    )


def test_limits_that_exclude_each_other_name_the_nearest_miss():
    trials = pd.DataFrame({"number": [0, 1, 2], "area_mm2": [10.0, 20.0, 40.0], "ttft_s": [0.9, 0.5, 0.1]})
    binding = find_binding(trials, limits(("area_mm2", "<=", 19), ("ttft_s", "<=", 0.5)))
    # Trial 1 misses the area by 1 of 19; keeping the area, trial 0 misses the latency by 0.4 of 0.5.
    assert (binding.constraint.name, binding.best, binding.number, binding.alone) == ("area_mm2", 20.0, 1, False)


def test_of_three_limits_of_which_no_two_hold_the_least_wrong_design_decides():
    names = ("area_mm2", "ttft_s", "tpot_s")
    rows = [{"number": i, **{name: 1.0 if i == j else 3.0 + i for j, name in enumerate(names)}} for i in range(3)]
    binding = find_binding(pd.DataFrame(rows), limits(*((name, "<=", 2) for name in names)))
    assert binding.number == 0 and binding.best == 3.0


def test_nothing_binds_where_a_design_keeps_all_limits(found):
    assert find_binding(found.trials, limits(("area_mm2", "<=", 100))) is None


@pytest.mark.parametrize(
    ("constraints", "options", "message"),
    [
        ({"min_tokens": 3}, {"minimise": "area"}, r"unknown quantity 'tokens'; did you mean 'tokens_per_s'"),
        ({"tokens_per_s": 3}, {"minimise": "area"}, "limit 'tokens_per_s': must be min_NAME or max_NAME"),
        ({}, {"minimise": "aera"}, r"unknown quantity 'aera'; did you mean 'area'"),
        ({}, {}, "give exactly one of minimise and maximise"),
        ({}, {"minimise": "area", "maximise": "quality"}, "give exactly one of minimise and maximise"),
        ({}, {"minimise": "e2e_s"}, "the study did not evaluate 'e2e_s'"),
    ],
)
def test_a_bad_question_is_one_clear_line(found, constraints, options, message):
    with pytest.raises(InputError, match=message):
        dse.ask(found, constraints, **options)


def test_asking_before_running_says_so(tmp_path):
    with pytest.raises(InputError, match="no such file; run the study first"):
        dse.ask(tmp_path, minimise="area")


def rated(*errors, metric="decode_tokens_per_s", title="t", fitted=False):
    """A basis of one metric."""
    points = tuple(Point(case="c", error=error) for error in errors)
    return ErrorBasis(mode="realistic", metrics=(metric,), title=title, fitted=fitted, points=points)


def doubt(metric, op, bound, value, *bases):
    return Margin(limits((metric, op, bound))[0], value, bases, None).doubt


@pytest.mark.parametrize(
    ("metric", "op", "value", "errors", "true"),
    [
        # A rate seen 25% too high: what is simulated as 25 may be 20.
        ("decode_tokens_per_s", ">=", 25, [0.25], None),
        ("decode_tokens_per_s", ">=", 24, [0.25], "19.2 if it is 25.0% too fast"),
        # Too fast never breaks an upper limit, nor too slow a lower one.
        ("decode_tokens_per_s", "<=", 20, [0.25], None),
        ("decode_tokens_per_s", ">=", 20, [-0.2], None),
        ("decode_tokens_per_s", "<=", 16, [-0.2], None),
        ("decode_tokens_per_s", "<=", 17, [-0.2], "21.25 if it is 20.0% too slow"),
        # A time seen 20% too short: what is simulated as 16 may be 20.
        ("ttft_s", "<=", 16, [-0.2], None),
        ("ttft_s", "<=", 17, [-0.2], "21.25 if it is 20.0% too short"),
        ("ttft_s", ">=", 20, [-0.2], None),
        ("ttft_s", "<=", 20, [0.25], None),
        ("ttft_s", ">=", 25, [0.25], None),
        ("ttft_s", ">=", 24, [0.25], "19.2 if it is 25.0% too long"),
        # Seen both ways: each limit is asked about its own.
        ("decode_tokens_per_s", ">=", 24, [-0.9, 0.1, 0.25], "19.2 if it is 25.0% too fast"),
        ("decode_tokens_per_s", ">=", 25, [-0.9, 0.1, 0.25], None),
        ("decode_tokens_per_s", "<=", 17, [-0.2, 9.0], "21.25 if it is 20.0% too slow"),
        ("decode_tokens_per_s", "<=", 16, [-0.2, 9.0], None),
    ],
)
def test_a_limit_is_in_doubt_where_an_error_in_the_direction_that_breaks_it_reaches_that_far(
    metric, op, value, errors, true
):
    found = doubt(metric, op, 20, value, rated(*errors, metric=metric))
    assert found == (true and f"in truth {true} (n = {len(errors)}, t)")


def test_equality_is_no_doubt_where_no_error_is_known():
    assert doubt("decode_tokens_per_s", ">=", 20, 20) is None
    assert doubt("decode_tokens_per_s", ">=", 20, 20, rated(0.0)) is None


def test_the_worst_basis_with_nothing_fitted_judges_and_a_fitted_one_only_alone():
    thin, wide, fitted = rated(0.2, title="thin"), rated(0.1, 0.5, title="wide"), rated(3.0, title="own", fitted=True)
    question = ("decode_tokens_per_s", ">=", 20)
    assert doubt(*question, 23, thin) == "in truth 19.17 if it is 20.0% too fast (n = 1, thin)"
    assert doubt(*question, 27, thin, wide, fitted) == "in truth 18 if it is 50.0% too fast (n = 2, wide)"
    assert doubt(*question, 31, thin, wide, fitted) is None
    assert doubt(*question, 31, fitted) == "in truth 7.75 if it is 300.0% too fast (n = 1, own)"


@given(
    errors=st.lists(st.floats(-0.9, 4), min_size=1, max_size=4),
    value=st.floats(1, 100),
    limit=st.floats(1, 100),
    op=st.sampled_from([">=", "<="]),
    metric=st.sampled_from(["decode_tokens_per_s", "tpot_s"]),
)
def test_a_limit_is_in_doubt_exactly_where_a_true_value_within_the_errors_breaks_it(errors, value, limit, op, metric):
    kept = value >= limit if op == ">=" else value <= limit
    if kept:
        true = [value / (1 + error) for error in (0.0, *errors)]
        broken = any(one < limit if op == ">=" else one > limit for one in true)
        assert (doubt(metric, op, limit, value, rated(*errors, metric=metric)) is not None) == broken


@pytest.mark.parametrize(
    ("op", "interval", "doubted"),
    [(">=", (0.97, 1.0), True), (">=", (0.98, 1.0), False), ("<=", (0.9, 0.99), True), ("<=", (0.9, 0.98), False)],
)
def test_a_limit_within_the_interval_of_a_quality_says_so(op, interval, doubted):
    margin = Margin(limits(("relative_quality", op, 0.98))[0], 0.98, (), interval)
    assert (margin.doubt is not None) == doubted


def test_an_answer_names_the_errors_shown_and_what_was_never_compared(found):
    answer = dse.ask(found, {"min_tokens_per_s": 60, "max_area": 9}, minimise="bandwidth")
    speed = error_bases("realistic", "decode_tokens_per_s")
    assert answer.errors == {"decode_tokens_per_s": speed, "area_mm2": ()}
    text = words(answer)
    fitted = next(basis for basis in speed if basis.fitted)
    for basis in (*(basis for basis in speed if not basis.fitted), fitted):
        assert f"decode_tokens_per_s was off by {basis}" in text
    assert text.count(" was off by ") == 3 and "area_mm2 not validated" in text
    margin = next(one for one in answer.margins if one.constraint.name == "decode_tokens_per_s")
    assert margin.share == pytest.approx(answer.design["decode_tokens_per_s"] / 60 - 1)
    quality = answer.design["relative_quality_ci_low"], answer.design["relative_quality_ci_high"]
    assert answer.margins[-1].interval == quality
    assert "quality measured, rouge_l of vicuna-7b, n = 100" in text and answer.quality in text


def test_an_answer_is_exact_where_everything_was_simulated_unless_a_left_out_schedule_could_be_better(found):
    assert dse.ask(found, {"min_quality": 0.9}, minimise="bandwidth").exact
    loose = dse.ask(found, {"min_quality": 0.5}, minimise="bandwidth")
    assert found.excluded_schedules and not loose.exact
    assert "not proved best" in words(loose)


@pytest.mark.parametrize(
    ("question", "target", "exact"),
    [
        ({"min_tokens_per_s": 60}, {"minimise": "bandwidth"}, True),
        ({"min_quality": 0.9}, {"maximise": "tokens_per_s"}, True),
        # A dominated design may have a smaller area, or less of an objective than any kept one.
        ({"max_area": 9}, {"minimise": "bandwidth"}, False),
        ({}, {"minimise": "area"}, False),
        ({}, {"minimise": "tokens_per_s"}, False),
        ({"max_tokens_per_s": 60}, {"minimise": "bandwidth"}, False),
        ({"min_quality": 0.7}, {"minimise": "bandwidth"}, False),
    ],
)
def test_an_exact_front_answers_exactly_only_what_it_is_a_front_of(found, question, target, exact):
    pruned = replace(found, exhausted=False, certificate={"complete": True, "pruned": {}})
    answer = dse.ask(pruned, question, **target)
    assert answer.exact == exact
    hint = "not proved best: objectives and limits of the study must be those of the question"
    assert words(answer).endswith(hint) != exact


@pytest.mark.parametrize(("bound", "exact"), [(0.95, True), (0.96, False), (0.94, False)])
def test_a_limit_asked_in_another_unit_than_the_studys_is_the_same_limit(found, bound, exact):
    own = Constraint(name="relative_quality", op=">=", bound=95, unit="%")
    objectives = tuple(one for one in found.study.objectives if one.name != "relative_quality")
    study = found.study.model_copy(update={"constraints": (own,), "objectives": objectives})
    pruned = replace(found, study=study, exhausted=False, certificate={"complete": True, "pruned": {}})
    target, direction = objectives[0].name, objectives[0].direction
    assert dse.question.is_exact(pruned, target, direction, limits(("relative_quality", ">=", bound))) == exact


def test_the_best_of_a_sample_is_not_called_exact(study_fields, tmp_path, npu):
    study = dse.parse_study(study_fields | {"sampler": "random"}, "study.yaml")
    found = dse.explore(study, tmp_path / "sample", evaluate=npu, progress=False)
    answer = dse.ask(found, minimise="bandwidth")
    assert not answer.exact
    assert str(answer).endswith("\n  certainty  best of 30 designs simulated of a space of 84, not proved best")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    speed=st.floats(1, 300),
    quality=st.floats(0.5, 1.0),
    area=st.floats(4, 17),
    target=st.sampled_from(["bandwidth_bytes_per_s", "area_mm2", "mean_decode_bits", "matrix.macs"]),
)
def test_no_recorded_design_within_the_limits_is_better_than_the_answer(found, speed, quality, area, target):
    answer = dse.ask(found, {"min_tokens_per_s": speed, "min_quality": quality, "max_area": area}, minimise=target)
    trials = found.trials
    kept = trials[
        (trials["decode_tokens_per_s"] >= speed)
        & (trials["relative_quality"] >= quality)
        & (trials["area_mm2"] <= area)
    ]
    assert (answer.design is None) == kept.empty
    if answer.design is not None:
        assert answer.design[target] == kept[target].min()
        assert answer.design["number"] in kept["number"].to_numpy()
        assert all(margin.amount >= 0 and margin.share >= 0 for margin in answer.margins)


def test_an_interpolated_quality_answers_with_its_label_and_its_wider_interval(study_fields, tmp_path, npu):
    between = {"prefill_weight_bits": [4], "decode_weight_bits": [2, 3, 4], "max_switches": 1, "switch_steps": [30]}
    path = Path(study_fields["quality"][0])
    write_quality(path, read_quality(path), Interpolation(method="linear-in-bits"))
    fields = study_fields | {"schedule_space": between, "budget": 500}
    found = dse.explore(dse.parse_study(fields, "study.yaml"), tmp_path / "out", evaluate=npu, progress=False)
    interpolated = found.trials[found.trials["quality_interpolated"]]
    answer = dse.ask(replace(found, trials=interpolated), {"min_quality": 0.85}, minimise="bits")
    assert "quality interpolated, rouge_l of vicuna-7b, n = 100, interpolation off by up to " in words(answer)
    low, high = answer.margins[0].interval
    # Measured rows have 2 points of the score between their ends; what lies between them has more.
    assert high - low > 2 / 39.5 and low <= answer.design["relative_quality"] <= high


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "quality measured, bleu of m, n = 7, relative_quality 0.9..1.1"),
        ({"quality_interpolated": True}, "quality interpolated, bleu of m, n = 7, relative_quality 0.9..1.1"),
        (
            {"quality_source": "quoted", "relative_quality_ci_low": float("nan")},
            "quality quoted, bleu of m, n = 7, no interval",
        ),
        ({"quality_source": None}, None),
    ],
)
def test_a_design_says_where_its_quality_comes_from(found, changes, text):
    row = {
        "quality_source": "measured",
        "quality_metric": "bleu",
        "quality_model": "m",
        "quality_n": 7,
        "relative_quality": 1.0,
        "relative_quality_ci_low": 0.9,
        "relative_quality_ci_high": 1.1,
    }
    answer = replace(dse.ask(found, minimise="bandwidth"), design=row | changes)
    assert answer.quality == text
