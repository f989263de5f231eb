import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.trace import (
    InputError,
    ModelShape,
    Schedule,
    TraceSequence,
    read_trace,
    run_length,
    synthetic_trace,
    trace_writer,
    write_trace,
)

SHAPE = ModelShape(
    name="tiny",
    layers=2,
    hidden_size=64,
    ffn_size=96,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=128,
    max_context=64,
    mlp="gated",
)
SCHEDULE = Schedule.from_pairs(4, [(0, 4), (3, 2)])


@pytest.fixture
def trace_file(tmp_path):
    trace = synthetic_trace(SHAPE, SCHEDULE, prompt_tokens=8, decode_tokens=10, sequences=3)
    path = tmp_path / "trace.jsonl"
    write_trace(path, trace.header, trace.sequences)
    return path


def test_a_trace_reads_back_equal(trace_file):
    trace = synthetic_trace(SHAPE, SCHEDULE, prompt_tokens=8, decode_tokens=10, sequences=3)
    assert read_trace(trace_file) == trace
    assert trace.decode_steps() == 30
    assert trace.mean_decode_bits() == pytest.approx((3 * 4 + 7 * 2) / 10)


@given(st.lists(st.sampled_from([2, 3, 4, 8, 16]), max_size=40))
def test_run_length_loses_nothing(bits):
    runs = run_length(bits)
    assert [width for width, count in runs for _ in range(count)] == bits
    assert all(a[0] != b[0] for a, b in itertools.pairwise(runs))


def test_a_file_cut_anywhere_is_never_read_as_a_shorter_trace(trace_file, tmp_path):
    whole = trace_file.read_bytes()
    cut = tmp_path / "cut.jsonl"
    # The last byte is only the final newline; everything before it matters.
    for length in range(len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            read_trace(cut)
        assert "\n" not in str(caught.value)
        assert "cut.jsonl" in str(caught.value)


def _edit(path, index, **changes):
    lines = path.read_text().splitlines()
    record = json.loads(lines[index])
    record.update(changes)
    lines[index] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (0, {"schema_version": "0.9"}, r":1: .*schema_version = '0.9'"),
        (0, {"surprise": 1}, r":1: .*surprise"),
        (1, {"prompt_tokens": 0}, r":2: .*prompt_tokens = 0"),
        (1, {"generated_tokens": 12}, "covers 10 steps, must be generated_tokens - 1 = 11"),
        (1, {"decode_weight_bits": [[9, 10]]}, r"decode_weight_bits.*= 9"),
        (1, {"step_ns": [5]}, "step_ns has 1 entries, must be 10"),
        (2, {"id": "synthetic-0"}, r":3: id = 'synthetic-0' appears twice"),
        (4, {"sequences": 4}, "trailer counts 4 sequences, the file has 3"),
        (1, {"record": "header"}, ":2:"),
    ],
)
def test_a_broken_line_is_named_with_its_number_and_field(trace_file, index, changes, message):
    _edit(trace_file, index, **changes)
    with pytest.raises(InputError, match=message):
        read_trace(trace_file)


def test_lines_after_the_trailer_are_refused(trace_file):
    with trace_file.open("a") as file:
        file.write(trace_file.read_text().splitlines()[1] + "\n")
    with pytest.raises(InputError, match=":6: a line after the trailer"):
        read_trace(trace_file)


def test_a_writer_that_fails_leaves_the_old_file_and_no_temporary(trace_file):
    before = trace_file.read_bytes()
    trace = read_trace(trace_file)

    def interrupted() -> None:
        with trace_writer(trace_file, trace.header) as writer:
            writer.add(trace.sequences[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert trace_file.read_bytes() == before
    assert [path.name for path in trace_file.parent.iterdir()] == ["trace.jsonl"]


def test_a_response_of_one_token_has_no_decode_step():
    sequence = TraceSequence(
        id="a",
        prompt_tokens=3,
        generated_tokens=1,
        prefill_weight_bits=4,
        decode_weight_bits=(),
        finish_reason="eos",
    )
    assert sequence.decode_steps == 0
    trace = synthetic_trace(SHAPE, SCHEDULE, prompt_tokens=3, decode_tokens=0)
    with pytest.raises(InputError, match="no decode step"):
        trace.mean_decode_bits()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_tokens": 0, "decode_tokens": 1}, "prompt_tokens = 0: must be >= 1"),
        ({"prompt_tokens": 1, "decode_tokens": -1}, "decode_tokens = -1: must be >= 0"),
        ({"prompt_tokens": 40, "decode_tokens": 30}, "= 70: tiny holds at most 64 tokens"),
        ({"prompt_tokens": 4, "decode_tokens": 3, "sequences": 0}, "sequences = 0"),
    ],
)
def test_a_synthetic_trace_refuses_impossible_lengths(arguments, message):
    with pytest.raises(InputError, match=message):
        synthetic_trace(SHAPE, SCHEDULE, **arguments)
