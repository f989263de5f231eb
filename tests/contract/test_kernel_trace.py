"""What the kernels' benchmark writes is a trace by the contract, of the simulator's own shapes."""

import json

import jsonschema
import pytest

from hwsim import load_shape
from hwsim.trace import read_trace
from hwsim.trace.schema_files import SCHEMA_FOLDER
from kernels.bench.trace import Response, model_shape, write_trace
from kernels.shapes import SHAPES


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "deep" / "trace.jsonl"
    responses = [Response(7, 4, (4, 4, 3, 3, 3), 900 + run, (10, 11, 12, 13, 14)) for run in range(3)]
    write_trace(path, SHAPES["phi-1.5"], responses, "NVIDIA H100", {"driver": "580.1", "torch": "2.11.0"})
    return path


def test_a_measured_trace_is_read_back_whole(path):
    trace = read_trace(path)
    assert trace.header.schedule.label() == "p4:4>3@2"
    assert trace.header.device == "NVIDIA H100"
    assert trace.header.provenance["driver"] == "580.1"
    assert trace.header.provenance["weights"].startswith("random")
    assert [sequence.prefill_ns for sequence in trace.sequences] == [900, 901, 902]
    assert all(sequence.step_ns == (10, 11, 12, 13, 14) for sequence in trace.sequences)
    assert trace.sequences[0].expand() == [4, 4, 3, 3, 3]
    assert trace.mean_decode_bits() == pytest.approx(3.4)
    assert sorted(one.name for one in path.parent.iterdir()) == ["trace.jsonl"]


def test_every_line_satisfies_its_schema(path):
    for line in path.read_text().splitlines():
        record = json.loads(line)
        schema = json.loads((SCHEMA_FOLDER / f"trace_{record['record']}.schema.json").read_text())
        jsonschema.validate(record, schema)


@pytest.mark.parametrize("name", SHAPES)
def test_its_shape_is_the_simulators(name):
    assert model_shape(SHAPES[name]) == load_shape(name).model_dump(mode="json")
