"""The main job as a user runs it, on the shipped model with few prompts."""

import csv
import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest
import yaml

from hwsim.load import read_npu_text
from hwsim.trace import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = ["--val-prompts", "16", "--test-prompts", "16", "--budget", "12", "--batch-size", "8", "--quiet"]


def command(out, *more):
    return [sys.executable, "-m", "studies.cli", "study", "codesign", "--out", str(out), *SMALL, *more]


def finish(out, *more):
    return subprocess.run(command(out, *more), capture_output=True, text=True, check=False, timeout=600)


def numbers(out):
    return json.loads((out / "codesign.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("codesign") / "results"
    done = finish(out)
    assert done.returncode == 0, done.stderr
    return out, done


def test_it_says_where_to_look_and_everything_is_there(finished):
    out, done = finished
    for name in ("trials.csv", "pareto.csv", "manifest.json", "report.html", "codesign.json", "study.yaml"):
        assert (out / name).stat().st_size > 0
    assert str(out / "report.html") in done.stdout
    for figure in ("front", "quality", "progress"):
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(out / f"{figure}.svg").getroot().tag.endswith("svg")


def test_the_front_is_a_part_of_the_trials_and_keeps_every_limit(finished):
    out, _ = finished
    with (out / "trials.csv").open() as file:
        trials = {row["number"]: row for row in csv.DictReader(file)}
    with (out / "pareto.csv").open() as file:
        front = list(csv.DictReader(file))
    assert len(trials) == 12
    assert front
    for row in front:
        assert trials[row["number"]]["decode_tokens_per_s"] == row["decode_tokens_per_s"]
        assert row["feasible"] == "True"
        assert float(row["relative_quality"]) >= 0.9


def test_chosen_points_are_measured_on_prompts_the_exploration_never_saw(finished):
    out, _ = finished

    def prompts(split):
        lines = (out / split / "per_prompt.jsonl").read_text().splitlines()
        return {json.loads(line)["prompt_sha256"] for line in lines}

    assert len(prompts("val")) == len(prompts("test")) == 16
    assert not prompts("val") & prompts("test")
    for design in numbers(out)["chosen"]:
        assert design["test"]["n"] == 16
        assert design["test"]["relative_quality_low"] <= design["test"]["relative_quality"]
        assert design["cycles"]["events"] == design["cycles"]["fast"]
        assert design["uniform_rival"]["test"]["decode_tokens_per_s"] > 0


def test_the_report_needs_nothing_outside_itself(finished):
    out, _ = finished
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("<svg") == 3


def test_an_own_npu_that_reads_few_widths_goes_the_whole_path(tmp_path):
    text, _ = read_npu_text("pmpd-4k")
    own = yaml.safe_load(text) | {"name": "narrow", "clock_hz": 5e8}
    own["matrix"] |= {"weight_widths": [3, 4], "lookups_per_cycle": {3: 2048, 4: 2048}}
    npu = tmp_path / "narrow.yaml"
    npu.write_text(yaml.safe_dump(own))
    out = tmp_path / "out"
    done = finish(out, "--npu", str(npu), "--metric", "rouge_l", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    found = numbers(out)
    assert (found["npu"], found["metric"]) == ("narrow", "rouge_l")
    assert {row["metric"] for row in found["quality"]["val"]} == {"rouge_l"}
    with (out / "trials.csv").open() as file:
        schedules = {Schedule.from_label(row["schedule"]) for row in csv.DictReader(file)}
    assert {width for schedule in schedules for width in schedule.widths()} == {3, 4}
    assert (out / "npu.yaml").read_text() == npu.read_text()
    done = finish(out, "--npu", "pmpd-4k", "--metric", "rouge_l", "--widths", "4,3")
    assert done.returncode == 2
    assert "npu" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_run_changes_no_number(finished):
    out, _ = finished
    before = numbers(out)
    assert finish(out).returncode == 0
    assert numbers(out) == before


def test_a_run_killed_three_times_ends_with_the_numbers_of_one_that_was_not(finished, tmp_path):
    out = tmp_path / "killed"
    for delay_s in (9, 14, 19):
        process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = finish(out)
    assert done.returncode == 0, done.stderr
    assert numbers(out) == numbers(finished[0])


def heed_ctrl_c():
    """A test run started in the background of a shell ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_with_130_and_one_line(tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "out"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - the tests start no threads
    )
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--task", "selvik"], "did you mean 'selvic'"),
        (["--npu", "pmpd-4"], "did you mean 'pmpd-4k'"),
        (["--data", "missing.jsonl"], "missing.jsonl: no such file"),
        (["--budget", "0"], "must be >= 1"),
        (["--metric", "blue"], "did you mean 'bleu'"),
        (["--widths", "9,4"], "--widths 9: must be 1..8"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(finished, tmp_path, more, message):
    done = finish(tmp_path / "out", *more)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2
    assert message in last
    assert "Traceback" not in done.stderr


def test_other_settings_in_the_same_folder_are_refused_by_name(finished):
    out, _ = finished
    done = finish(out, "--seed", "5")
    assert done.returncode == 2
    assert "seed" in done.stderr
