"""The validation as a user runs it, and the kept table against that run."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

import studies.validation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEPT = Path(studies.validation.__file__).parent / "results"
TABLES = ("validation", "fitted", "roofline", "figure5", "systolic", "flightllm", "devices", "prefill", "dram")
FIGURES = ("overview", "roofline", "figure5", "systolic", "flightllm", "devices", "prefill", "dram")
STALE = "run: bittaper study validation --out studies/validation/results"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("validation") / "results"
    command = [sys.executable, "-m", "studies.cli", "study", "validation", "--out", str(out), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr
    return out, done


def table(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", TABLES)
def test_the_kept_numbers_are_those_of_a_fresh_run(finished, name):
    fresh, kept = table(finished[0], name), table(KEPT, name)
    assert len(fresh) == len(kept), STALE
    for new, old in zip(fresh, kept, strict=True):
        assert new.keys() == old.keys()
        for column, value in new.items():
            try:
                expected = pytest.approx(float(old[column]), rel=1e-6, abs=1e-9)
                assert float(value) == expected, f"{STALE}: {column} of {new}"
            except ValueError:
                assert value == old[column], f"{STALE}: {column} of {new}"


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_kept(finished, name):
    for folder in (finished[0], KEPT):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_verdicts_failures_and_every_fitted_parameter(finished):
    out, done = finished
    for row in table(out, "validation"):
        if row["verdict"] == "fail":
            assert row["case"] in done.stdout
    for one in table(out, "fitted"):
        assert one["name"] in done.stdout


def test_the_manifest_says_where_the_numbers_come_from():
    manifest = (KEPT / "manifest.json").read_text()
    for word in ("commit", "numpy", "python", "machine", "seconds", "validation.csv"):
        assert f'"{word}"' in manifest
