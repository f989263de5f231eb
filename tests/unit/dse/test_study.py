"""The study file: what is read, and each mistake in one line."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import jsonschema
import pytest
import yaml

import dse.study
from dse.problem import prepare
from dse.schema_files import SCHEMA_PATH
from dse.study import Constraint, StudyConfig, parse_study, read_study
from hwsim.trace import InputError, Schedule


def changed(fields, **changes):
    return {**fields, **changes}


def test_every_field_is_documented():
    schema = StudyConfig.model_json_schema()
    for record in (schema, *(schema["$defs"][name] for name in ("Workload", "Parameter", "ScheduleSpace"))):
        for name, field in record["properties"].items():
            assert name in {
                "schema_version",
                "npu",
                "budget",
                "seed",
                "constraints",
                "objectives",
                "workloads",
                "type",
            } or ("description" in field), name


def test_a_study_that_reads_also_keeps_the_schema(study_fields):
    study = parse_study(study_fields, "study.yaml")
    jsonschema.validate(json.loads(study.model_dump_json()), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def test_numbers_that_yaml_reads_as_text_are_numbers(study_fields):
    study = parse_study(study_fields, "study.yaml")
    assert study.parameters["memory.bandwidth_bytes_per_s"].choices == (16 * 10**9, 32 * 10**9, 64 * 10**9, 128 * 10**9)


def test_paths_start_at_the_study_file_and_names_stay_names(tmp_path, study_fields, quality_path):
    (tmp_path / "npu.yaml").write_text("{}")
    folder = tmp_path / "studies"
    folder.mkdir()
    fields = changed(study_fields, quality=[f"../{quality_path.name}"], npu="../npu.yaml")
    (folder / "study.yaml").write_text(yaml.safe_dump(fields))
    study = read_study(folder / "study.yaml")
    assert study.quality == (str(quality_path),)
    assert study.npu == str(tmp_path / "npu.yaml")
    assert study.workloads[0].model == "vicuna-7b"


def test_schedules_are_written_as_labels(study_fields):
    study = parse_study(changed(study_fields, schedules=["p4:4>3@20", "p3:3"]), "s")
    assert study.schedules == (Schedule.from_pairs(4, [(0, 4), (20, 3)]), Schedule.uniform(3))


def test_a_bound_is_read_in_its_unit():
    assert Constraint(name="bandwidth_bytes_per_s", op="<=", bound=32, unit="GB/s").limit == 32e9
    assert Constraint(name="relative_quality", op=">=", bound=98, unit="%").limit == pytest.approx(0.98)


BAD = {
    "unknown field": ({"budgets": 3}, r"unknown field in s\.yaml 'budgets'; did you mean 'budget'\?"),
    "unknown field below": (
        {"workloads": [{"model": "m", "promt_tokens": 1, "decode_tokens": 1}]},
        r"unknown field in s\.yaml below workloads\.0 'promt_tokens'; did you mean 'prompt_tokens'\?",
    ),
    "reversed bounds": (
        {"parameters": {"a.b": {"type": "float", "low": 2, "high": 1}}},
        r"parameters\.a\.b: low = 2 exceeds high = 1: swap the bounds",
    ),
    "uncomputed objective": (
        {"objectives": [{"name": "tokens_per_s", "direction": "maximize"}]},
        r"unknown objective 'tokens_per_s'; did you mean 'decode_tokens_per_s'\? known: area_mm2, bandwidth",
    ),
    "objective twice": (
        {"objectives": [{"name": "area_mm2", "direction": "minimize"}] * 2},
        r"objective 'area_mm2' appears twice",
    ),
    "direction": ({"objectives": [{"name": "area_mm2", "direction": "min"}]}, r"objectives\.0\.direction = 'min'"),
    "unit": (
        {"constraints": [{"name": "area_mm2", "op": "<=", "bound": 3, "unit": "m2"}]},
        r"unknown unit of area_mm2 'm2'.* known: mm2",
    ),
    "operator": ({"constraints": [{"name": "area_mm2", "op": "<", "bound": 3}]}, r"constraints\.0\.op = '<'"),
    "bound": ({"constraints": [{"name": "area_mm2", "op": "<=", "bound": float("nan")}]}, r"bound = nan: .*finite"),
    "no budget": ({"budget": 0}, r"budget = 0: .*greater than or equal to 1"),
    "log from zero": (
        {"parameters": {"a": {"type": "log", "low": 0, "high": 1}}},
        r"parameters\.a: low = 0: must be > 0 on a logarithmic scale",
    ),
    "half a step": (
        {"parameters": {"a": {"type": "int", "low": 0, "high": 5, "step": 2}}},
        r"high = 5: must be low \+ a whole number of steps of 2",
    ),
    "fraction": ({"parameters": {"a": {"type": "int", "low": 0.5, "high": 5}}}, r"low = 0\.5: must be an integer"),
    "no choices": ({"parameters": {"a": {"type": "categorical"}}}, r"a categorical parameter needs choices"),
    "no bounds": ({"parameters": {"a": {"type": "int", "low": 1}}}, r"type int needs low and high"),
    "unknown condition": (
        {"parameters": {"a": {"type": "int", "low": 1, "high": 2, "when": {"b": 1}}}},
        r"parameters\.a\.when names 'b', which is not listed above it",
    ),
    "reference": ({"reference_point": {"area_mm2": 1}}, r"reference_point must give exactly the objectives"),
    "no load": ({"workloads": [{"model": "m"}]}, r"workloads\.0: needs either trace, or both"),
    "no precision": ({"quality": []}, r"needs quality files, schedules or schedule_space"),
    "unknown field of a schedule space": (
        {"schedule_space": {"prefil_weight_bits": [4], "decode_weight_bits": [4]}},
        r"unknown field in s\.yaml below schedule_space 'prefil_weight_bits'; did you mean 'prefill_weight_bits'\?",
    ),
    "unknown field of switch points": (
        {
            "schedule_space": {
                "prefill_weight_bits": 4,
                "decode_weight_bits": [4, 3],
                "switch_steps": {"points": 4, "response_token": 61},
            }
        },
        r"below schedule_space\.switch_steps 'response_token'; did you mean 'response_tokens'\?",
    ),
    "unknown field of a parameter": (
        {"parameters": {"memory.channels": {"type": "int", "low": 1, "high": 2, "stepp": 1}}},
        r"unknown field in s\.yaml below parameters\.memory\.channels 'stepp'; did you mean 'step'\?",
    ),
    "unknown field of a constraint in a list": (
        {"constraints": [{"name": "area_mm2", "op": "<=", "bound": 3}, {"name": "ttft_s", "op": "<=", "bond": 3}]},
        r"unknown field in s\.yaml below constraints\.1 'bond'; did you mean 'bound'\?",
    ),
    "unknown field of a schedule": (
        {"schedules": [{"prefill_weight_bits": 4, "decode": [{"start": 0, "weight_bits": 4}]}]},
        r"unknown field in s\.yaml below schedules\.0\.decode\.0 'start'; did you mean 'start_step'\?",
    ),
    "interpolation method": (
        {"interpolation": {"method": "spline"}},
        r"interpolation\.method = 'spline': must be 'linear-in-bits'",
    ),
    "interpolation of nothing": (
        {"interpolation": {"method": "linear-in-bits"}},
        "interpolation needs quality files to interpolate between, and schedules or schedule_space for which",
    ),
    "live quality of nothing": (
        {"live_quality": {"command": ["x", "{schedule}", "{out}"]}},
        "live_quality needs schedules or schedule_space: what it is to measure",
    ),
    "live quality that nobody asks for": (
        {
            "live_quality": {"command": ["x", "{schedule}", "{out}"]},
            "schedules": ["p4:4"],
            "objectives": [{"name": "area_mm2", "direction": "minimize"}],
            "constraints": [],
        },
        "live_quality: no objective or constraint asks for quality",
    ),
    "one side bounded twice": (
        {"constraints": [{"name": "area_mm2", "op": "<=", "bound": 3}, {"name": "area_mm2", "op": "<=", "bound": 2}]},
        r"area_mm2 <= 3 and area_mm2 <= 2 bound the same side of one quantity: keep the tighter one",
    ),
    "an empty interval": (
        {"constraints": [{"name": "area_mm2", "op": "<=", "bound": 2}, {"name": "area_mm2", "op": ">=", "bound": 3}]},
        r"area_mm2 >= 3 and area_mm2 <= 2 exclude each other: no value keeps both; swap the bounds",
    ),
    "a schedule twice": ({"schedules": ["p4:4", "4"]}, r"schedules = .*: p4:4 appears twice; leave one out"),
    "points and step": (
        {"parameters": {"a": {"type": "int", "low": 1, "high": 5, "step": 1, "points": 5}}},
        r"parameters\.a: step and points both say how many values there are",
    ),
    "step on a logarithmic scale": (
        {"parameters": {"a": {"type": "log", "low": 1, "high": 5, "step": 1}}},
        r"exclude each other; give points",
    ),
    "points of one value": (
        {"parameters": {"a": {"type": "float", "low": 1, "high": 1, "points": 3}}},
        r"points = 3: low and high are both 1",
    ),
    "an objective that is not a number": (
        {
            "parameters": {"memory.timing": {"type": "categorical", "choices": [{"t_cl_ns": 1}, {"t_cl_ns": 2}]}},
            "objectives": [{"name": "memory.timing", "direction": "minimize"}],
        },
        r"unknown objective 'memory\.timing'",
    ),
    "schedule": ({"schedules": ["4,3"]}, r"must look like p4:4>3@40"),
    "width": ({"schedules": ["p4:11"]}, r"schedules\.0.*must be 1\.\.8"),
}


def test_a_name_that_a_mapping_holds_twice_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("npu: pmpd-4k\nparameters:\n  a.b: {type: int}\n  a.b: {type: float}\n")
    with pytest.raises(InputError, match=r"study\.yaml:4: not YAML \('a\.b' appears twice in one mapping; keep one\)"):
        read_study(tmp_path / "study.yaml")


def test_a_study_survives_the_way_to_a_worker_and_back(study_fields):
    fields = study_fields | {
        "schedule_space": {
            "prefill_weight_bits": [8, 4],
            "decode_weight_bits": [4, 3],
            "switch_steps": {"points": 4, "response_tokens": 61},
            "schedulers": ["static", "learned"],
        },
        "schedules": ["p4:4>3@20"],
        "interpolation": {"method": "linear-in-bits"},
        "live_quality": {"command": ["measure", "{schedule_file}", "{out}"]},
    }
    study = parse_study(fields, "s")
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study
    jsonschema.validate(json.loads(study.model_dump_json()), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def test_the_examples_of_the_documentation_are_study_files():
    """The first is a whole study; the others are parts, which go into it."""
    text = (Path(dse.study.__file__).parent / "README.md").read_text(encoding="utf-8")
    blocks = [textwrap.dedent(block) for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)]
    whole, *parts = map(yaml.safe_load, blocks)
    prepare(parse_study(whole, "README.md"))
    assert len(parts) == 3
    for part in parts:
        study = parse_study(whole | {"schedules": ["p3:3"]} | part, "README.md")
        assert all(getattr(study, name) is not None for name in part)


def test_every_field_is_in_the_documentation():
    text = (Path(dse.study.__file__).parent / "README.md").read_text(encoding="utf-8")
    records = (
        StudyConfig,
        dse.study.Workload,
        dse.study.ScheduleSpace,
        dse.study.LiveQuality,
        dse.study.WantedInterpolation,
    )
    names = {name for record in records for name in record.model_fields} - {"schema_version"}
    assert not {name for name in names if name not in text}


def test_no_interpolation_may_be_said_in_words(study_fields):
    assert parse_study(changed(study_fields, interpolation="none"), "s").interpolation.method == "none"


def test_places_in_a_command_start_at_the_study_file(tmp_path, study_fields):
    live = {"command": ["measure", "--model", "{here}/store", "{schedule}", "{out}"]}
    fields = changed(study_fields, schedules=["p4:4"], live_quality=live, quality=["published:pmpd-table1"])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields))
    study = read_study(tmp_path / "study.yaml")
    assert study.live_quality.command[2] == f"{tmp_path}/store"
    assert study.quality == ("published:pmpd-table1",)


@pytest.mark.parametrize("case", BAD)
def test_bad_study_is_one_clear_line(study_fields, case):
    changes, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        parse_study(changed(study_fields, **changes), "s.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", r"study\.yaml:1: not YAML"), ("just words", r"a study file is a mapping"), (None, "no such file")],
)
def test_unreadable_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_study(path)
