"""The record survives a cut at any byte, and refuses what it is not."""

from __future__ import annotations

import json

import pytest

from dse.log import Batch, LogWriter, Outcome, read_log
from hwsim.trace import InputError

BATCH = Batch(0, 2, 1, [{"a": 1, "schedule": "p4:4"}], [None])
OUTCOME = Outcome(0, {"area_mm2": 1.0})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "out" / "trials.jsonl"
    with LogWriter(path) as log:
        log.header(meaning={"seed": 1})
        log.batch(BATCH)
        log.outcome(OUTCOME)
    return path


def test_what_was_written_is_read_back(path):
    record = read_log(path)
    assert record.header["meaning"] == {"seed": 1}
    assert record.batches == [BATCH]
    assert record.outcomes == {0: OUTCOME}
    assert record.repaired_bytes == 0


def test_a_cut_at_any_byte_loses_only_the_half_line(path):
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with LogWriter(path) as log:
            whole = sum(end <= size for end in ends)
            found = log.record
            lines = 0 if found is None else 1 + len(found.batches) + len(found.outcomes)
            assert lines == whole
        assert path.read_bytes() == content[: max([0, *(end for end in ends if end <= size)])]


def test_writing_goes_on_after_a_cut(path):
    path.write_bytes(path.read_bytes()[:-5])
    with LogWriter(path) as log:
        assert log.record.repaired_bytes > 0
        log.outcome(OUTCOME)
    assert read_log(path).outcomes == {0: OUTCOME}


def test_a_second_writer_is_refused(path):
    with LogWriter(path), pytest.raises(InputError, match="another run is writing it"):
        LogWriter(path)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (2, "{}", r":2: not a line of a trial log: it is damaged"),
        (2, "{{{", r":2: not a line"),
        (3, '{"record":"trial","number":0}', r":3: not a line"),
        (1, '{"record":"header","schema_version":"9.0"}', r":1: schema_version = '9\.0': must be 1\.0"),
        (1, '{"something": "else"}', r":1: not a line"),
    ],
)
def test_damage_before_the_end_is_refused_and_left_alone(path, line, text, message):
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    for reader in (read_log, LogWriter):
        with pytest.raises(InputError, match=message):
            reader(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["notes of somebody", "notes\nof somebody\n"])
def test_a_file_that_is_no_log_is_not_touched(tmp_path, content):
    path = tmp_path / "trials.jsonl"
    path.write_text(content)
    with pytest.raises(InputError):
        LogWriter(path)
    assert path.read_text() == content


def test_no_log_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="no such file; run the study first"):
        read_log(tmp_path / "trials.jsonl")


def test_lines_are_plain_json(path):
    assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == ["header", "batch", "trial"]
