"""A run goes on with the record of a simulator that gives the same, whatever its version, and with no other."""

from __future__ import annotations

import json

import pytest

import dse
import dse.runner
from dse.log import LOG_NAME, read_log
from explorations import run
from hwsim.trace import InputError


@pytest.fixture
def fields():
    return {
        "workloads": [{"model": "phi-1.5", "prompt_tokens": 8, "decode_tokens": 4}],
        "npu": "pmpd-4k",
        "mode": "pmpd-analytic",
        "schedules": ["p4:4", "p4:4>3@2"],
        "parameters": {"memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": [16e9, 32e9, 64e9]}},
        "objectives": [{"name": "decode_tokens_per_s", "direction": "maximize"}],
        "sampler": "random",
        "budget": 3,
    }


@pytest.fixture
def at(monkeypatch):
    """Makes this the simulator of a commit."""

    def at(commit):
        provenance = {"bittaper": "1.2.3", "commit": commit}
        monkeypatch.setattr(dse.runner, "collect_provenance", lambda folder, **extra: provenance | extra)

    return at


def resumed(fields, folder, budget):
    return run(dse.parse_study(fields | {"budget": budget}, "s"), folder)


def change_trial(folder, number, **metrics):
    """What a simulator with other numbers would have written."""
    log = folder / LOG_NAME
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line["record"] == "trial" and line["number"] == number:
            line["metrics"] |= metrics
    log.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def test_another_version_that_gives_the_same_goes_on_and_the_record_says_so(fields, tmp_path, at):
    at("aaa")
    resumed(fields, tmp_path, 3)
    at("bbb")
    found = resumed(fields, tmp_path, 4)
    assert found.notes == (
        "trials by version: 3 of bittaper 1.2.3 (commit aaa), then 1 of bittaper 1.2.3 (commit bbb) (3 simulated "
        "again: the same)",
    )
    assert dse.load_exploration(tmp_path).notes == found.notes
    # It is the version to compare with from then on.
    assert len(resumed(fields, tmp_path, 5).notes) == 1
    assert read_log(tmp_path / LOG_NAME).last_provenance["commit"] == "bbb"


def test_a_version_that_finishes_what_another_one_chose_is_said_to_have_simulated_it(fields, tmp_path, at):
    at("aaa")
    resumed(fields | {"batch_size": 3}, tmp_path, 3)
    log = tmp_path / LOG_NAME
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]))  # killed after the first trial of its only batch
    at("bbb")
    found = resumed(fields | {"batch_size": 3}, tmp_path, 3)
    assert len(found.trials) == 3
    assert found.notes == (
        "trials by version: 1 of bittaper 1.2.3 (commit aaa), then 2 of bittaper 1.2.3 (commit bbb) (1 simulated "
        "again: the same)",
    )
    assert dse.load_exploration(tmp_path).notes == found.notes


def test_a_version_that_only_looked_at_a_finished_run_is_not_spoken_of(fields, tmp_path, at):
    at("aaa")
    resumed(fields, tmp_path, 3)
    at("bbb")
    assert resumed(fields, tmp_path, 3).notes == ()
    at("ccc")
    (note,) = resumed(fields, tmp_path, 4).notes
    assert "commit aaa" in note and "commit bbb" not in note and "1 of bittaper 1.2.3 (commit ccc)" in note


@pytest.mark.parametrize("commit", ["bbb", "aaa-dirty"])
def test_a_simulator_that_gives_other_numbers_is_refused_and_nothing_is_lost(fields, tmp_path, at, commit):
    at("aaa-dirty" if commit.endswith("dirty") else "aaa")
    resumed(fields, tmp_path, 3)
    change_trial(tmp_path, 2, decode_tokens_per_s=12.5)
    before = (tmp_path / LOG_NAME).read_bytes()
    at(commit)
    with pytest.raises(
        InputError,
        match=r"trials\.jsonl: was written by bittaper 1\.2\.3 \(commit aaa.*\), whose simulator gives "
        r"decode_tokens_per_s = 12\.5 for trial 2, and .* gives \d+\.\d+; their trials do not compare: choose another",
    ) as caught:
        resumed(fields, tmp_path, 4)
    assert "\n" not in str(caught.value)
    assert (tmp_path / LOG_NAME).read_bytes() == before


def test_the_same_committed_version_is_taken_at_its_word(fields, tmp_path, at):
    at("aaa")
    resumed(fields, tmp_path, 3)
    change_trial(tmp_path, 2, decode_tokens_per_s=12.5)
    assert resumed(fields, tmp_path, 4).notes == ()


def test_a_design_that_ran_and_runs_no_more_is_another_simulator(fields, tmp_path, at):
    at("aaa")
    resumed(fields, tmp_path, 3)
    log = tmp_path / LOG_NAME
    log.write_text(log.read_text().replace('"error":null', '"error":"too small"'))
    at("bbb")
    with pytest.raises(InputError, match="whose simulator gives an error for trial 0, and .* gives a result; their"):
        resumed(fields, tmp_path, 4)


def test_what_stands_in_for_the_simulator_has_no_version(study, tmp_path, npu, at):
    at("aaa")
    run(study(budget=3), tmp_path, npu)
    at("bbb")
    assert run(study(budget=4), tmp_path, npu).notes == ()
    assert len(npu.calls) == 4
