"""The pieces of the checks that can be known without the checks: bytes, contexts, fits, and what is kept."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import studies.validation
from hwsim import roofline_cycles, simulate
from hwsim.trace import Schedule, synthetic_trace
from studies.validation import devices, figure5, flightllm, systolic
from studies.validation.ideal import bandwidth_bound_npu
from studies.validation.table import read_data

STUDY = Path(studies.validation.__file__).parent
RESULTS = STUDY / "results"
PROPERTIES = Path(__file__).parents[2] / "hwsim" / "test_properties.py"


def test_an_idealised_memory_takes_bytes_over_bandwidth():
    npu, shape = bandwidth_bound_npu(20e9), devices.read_speeds()[0].shape
    trace = synthetic_trace(shape, Schedule.uniform(4), prompt_tokens=1, decode_tokens=3)
    result = simulate(npu, shape, trace)
    assert result.cycles / npu.clock_hz == pytest.approx(result.dram_bytes / 20e9, rel=1e-3)
    assert result.cycles >= roofline_cycles(npu, shape, trace)


def test_every_published_speed_is_counted_and_within_2_percent_of_its_published_bytes():
    speeds = devices.read_speeds()
    assert {speed.id for speed in speeds} == {row["id"] for row in read_data("device_models")}
    for speed in speeds:
        assert speed.weight_bytes == pytest.approx(speed.published_bytes, rel=0.021), speed.id


def test_a_device_made_of_two_parameters_is_found_again():
    made = devices.Device(0.8, 150e-6)
    speeds = [speed for speed in devices.read_speeds() if speed.device == "Rockchip RK3588 NPU"]
    speeds = [replace(speed, measured=1 / speed.token_s(made)) for speed in speeds]
    found = devices.fit(speeds, overhead=True)
    assert found.share == pytest.approx(made.share, rel=2e-3)
    assert found.overhead_s == pytest.approx(made.overhead_s, rel=2e-2)
    assert devices.fit(speeds[:1], overhead=False).overhead_s == 0


def test_a_device_faster_than_its_bandwidth_is_not_fitted_beyond_it():
    speeds = [speed for speed in devices.read_speeds() if speed.device == "Rockchip RK3588 NPU"]
    speeds = [replace(speed, measured=1.2 / speed.token_s(devices.ROOFLINE)) for speed in speeds]
    found = devices.fit(speeds, overhead=True)
    assert (found.share, found.overhead_s) == (1.0, 0.0)
    assert devices.fit(speeds, overhead=False).share == 1.0


def test_flightllms_steps_attend_to_whole_buckets():
    # 128 + 1 .. 128 + 16 are 144, and so on up to 640: 16 times each of 144, 160, .., 640.
    assert flightllm.Case(128, 512, 0, 0).mean_context == (144 + 640) / 2
    assert flightllm.Case(512, 1536, 0, 0).mean_context == (528 + 2048) / 2


def test_the_analytic_mode_meets_figure_5_and_codebook_traffic_cannot_be_told_from_context():
    outcome = figure5.check()
    rms = {row.case.partition(": ")[2]: row.predicted for row in outcome.rows if row.case.startswith("rms over")}
    assert len(rms) == 4
    # Rounding of the labels alone gives about 0.6%.
    assert 0.006 < rms[str(figure5.PUBLISHED_CHOICE)] <= 0.0085
    assert rms["N-2 steps where bits switch, with codebook traffic"] <= 0.0095
    assert len(outcome.fitted) == 8
    assert len(outcome.details) == 18


def test_systolic_arrays_differ_from_scale_sim_by_no_cycle():
    outcome = systolic.check()
    assert {row.verdict for row in outcome.rows} == {"pass"}
    assert len(outcome.details) == 42


def test_the_study_needs_no_ml_stack():
    code = "import sys; sys.modules.update(torch=None, transformers=None); import studies.validation.run"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_property_tests_that_the_readme_names_exist():
    named = re.findall(r"`(test_\w+)`", (STUDY / "README.md").read_text())
    assert len(named) >= 8
    source = PROPERTIES.read_text()
    assert all(f"def {name}(" in source for name in named)


def kept():
    return json.loads((RESULTS / "validation.json").read_text())


def test_the_kept_table_holds_every_check_and_says_the_same_in_both_formats():
    rows = kept()["rows"]
    assert [check[0] for check in dict.fromkeys(row["check"] for row in rows)] == ["1", "2", "3", "4", "5", "6", "7"]
    with (RESULTS / "validation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["check"], row["case"], row["verdict"]) for row in table] == [
        (row["check"], row["case"], row["verdict"]) for row in rows
    ]


def test_every_parameter_a_row_was_fitted_with_is_listed():
    found = kept()
    fitted = {one["check"] for one in found["fitted"]}
    assert {row["check"] for row in found["rows"] if row["fitted"]} == fitted
    assert all(one["value"] > 0 and one["unit"] and one["fitted_to"] for one in found["fitted"])
