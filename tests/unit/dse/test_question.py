"""One-line questions: the best design with its margins, or the limit that binds."""

from __future__ import annotations

import pandas as pd
import pytest

import dse
from dse.question import find_binding
from dse.study import Constraint
from hwsim.trace import InputError


@pytest.fixture
def found(study_fields, tmp_path, npu):
    study = dse.parse_study(study_fields | {"budget": 500}, "study.yaml")
    return dse.explore(study, tmp_path / "out", evaluate=npu, progress=False)


def limits(*items):
    return [Constraint(name=name, op=op, bound=bound) for name, op, bound in items]


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


def test_a_folder_answers_like_the_exploration(found, tmp_path):
    assert dse.ask(tmp_path / "out", maximise="tokens_per_s") == dse.ask(found, maximise="decode_tokens_per_s")


def test_the_studys_limits_stay_in_force_unless_asked_otherwise(found):
    def limited_by(*question):
        return [str(margin.constraint) for margin in dse.ask(found, *question, minimise="bits").margins]

    assert limited_by() == ["relative_quality >= 0.8"]
    assert limited_by({"min_quality": 0.9}) == ["relative_quality >= 0.9"]


def test_a_parameter_can_be_minimised(found):
    assert dse.ask(found, minimise="matrix.macs").design["matrix.macs"] == 4096


def test_the_answer_names_design_and_margin(found):
    text = str(dse.ask(found, {"min_tokens_per_s": 60}, minimise="bandwidth"))
    assert "schedule p4:" in text and "matrix.macs = " in text and "keeps decode_tokens_per_s >= 60 by " in text
    assert "\n" not in text


def test_a_limit_beyond_every_design_binds_alone(found):
    answer = dse.ask(found, {"min_tokens_per_s": 1000}, minimise="bandwidth")
    assert answer.design is None
    assert answer.binding.alone and answer.binding.best == found.trials["decode_tokens_per_s"].max()
    assert str(answer).startswith(
        "no design of 84 keeps all limits: decode_tokens_per_s >= 1000 binds: the best of any"
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
