"""The JSON Schema files are generated from the models and describe what the writers write."""

import json

import jsonschema
import pytest

from dse.schema_files import SCHEMA_PATH as STUDY_SCHEMA
from dse.study import StudyConfig
from hwsim.trace import Schedule, synthetic_trace, write_trace
from hwsim.trace.schema_files import CONTRACTS, SCHEMA_FOLDER, schema_text
from hwsim.trace.shape import shape_from_config


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_the_schema_file_is_what_the_model_says(name):
    stored = (SCHEMA_FOLDER / f"{name}.schema.json").read_text()
    assert stored == schema_text(CONTRACTS[name]), "run: python -m hwsim.trace.schema_files"


def test_the_study_file_of_the_schemas_is_what_the_model_says():
    assert STUDY_SCHEMA.read_text(encoding="utf-8") == schema_text(StudyConfig), "run: python -m dse.schema_files"


def test_no_schema_file_without_a_contract():
    assert {path.name.split(".")[0] for path in SCHEMA_FOLDER.iterdir()} == set(CONTRACTS)


def test_every_line_of_a_written_trace_satisfies_its_schema(tmp_path):
    shape = shape_from_config(
        {
            "model_type": "llama",
            "num_hidden_layers": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "vocab_size": 64,
        },
        "tiny",
    )
    trace = synthetic_trace(shape, Schedule.uniform(4), prompt_tokens=4, decode_tokens=3, sequences=2)
    write_trace(tmp_path / "t.jsonl", trace.header, trace.sequences)
    for line in (tmp_path / "t.jsonl").read_text().splitlines():
        record = json.loads(line)
        schema = json.loads((SCHEMA_FOLDER / f"trace_{record['record']}.schema.json").read_text())
        jsonschema.validate(record, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**record, "surprise": 1}, schema)
