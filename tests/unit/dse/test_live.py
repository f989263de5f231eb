"""A study's own command measures quality on demand: once, checked, kept, and never a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dse
from dse.prices import shadow_prices
from dse.problem import prepare
from dse.study import parse_study
from hwsim.trace import InputError, Schedule

SCRIPT = """
import json, sys, time
from pathlib import Path
label, out, how = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
with (out / "calls").open("a") as file:
    file.write("x")
if "fail" in how:
    print("progress 1/3\\rprogress 2/3", file=sys.stderr)
    sys.exit("the model has no such width")
if "hang" in how:
    print("still thinking", file=sys.stderr, flush=True)
    time.sleep(60)
if "slow" in how:
    time.sleep(1.5)
record = json.loads(Path(__file__).with_name("records.json").read_text())[label]
record |= json.loads(how[0]) if how and how[0].startswith("{") else {}
(out / "quality.json").write_text(json.dumps({"schema_version": "1.0", "records": [record]}))
"""
LABELS = ("p4:4", "p4:4>3@20", "p4:3", "p4:4>3@25", "p16:16")


def write_records(folder, make_quality, **changes):
    """What the script will say it measured: 10 points and one for each bit."""
    records = {}
    for label in LABELS:
        schedule = Schedule.from_label(label)
        value = 10 + schedule.mean_bits(60)
        fields = {"value": value, "ci_low": value - 1, "ci_high": value + 1, "n": 50}
        records[label] = make_quality(schedule, **(fields | changes)).model_dump(mode="json")
    (folder / "records.json").write_text(json.dumps(records))


@pytest.fixture
def script(tmp_path, make_quality):
    path = tmp_path / "measure.py"
    path.write_text(SCRIPT)
    write_records(tmp_path, make_quality)
    return path


@pytest.fixture
def fields(study_fields, script):
    def make(*how, timeout_s=30, **changes):
        command = [sys.executable, "-I", "-S", str(script), "{schedule}", "{out}", *how]
        live = {"command": command, "timeout_s": timeout_s}
        study = {key: value for key, value in study_fields.items() if key not in {"quality", "constraints"}}
        return (
            study
            | {"schedules": ["p4:4", "p4:4>3@20", "p4:3"], "live_quality": live, "budget": 6, "sampler": "random"}
            | changes
        )

    return make


def calls(folder: Path) -> int:
    return sum(len(path.read_text()) for path in folder.rglob("calls"))


def test_what_a_design_needs_is_measured_once_and_full_precision_with_it(fields, tmp_path, npu):
    found = dse.explore(parse_study(fields(), "s"), tmp_path / "out", evaluate=npu, progress=False, allow_command=True)
    row = found.trials[found.trials["schedule"] == "p4:4"].iloc[0]
    assert row["relative_quality"] == pytest.approx(14 / 26)
    assert (row["quality"], row["quality_ci_low"], row["quality_n"]) == (14, 13, 50)
    assert row["quality_source"] == "live"
    assert calls(tmp_path / "out") == found.trials["schedule"].nunique() + 1
    with pytest.raises(InputError, match=r"measured by a command as it is needed, .* in place of live_quality"):
        shadow_prices(tmp_path / "out")
    # Another run in the folder asks nothing again.
    dse.explore(parse_study(fields(budget=9), "s"), tmp_path / "out", evaluate=npu, progress=False, allow_command=True)
    assert calls(tmp_path / "out") <= 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_space_of_few_designs_is_exhausted_and_confirmed(fields, tmp_path, workers):
    fewer = fields(schedules=["p4:4", "p4:3"], budget=24, sampler="auto")
    loads = [{"model": "vicuna-7b", "prompt_tokens": 9, "decode_tokens": 7}]
    study = parse_study(fewer | {"workloads": loads}, "s")
    found = dse.explore(study, tmp_path / "out", workers=workers, progress=False, allow_command=True)
    assert (found.sampler, len(found.trials)) == ("exhaustive", 24)
    assert found.certificate["confirmed"]["front"] == min(20, found.certificate["kept"]) > 0
    assert found.certificate["confirmed"]["engine"] == "events"


def test_a_command_runs_only_where_it_is_allowed(fields, tmp_path, npu):
    with pytest.raises(
        InputError, match=r"live_quality: the study runs the command .*; look at it, then allow it with"
    ):
        prepare(parse_study(fields(), "s"), npu, folder=tmp_path)
    assert calls(tmp_path) == 0


@pytest.mark.parametrize(
    ("how", "timeout_s", "message"),
    [
        (("fail",), 30, r"schedule p4:4: the command ended with code 1: the model has no such width$"),
        (
            ("hang",),
            0.6,
            r"schedule p4:4: the command took longer than timeout_s = 0.6 and was stopped: still thinking$",
        ),
        (
            ('{"model_name": "phi-1.5"}',),
            30,
            r"model_name = 'phi-1\.5': the workload runs 'vicuna-7b'; mend the command",
        ),
        (('{"split": "test"}',), 30, r"split = 'test' for schedule p4:4: exploring must not see test prompts"),
        (('{"metric": "bleu"}',), 30, r"unknown metric in .*quality\.json 'bleu'|unknown metric in .* 'rouge_l'"),
    ],
)
def test_a_command_that_goes_wrong_is_an_error_of_one_line(fields, tmp_path, npu, how, timeout_s, message):
    study = parse_study(fields(*how, timeout_s=timeout_s, quality_metric="rouge_l"), "s")
    began = time.monotonic()
    for _ in range(2):  # the second time it is known, to another process too
        problem = prepare(study, npu, allow_command=True, folder=tmp_path)
        with pytest.raises(InputError, match=message) as caught:
            problem.quality.row("p4:4")
        assert "\n" not in str(caught.value)
    assert calls(tmp_path) == 1
    assert time.monotonic() - began < 20
    # The outcome of each design that needed it, not the end of the run.
    design = problem.space.decode({**problem.space.at(0.0, Schedule.uniform(4)).canonical()})
    (outcome,) = problem.metrics_many([design])
    assert isinstance(outcome, InputError)


def test_records_of_two_stores_are_not_one_table(fields, tmp_path, npu, make_quality):
    problem = prepare(parse_study(fields(), "s"), npu, allow_command=True, folder=tmp_path)
    problem.quality.row("p4:4")
    write_records(tmp_path, make_quality, store_sha256="another")
    with pytest.raises(InputError, match=r"schedule p4:3: store_sha256 = 'another', but 's' for p4:4: one table holds"):
        problem.quality.row("p4:3")


def test_measured_files_are_taken_as_they_are_and_only_the_rest_is_measured(fields, tmp_path, npu, quality_path):
    study = parse_study(fields(quality=[str(quality_path)], schedules=["p4:4", "p4:4>3@25"]), "s")
    problem = prepare(study, npu, allow_command=True, folder=tmp_path)
    assert problem.quality.row("p4:4")["relative_quality"] == pytest.approx((40 - 60 / 16 - 1) / (40 - 60 / 256 - 0.25))
    assert calls(tmp_path) == 0
    assert problem.quality.labels["p4:4>3@25"]["quality_source"] == "live"
    assert problem.quality.row("p4:4>3@25")["quality"] == pytest.approx(10 + (4 * 25 + 3 * 35) / 60)
    assert calls(tmp_path) == 1
    assert problem.bounds is None


RUN = """
import sys
from dse.problem import prepare
from dse.study import read_study
problem = prepare(read_study(sys.argv[1]), lambda design: {}, allow_command=True, folder=sys.argv[2])
print(problem.quality.row("p4:4")["quality"])
"""


@pytest.mark.slow
def test_killed_while_it_measures_a_run_finds_what_its_command_left(fields, tmp_path):
    """The command outlives its exploration; the next one waits for it instead of starting a second."""
    import yaml

    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(fields("slow")))
    run = [sys.executable, "-c", RUN, str(study), str(tmp_path / "out")]
    first = subprocess.Popen(run, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not calls(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    left = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert float(left.stdout) == 14
    assert calls(tmp_path / "out") == 2  # p4:4 and full precision


@pytest.mark.slow
def test_two_processes_that_need_one_schedule_measure_it_once(fields, tmp_path):
    import yaml

    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(fields("slow")))
    run = [sys.executable, "-c", RUN, str(study), str(tmp_path / "out")]
    both = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [float(one.communicate(timeout=60)[0]) for one in both] == [14, 14]
    assert calls(tmp_path / "out") == 2


def test_a_schedule_that_could_not_be_measured_leaves_the_answer_open(fields, tmp_path, npu):
    records = json.loads((tmp_path / "records.json").read_text())
    (tmp_path / "records.json").write_text(json.dumps({k: v for k, v in records.items() if k != "p4:3"}))
    study = parse_study(fields(budget=36, sampler="auto"), "s")
    found = dse.explore(study, tmp_path / "out", evaluate=npu, progress=False, allow_command=True)
    assert (found.sampler, len(found.trials), found.counts.invalid) == ("exhaustive", 36, 12)
    assert not found.exhausted and not found.front_is_exact
    assert "12 designs could not be evaluated" in found.notes[0]
    assert not dse.ask(tmp_path / "out", minimise="bandwidth").exact


def test_what_could_not_be_measured_is_tried_again_when_told_to(fields, tmp_path, npu):
    """The records file lacks a schedule, as a command may lack a disk; then it is mended."""
    records = (tmp_path / "records.json").read_text()
    (tmp_path / "records.json").write_text(json.dumps({k: v for k, v in json.loads(records).items() if k != "p4:3"}))
    out = tmp_path / "out"

    def run(timeout_s=30, retry=False):
        study = parse_study(fields(timeout_s=timeout_s, budget=36, sampler="auto"), "s")
        return dse.explore(study, out, evaluate=npu, progress=False, allow_command=True, retry=retry)

    first = run()
    assert first.counts.invalid == 12 and calls(out) == 4
    assert "bittaper explore run --retry tries them again" in first.notes[0]
    (tmp_path / "records.json").write_text(records)
    assert run().counts.invalid == 12 and calls(out) == 4  # a resume alone asks nothing again
    found = run(timeout_s=60, retry=True)  # a longer wait is not another study
    assert found.counts.invalid == 0 and found.exhausted and calls(out) == 5
    assert dse.load_exploration(out).trials["error"].isna().all()


def test_a_reference_that_nobody_will_measure_is_refused_before_the_run(fields, tmp_path, npu):
    study = parse_study(fields(quality_reference="high-precision"), "s")
    with pytest.raises(InputError, match=r"quality_reference = 'high-precision': the quality files hold no uniform"):
        prepare(study, npu, allow_command=True, folder=tmp_path)


@pytest.mark.parametrize(
    ("live", "message"),
    [
        ({"command": ["x", "{out}"]}, r"live_quality\.command.*needs \{schedule\} or \{schedule_file\}"),
        ({"command": ["x", "{schedule}"]}, r"live_quality\.command.*needs \{out\}"),
        (
            {"command": ["x", "{shedule}", "{out}"]},
            r"unknown place in the command 'shedule'; did you mean 'schedule'\?",
        ),
        ({"command": []}, r"live_quality\.command"),
        ({"comand": ["x"]}, r"unknown field in s below live_quality 'comand'; did you mean 'command'\?"),
        (
            {"command": ["x", "{schedule}", "{out}"], "timeout_s": 0},
            r"live_quality\.timeout_s = 0: must be greater than 0",
        ),
    ],
)
def test_a_command_that_cannot_work_is_refused_when_the_study_is_read(fields, live, message):
    with pytest.raises(InputError, match=message):
        parse_study(fields() | {"live_quality": live}, "s")


def test_a_program_that_is_not_there_is_refused_before_the_run(fields, tmp_path, npu):
    study = fields() | {"live_quality": {"command": ["no-such-program", "{schedule}", "{out}"]}}
    with pytest.raises(InputError, match=r"live_quality\.command: there is no program 'no-such-program'"):
        prepare(parse_study(study, "s"), npu, allow_command=True, folder=tmp_path)


@pytest.mark.slow
def test_the_real_evaluation_measures_on_demand(tmp_path):
    """``bittaper evaluate`` on the shipped model at full precision, which needs no store."""
    model = Path(__file__).parents[3] / "accuracy" / "reference" / "selvic-llama"
    evaluate = [str(Path(sys.executable).with_name("bittaper")), "evaluate", "--model", str(model), "--quiet"]
    options = ["--schedule", "{schedule}", "--split", "val", "--limit", "4", "--metric", "bleu", "--out", "{out}"]
    study = {
        "npu": "pmpd-4k",
        "workloads": [{"model": str(model / "config.json"), "prompt_tokens": 9, "decode_tokens": 9, "task": "selvic"}],
        "schedules": ["p16:16"],
        "live_quality": {"command": [*evaluate, *options], "timeout_s": 300},
        "parameters": {"sfu.lanes": {"type": "categorical", "choices": [16, 32]}},
        "objectives": [{"name": "relative_quality", "direction": "maximize"}],
    }
    found = dse.explore(parse_study(study, "s"), tmp_path, progress=False, allow_command=True)
    assert found.trials["relative_quality"].tolist() == [1.0, 1.0]
    assert 0 < found.trials["quality"].iloc[0] <= 100
    assert set(found.trials["quality_n"]) == {4}
