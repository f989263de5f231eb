"""Quality is taken from the files as measured, related to full precision, and never mixed up."""

from __future__ import annotations

import pytest

from dse.quality import load_quality
from dse.study import parse_study
from hwsim.trace import InputError, Interpolation, Schedule, write_quality

FULL, FOUR, THREE = Schedule.uniform(16), Schedule.uniform(4), Schedule.uniform(3)


@pytest.fixture
def load(tmp_path, study_fields):
    def load(records, models=("vicuna-7b",), between=None, **changes):
        path = tmp_path / "q.json"
        write_quality(path, records, between)
        fields = study_fields | {"quality": [str(path)]} | changes
        return load_quality(parse_study(fields, "s"), list(models))

    return load


def test_relative_quality_is_the_ratio_to_full_precision(load, make_quality):
    table = load([make_quality(FULL, value=40.0), make_quality(FOUR, value=38.0, ci_low=36.0, ci_high=39.0)])
    row = table.metrics["p4:4"]
    assert row["relative_quality"] == pytest.approx(0.95)
    assert (row["relative_quality_ci_low"], row["relative_quality_ci_high"]) == pytest.approx((0.9, 0.975))
    assert table.metrics["p16:16"]["relative_quality"] == 1.0


def test_of_a_metric_that_is_minimised_more_is_relatively_worse(load, make_quality):
    records = [
        make_quality(FULL, value=10.0, metric="perplexity", direction="minimize"),
        make_quality(FOUR, value=12.5, ci_low=12.0, ci_high=13.0, metric="perplexity", direction="minimize"),
    ]
    row = load(records).metrics["p4:4"]
    assert row["relative_quality"] == pytest.approx(0.8)
    assert row["relative_quality_ci_low"] == pytest.approx(10 / 13)


def test_quoted_numbers_have_no_interval_and_carry_their_label(load, make_quality):
    quoted = {"source": "quoted", "citation": "Table 1", "ci_low": None, "ci_high": None, "split": "test"}
    table = load([make_quality(FULL, **quoted), make_quality(FOUR, **quoted)])
    assert "quality_ci_low" not in table.metrics["p4:4"]
    assert table.labels["p4:4"]["quality_source"] == "quoted"
    assert table.labels["p4:4"]["quality_citation"] == "Table 1"
    with pytest.raises(InputError, match="quality_ci_low: the quality of schedule p16:16 has no interval"):
        table.require("quality_ci_low")


def test_without_full_precision_nothing_is_relative(load, make_quality):
    table = load([make_quality(FOUR)])
    with pytest.raises(InputError, match=r"relative_quality: .* hold no full-precision schedule p16:16"):
        table.require("relative_quality")
    table.require("quality")


PLANNED = {"scheduler": "learned", "scheduler_label": "learned", "schedule": None, "schedule_sha256": None}


def test_a_scheduler_without_a_schedule_is_left_out_and_counted(load, make_quality):
    learned = make_quality(FOUR).model_copy(update=PLANNED)
    with pytest.warns(UserWarning, match=r"q.json: 1 of 3 records are left out: learned plans by prompt"):
        table = load([make_quality(FULL), learned, make_quality(FOUR)])
    assert list(table.schedules) == ["p16:16", "p4:4"]


def test_a_file_without_any_schedule_is_refused(load, make_quality):
    learned = make_quality(FOUR).model_copy(update=PLANNED)
    with pytest.raises(InputError, match=r"q.json: schedule = null in all 1 records \(learned\)"):
        load([learned])


def test_greedy_and_sampled_responses_are_not_one_table(load, make_quality):
    with pytest.raises(InputError, match="decoding differs"):
        load([make_quality(FULL), make_quality(FOUR, decoding="temperature 0.7")])


def test_split_segments_of_equal_width_are_one_schedule(load, make_quality):
    split = Schedule.model_validate(
        {"prefill_weight_bits": 4, "decode": [{"start_step": 0, "weight_bits": 4}, {"start_step": 9, "weight_bits": 4}]}
    )
    assert list(load([make_quality(split)]).schedules) == ["p4:4"]


def test_another_models_file_is_refused(load, make_quality):
    with pytest.raises(InputError, match=r"q\.json: model_name = 'phi-1\.5': the study runs 'vicuna-7b'; give a"):
        load([make_quality(FOUR, model_name="phi-1.5")])


def test_another_models_file_may_be_paired_and_is_labelled(load, make_quality, study_fields):
    workload = study_fields["workloads"][0] | {"allow_model_mismatch": True}
    table = load([make_quality(FOUR, model_name="phi-1.5")], workloads=[workload])
    assert table.labels["p4:4"]["quality_model"] == "phi-1.5"


def test_measured_test_prompts_are_refused(load, make_quality):
    with pytest.raises(InputError, match="split = 'test' for schedule p4:4: exploring must not see test prompts"):
        load([make_quality(FOUR, split="test")])


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("metric", ("rouge_l", "bleu"), "several metrics of 'vicuna-7b': bleu, rouge_l; choose one by quality_metric"),
        ("task", ("a", "b"), "several tasks of 'vicuna-7b': a, b; choose one by task on the workload"),
        ("split", ("calib", "val"), "split differs for 'vicuna-7b': calib, val"),
        ("store_sha256", ("x", "y"), "store_sha256 differs for 'vicuna-7b': x, y"),
    ],
)
def test_ambiguous_files_are_refused(load, make_quality, field, values, message):
    with pytest.raises(InputError, match=message):
        load([make_quality(FOUR, **{field: values[0]}), make_quality(THREE, **{field: values[1]})])


def test_full_precision_of_other_prompts_is_refused(load, make_quality):
    with pytest.raises(InputError, match="split differs for 'vicuna-7b': calib, val"):
        load([make_quality(FULL, split="calib"), make_quality(FOUR)])


def test_full_precision_needs_no_store(load, make_quality):
    records = [make_quality(FULL, store_sha256=None, quantizer="none"), make_quality(FOUR, store_sha256="s")]
    load(records).require("relative_quality")


def test_a_named_metric_and_task_choose(load, make_quality, study_fields):
    records = [
        make_quality(FOUR, metric=metric, task=task, value=value)
        for metric, task, value in (("bleu", "a", 1.0), ("bleu", "b", 2.0), ("rouge_l", "a", 3.0))
    ]
    workload = study_fields["workloads"][0] | {"task": "b"}
    table = load(records, quality_metric="bleu", workloads=[workload])
    assert table.metrics["p4:4"]["quality"] == 2.0
    with pytest.raises(
        InputError, match=r"unknown metric in the quality files of 'vicuna-7b' 'belu'; did you mean 'bleu'"
    ):
        load(records, quality_metric="belu", workloads=[workload])


def test_a_schedule_measured_twice_is_refused(load, make_quality):
    with pytest.raises(InputError, match="schedule p4:4 of 'vicuna-7b' was measured twice"):
        load([make_quality(FOUR, value=1.0), make_quality(FOUR, value=2.0)])


def test_two_workloads_are_weighted_over_the_schedules_both_measured(load, make_quality, study_fields):
    base = study_fields["workloads"][0]
    workloads = [base | {"task": "a", "weight": 3}, base | {"task": "b", "weight": 1}]
    records = [
        make_quality(FULL, task="a", value=40.0),
        make_quality(FULL, task="b", value=20.0),
        make_quality(FOUR, task="a", value=40.0),
        make_quality(FOUR, task="b", value=10.0),
        make_quality(THREE, task="a", value=39.0),
    ]
    models = ("vicuna-7b", "vicuna-7b")
    table = load(records, models, workloads=workloads)
    assert set(table.schedules) == {"p16:16", "p4:4"}
    assert table.metrics["p4:4"]["relative_quality"] == pytest.approx((3 * 1.0 + 0.5) / 4)
    worst = load(records, models, workloads=workloads, aggregate="worst")
    assert worst.metrics["p4:4"]["relative_quality"] == 0.5
    with pytest.raises(InputError, match="no schedule was measured for every workload"):
        load([records[2], make_quality(THREE, task="b")], models, workloads=workloads)


def test_qualities_of_different_metrics_combine_only_relatively(load, make_quality, study_fields):
    base = study_fields["workloads"][0]
    changes = ({"task": "a", "metric": "rouge_l"}, {"task": "b", "metric": "bleu"})
    records = [make_quality(schedule, **change) for schedule in (FULL, FOUR) for change in changes]
    table = load(records, ("vicuna-7b",) * 2, workloads=[base | {"task": "a"}, base | {"task": "b"}])
    table.require("relative_quality")
    with pytest.raises(InputError, match="quality: the workloads' qualities are of different metrics"):
        table.require("quality")


GRID = [
    FULL,
    *(Schedule.uniform(bits, prefill_weight_bits=4) for bits in (4, 3, 2)),
    *(Schedule.from_pairs(4, [(0, a), (step, b)]) for a, b in ((4, 3), (4, 2), (3, 2)) for step in (15, 30, 45)),
]
SPACE = {"prefill_weight_bits": 4, "decode_weight_bits": [4, 3], "switch_steps": [15, 20, 50]}
LINEAR = Interpolation(method="linear-in-bits")
BETWEEN = {"between": LINEAR, "schedule_space": SPACE}


def linear(make_quality, schedule):
    value = 30 + schedule.mean_bits(60)
    return make_quality(schedule, value=value, ci_low=value - 1, ci_high=value + 1)


def test_between_measured_schedules_a_row_is_interpolated_and_says_so(load, make_quality):
    table = load([linear(make_quality, schedule) for schedule in GRID], **BETWEEN)
    assert set(table.schedules) == {"p4:4", "p4:3", "p4:4>3@15", "p4:4>3@20", "p4:4>3@50"}
    row, labels = table.metrics["p4:4>3@20"], table.labels["p4:4>3@20"]
    full = 30 + 16
    assert row["quality"] == pytest.approx(33 + 1 / 3)
    assert row["relative_quality"] == pytest.approx((33 + 1 / 3) / full)
    assert row["relative_quality_ci_low"] == pytest.approx((32 + 1 / 3) / full)
    assert (labels["quality_interpolated"], labels["quality_interpolation_n"]) == (True, 9)
    assert labels["quality_interpolation_error"] == pytest.approx(0, abs=1e-9)
    assert (labels["quality_source"], labels["quality_n"]) == ("measured", 100)
    assert table.labels["p4:4"]["quality_interpolated"] is False


def test_the_error_of_interpolation_widens_the_interval(load, make_quality):
    bent = [linear(make_quality, one) for one in GRID if one.label() != "p4:4>2@30"]
    bent.append(make_quality(Schedule.from_pairs(4, [(0, 4), (30, 2)]), value=30.0))
    row = load(bent, **BETWEEN).metrics["p4:4>3@20"]
    # 4>2@30 has 3 bits and should score 33: the 3 points missed are what any interpolated score may miss.
    assert row["quality"] - row["quality_ci_low"] == pytest.approx(1 + 3)
    assert row["quality_ci_high"] - row["quality"] == pytest.approx(1 + 3)


def test_where_the_file_says_no_method_what_nobody_measured_is_left_out_with_the_reason(load, make_quality):
    records = [linear(make_quality, schedule) for schedule in GRID]
    reason = "no quality, and q.json does not say how to interpolate"
    assert load(records, schedule_space=SPACE).missing == {"p4:4>3@20": reason, "p4:4>3@50": reason}


def test_a_study_may_do_without_what_a_file_lets_it_interpolate(load, make_quality):
    records = [linear(make_quality, schedule) for schedule in GRID]
    assert load(records, **BETWEEN, interpolation="none").missing == {
        "p4:4>3@20": "no quality",
        "p4:4>3@50": "no quality",
    }


def test_a_study_may_require_interpolation_of_files_that_say_how_only(load, make_quality):
    records = [linear(make_quality, schedule) for schedule in GRID]
    required = {"interpolation": {"method": "linear-in-bits"}, "schedule_space": SPACE}
    assert load(records, between=LINEAR, **required).missing == {}
    with pytest.raises(
        InputError, match=r"q\.json: does not say how to interpolate, and the study requires linear-in"
    ) as e:
        load(records, **required)
    assert "\n" not in str(e.value)


def test_numbers_of_a_file_that_says_no_method_are_not_mixed_into_interpolated_ones(
    tmp_path, make_quality, study_fields
):
    records = [linear(make_quality, schedule) for schedule in GRID]
    write_quality(tmp_path / "says.json", records[:6], LINEAR)
    write_quality(tmp_path / "silent.json", records[6:])
    paths = [str(tmp_path / "says.json"), str(tmp_path / "silent.json")]
    table = load_quality(parse_study(study_fields | {"quality": paths, "schedule_space": SPACE}, "s"), ["vicuna-7b"])
    assert table.missing["p4:4>3@20"] == "no quality, and silent.json does not say how to interpolate"


def test_where_one_workload_lacks_a_schedule_its_own_file_decides(tmp_path, make_quality, study_fields):
    """Measured for one task by a file that says nothing, interpolated for the other by a file that says how."""
    whole = [*GRID, Schedule.from_pairs(4, [(0, 4), (20, 3)])]
    write_quality(tmp_path / "a.json", [linear(make_quality, one).model_copy(update={"task": "a"}) for one in whole])
    write_quality(
        tmp_path / "b.json", [linear(make_quality, one).model_copy(update={"task": "b"}) for one in GRID], LINEAR
    )
    base = study_fields["workloads"][0]
    changes = {
        "quality": [str(tmp_path / "a.json"), str(tmp_path / "b.json")],
        "workloads": [base | {"task": "a"}, base | {"task": "b"}],
        "schedule_space": SPACE,
    }
    table = load_quality(parse_study(study_fields | changes, "s"), ["vicuna-7b"] * 2)
    assert table.labels["p4:4>3@20"]["quality_interpolated"] is True
    assert table.missing == {"p4:4>3@50": "no quality, and a.json does not say how to interpolate"}


def test_what_is_beyond_the_measured_schedules_is_left_out_with_the_reason(load, make_quality):
    beyond = SPACE | {"decode_weight_bits": [4, 3, 1]}
    table = load([linear(make_quality, schedule) for schedule in GRID], **(BETWEEN | {"schedule_space": beyond}))
    assert table.missing["p4:4>1@15"] == (
        "no quality, and it cannot be interpolated: it does not lie between measured schedules of its prefill and "
        "decode widths"
    )


def test_a_listed_schedule_must_have_a_quality(load, make_quality):
    records = [linear(make_quality, schedule) for schedule in GRID]
    with pytest.raises(InputError, match=r"schedules: no quality file measured p4:3>2@40; measure it or leave it out"):
        load(records, schedules=["p4:3>2@40"], interpolation="none")
    assert "p4:3>2@40" in load(records, schedules=["p4:3>2@40"], between=LINEAR).metrics
    with pytest.raises(InputError, match=r"no quality file measured p8:4>3@20, and it cannot be interpolated: it does"):
        load(records, schedules=["p8:4>3@20"], between=LINEAR)


def test_a_space_without_any_measured_schedule_is_refused(load, make_quality):
    space = {"prefill_weight_bits": 8, "decode_weight_bits": 8}
    with pytest.raises(
        InputError,
        match=r"schedule_space: none of its 1 schedules has a quality \(p8:8, and q.json .*\); the files measured p16",
    ):
        load([make_quality(FULL), make_quality(FOUR)], schedule_space=space)


def test_relative_quality_may_relate_to_the_widest_uniform_schedule(load, make_quality):
    records = [make_quality(FOUR, value=40.0), make_quality(THREE, value=30.0)]
    table = load(records, quality_reference="high-precision")
    assert table.metrics["p3:3"]["relative_quality"] == pytest.approx(0.75)
    assert table.labels["p3:3"]["quality_reference"] == "p4:4"


def test_the_content_of_the_records_is_hashed_and_their_place_is_not(load, make_quality):
    def sha(*records):
        return load(list(records)).sha256

    one, two = make_quality(FULL), make_quality(FOUR)
    assert sha(one, two) == sha(one, two.model_copy(update={"per_prompt_path": "elsewhere"}))
    assert sha(one, two) != sha(one, two.model_copy(update={"value": 1.0}))
    # A file that lets numbers be found between its own is another basis, though its records are the same.
    assert sha(one, two) != load([one, two], between=LINEAR).sha256
