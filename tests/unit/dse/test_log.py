"""The record survives a cut at any byte, and refuses what it is not."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading

import pandas as pd
import pytest

import dse
import dse.log
from dse.log import Batch, LogWriter, Outcome, read_log
from explorations import run
from hwsim.trace import InputError
from picklable_npu import closed_form

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


def test_what_holds_for_many_schedules_stands_once(tmp_path):
    path = tmp_path / "trials.jsonl"
    labels = [f"p4:4>3@{step}" for step in range(1000)]
    reason = "no quality, and it cannot be interpolated: its widths rise, or are more than 3"
    header = {
        "excluded_schedules": dict.fromkeys(labels, reason) | {"p8:8": "relative_quality >= 0.9"},
        "quality_labels": {label: {"quality_source": "measured", "quality_n": 100} for label in labels},
    }
    with LogWriter(path) as log:
        written = log.header(meaning={}, **header)
    for record in (written, read_log(path)):
        assert {name: record.header[name] for name in header} == header
    assert path.read_text().count(reason) == path.read_text().count("measured") == 1


def test_a_log_of_version_1_0_is_read_and_gone_on_with(tmp_path):
    path = tmp_path / "trials.jsonl"
    header = {
        "schema_version": "1.0",
        "meaning": {},
        "excluded_schedules": {"p8:8": "no quality"},
        "quality_labels": {},
    }
    path.write_text(json.dumps({"record": "header", **header}) + "\n")
    with LogWriter(path) as log:
        log.batch(BATCH)
    assert read_log(path).header["excluded_schedules"] == {"p8:8": "no quality"}


def test_a_later_outcome_counts_where_the_first_said_nothing_of_the_design(path):
    unknown = Outcome(1, {}, "the command ended with code 1", unknown=True)
    with LogWriter(path) as log:
        log.batch(Batch(1, 3, 1, [{"a": 2}], [None]))
        log.outcome(unknown)
        log.outcome(Outcome(1, {"area_mm2": 2.0}))
    assert read_log(path).outcomes[1] == Outcome(1, {"area_mm2": 2.0})


def lines_of(record):
    return 0 if record is None else 1 + len(record.batches) + len(record.outcomes)


def cut_off(path):
    """What was cut off the log, in order."""
    side = path.with_name("trials.jsonl.cut")
    lines = side.read_text().splitlines() if side.exists() else []
    return [json.loads(line)["latin1"].encode("latin-1") for line in lines]


def test_a_cut_at_any_byte_loses_only_the_half_line_and_keeps_it_beside(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds of files: the disk would take seconds
    content = path.read_bytes()
    # A line that lacks only its newline is whole.
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with LogWriter(path) as log:
            assert lines_of(log.record) == sum(end <= size for end in ends)
        sound = content[: max([0, *(end + 1 for end in ends if end <= size)])]
        assert path.read_bytes() == sound
        damaged = content[len(sound) : size]
        assert cut_off(path) == ([damaged] if damaged else [])
        path.with_name("trials.jsonl.cut").unlink(missing_ok=True)


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\0\0\n\0", b'{"record":"tri\0\0', b"\xff\xfe\n", b"[1]\n"])
def test_what_a_power_failure_leaves_at_the_end_is_cut_off_and_kept(path, tail):
    content = path.read_bytes()
    path.write_bytes(content + tail)
    assert read_log(path).repaired_bytes == len(tail)
    with LogWriter(path) as log:
        assert log.record.repaired_bytes == len(tail)
        log.batch(Batch(1, 3, 1, [{"schedule": None}], [None]))
    assert cut_off(path) == [tail]
    assert len(read_log(path).batches) == 2 and read_log(path).repaired_bytes == 0


def test_a_log_of_zeros_only_begins_anew(path):
    path.write_bytes(b"\0" * 100)
    with LogWriter(path) as log:
        assert log.record is None
    assert path.read_bytes() == b"" and cut_off(path) == [b"\0" * 100]


def test_several_repairs_keep_every_tail(path):
    for tail in (b"first", b"second"):
        path.write_bytes(path.read_bytes() + tail)
        LogWriter(path).__exit__(None, None, None)
    assert cut_off(path) == [b"first", b"second"]


def test_writing_goes_on_after_a_cut(path):
    path.write_bytes(path.read_bytes()[:-5])
    with LogWriter(path) as log:
        assert log.record.repaired_bytes > 0
        log.outcome(OUTCOME)
    assert read_log(path).outcomes == {0: OUTCOME}


def test_a_line_that_lacks_only_its_newline_is_kept_and_ended(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert read_log(path).outcomes == {0: OUTCOME}
    LogWriter(path).__exit__(None, None, None)
    assert path.read_bytes() == content


def test_lines_are_synced_within_the_interval_while_nothing_else_is_written(path, monkeypatch):
    monkeypatch.setattr(dse.log, "SYNC_INTERVAL_S", 0.01)
    synced = threading.Event()
    real, seen = os.fsync, []

    def fsync(handle):
        real(handle)
        if threading.current_thread().name == "log-sync":
            seen.append(path.read_bytes())
            synced.set()

    with LogWriter(path) as log:
        monkeypatch.setattr(os, "fsync", fsync)
        log.certificate({"designs": 1})
        assert synced.wait(10)
        assert seen[0].endswith(b'"designs":1}\n')


def test_a_disk_that_fails_while_syncing_stops_the_run(path, monkeypatch):
    monkeypatch.setattr(dse.log, "SYNC_INTERVAL_S", 0.01)

    def fails(handle):
        raise OSError(errno.EIO, "Input/output error")

    log = LogWriter(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        log.certificate({"designs": 1})
        log._syncer.join(10)
    with pytest.raises(OSError, match="Input/output error"):
        log.certificate({"designs": 2})
    log.__exit__(None, None, None)


def test_a_second_writer_is_refused(path):
    with LogWriter(path), pytest.raises(InputError, match="another run is writing it"):
        LogWriter(path)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (2, "{}", r":2: not a line of a trial log: it is damaged"),
        (2, "{{{", r":2: not a line of a trial log, and sound lines follow: it is damaged"),
        (2, "\0\0", r":2: not a line of a trial log, and sound lines follow"),
        (
            2,
            '{"record":"batch","first":1,"suggestions":1,"duplicates":0,"designs":[],"generations":[]}',
            r"not 0\): it",
        ),
        (3, '{"record":"trial","number":1,"metrics":{},"error":null}', r":3: .* \(trial 1 is in no batch\)"),
        (3, '{"record":"trial","number":0,"metrics":[],"error":null}', r":3: not a line"),
        (3, '{"record":"something newer"}', r":3: not a line"),
        (3, '{"record":"trial","number":0}', r":3: not a line"),
        (1, '{"record":"header","schema_version":"9.0"}', r":1: schema_version = '9\.0': must be 1\.0 or 1\.1"),
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


def test_a_trial_that_is_there_twice_is_refused(path):
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(InputError, match=r":4: not a line of a trial log \(trial 0 is there twice\)"):
        LogWriter(path)


def test_trials_are_read_in_any_order_and_with_their_source(path):
    outcomes = [Outcome(2, {"area_mm2": 2.0}), Outcome(1, {}, "too large", "trial 7 of team")]
    with LogWriter(path) as log:
        log.batch(Batch(1, 3, 0, [{"schedule": None}] * 2, [0, 1]))
        for outcome in outcomes:
            log.outcome(outcome)
    assert list(read_log(path).outcomes.values()) == [OUTCOME, *outcomes]


def test_no_log_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="no such file; run the study first"):
        read_log(tmp_path / "trials.jsonl")


def test_lines_are_plain_json(path):
    assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == ["header", "batch", "trial"]


def test_a_full_disk_ends_a_run_in_one_line_and_the_same_run_goes_on_where_there_is_room(tmp_path, study_fields):
    study = dse.parse_study(study_fields | {"sampler": "random", "budget": 20}, "study.yaml")
    whole = run(study, tmp_path / "whole", closed_form)
    size = (tmp_path / "whole" / "trials.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 700, hard))  # as a disk that ends within a line
    try:
        with pytest.raises(InputError, match=r"trials\.jsonl: cannot be written \(File too large\); the trials in it"):
            run(study, tmp_path / "full", closed_form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = read_log(tmp_path / "full" / "trials.jsonl")
    assert 0 < len(left.outcomes) < 20 and left.repaired_bytes > 0
    found = run(study, tmp_path / "full", closed_form)
    pd.testing.assert_frame_equal(found.trials, whole.trials)
    assert any("damaged bytes" in note for note in found.notes)
