import json

import pytest
from pydantic import ValidationError

from hwsim.trace import (
    InputError,
    Interpolation,
    Quality,
    Schedule,
    read_quality,
    read_quality_table,
    write_quality,
)


def record(**changes):
    schedule = changes.pop("schedule", Schedule.uniform(4))
    fields = {
        "model_name": "m",
        "model_sha256": "ab",
        "store_sha256": "cd",
        "quantizer": "nested-kmeans",
        "task": "t",
        "task_version": "1",
        "split": "val",
        "metric": "rouge_l",
        "direction": "maximize",
        "reference": "gold",
        "schedule": schedule,
        "schedule_sha256": schedule.sha256(),
        "mean_decode_bits": 4.0,
        "value": 50.0,
        "ci_low": 48.0,
        "ci_high": 52.0,
        "n": 100,
        "seed": 0,
        "source": "measured",
    }
    return Quality.model_validate({**fields, **changes})


def test_a_quality_file_reads_back_equal(tmp_path):
    records = (record(), record(schedule=Schedule.uniform(3), mean_decode_bits=3.0, value=40.0, ci_low=38.0))
    write_quality(tmp_path / "quality.json", records)
    assert read_quality(tmp_path / "quality.json") == records


def test_a_file_says_how_numbers_between_its_own_may_be_found(tmp_path):
    path = tmp_path / "quality.json"
    write_quality(path, [record()], Interpolation(method="linear-in-bits"))
    assert json.loads(path.read_text())["interpolation"] == {"method": "linear-in-bits"}
    assert read_quality_table(path).interpolation == Interpolation(method="linear-in-bits")
    path.write_text(path.read_text().replace("linear-in-bits", "spline"))
    with pytest.raises(InputError, match=r"interpolation\.method = 'spline': must be 'linear-in-bits'"):
        read_quality_table(path)


def test_a_file_of_version_1_0_knows_no_interpolation(tmp_path):
    path = tmp_path / "quality.json"
    value = {"schema_version": "1.0", "records": [record().model_dump(mode="json")]}
    path.write_text(json.dumps(value))
    assert read_quality_table(path).interpolation is None
    path.write_text(json.dumps(value | {"interpolation": {"method": "linear-in-bits"}}))
    with pytest.raises(InputError, match=r"schema_version = '1\.0': must be '1\.1'"):
        read_quality_table(path)


LEARNED = {"scheduler": "learned", "scheduler_label": "learned", "scheduler_sha256": "ef"}


def test_a_scheduler_that_plans_by_prompt_has_no_schedule(tmp_path):
    learned = record(**LEARNED).model_copy(update={"schedule": None, "schedule_sha256": None})
    write_quality(tmp_path / "quality.json", [learned])
    (found,) = read_quality(tmp_path / "quality.json")
    assert found == learned
    assert (found.scheduler, found.schedule, found.decoding) == ("learned", None, "greedy")


def test_a_file_of_version_1_0_is_read_as_the_static_scheduler_s(tmp_path):
    now = record().model_dump(mode="json")
    new_fields = {"scheduler", "scheduler_label", "scheduler_sha256", "decoding"}
    old = {key: value for key, value in now.items() if key not in new_fields} | {"schema_version": "1.0"}
    path = tmp_path / "quality.json"
    path.write_text(json.dumps({"schema_version": "1.0", "records": [old]}))
    assert read_quality(path) == (record(),)
    assert (now["schema_version"], now["scheduler"], now["scheduler_label"]) == ("1.1", "static", "p4:4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**LEARNED, "scheduler_label": ""}, "scheduler_label"),
        ({"schema_version": "2.0"}, "'1.1'"),
        ({"schedule_sha256": None}, "does not match"),
        ({"schedule_sha256": "0"}, "does not match"),
        ({"value": float("nan")}, "finite"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"source": "quoted"}, "citation is required"),
        ({"ci_low": 53.0}, "exceeds ci_high"),
        ({"split": "train"}, "'calib', 'val' or 'test'"),
    ],
)
def test_an_impossible_quality_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        record(**changes)


def test_the_error_of_a_quality_file_names_file_record_and_field(tmp_path):
    path = tmp_path / "quality.json"
    path.write_text('{"schema_version": "1.0", "records": [{"model_name": "m"}]}')
    with pytest.raises(InputError, match=r"quality.json: records.0.model_sha256: Field required \(and \d+ more\)"):
        read_quality(path)
