"""The built wheel in a clean virtual environment: the architect's tools without torch or triton."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STUDY = """\
schema_version: "1.0"
name: wheel-check
workloads:
  - {model: phi-1.5, prompt_tokens: 32, decode_tokens: 8}
npu: pmpd-4k
schedules: ["p4:4", "p3:3"]
parameters:
  memory.bandwidth_bytes_per_s: {type: float, low: 8.0e+9, high: 64.0e+9}
objectives:
  - {name: decode_tokens_per_s, direction: maximize}
  - {name: bandwidth_bytes_per_s, direction: minimize}
budget: 6
seed: 1
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", out, REPOSITORY], check=True, timeout=600)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """Folder of a fresh virtual environment holding the wheel and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--constraint", REPOSITORY / "constraints.txt", wheel], check=True, timeout=900)
    return folder


def run(clean, cwd, *argv):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [clean / "bin" / argv[0], *argv[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=300,
    )


def test_the_wheel_holds_the_packages_their_data_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.startswith("bittaper-")} == {
        "hwsim",
        "kernels",
        "accuracy",
        "dse",
        "studies",
    }
    for needed in (
        "hwsim/npus/pmpd-4k.yaml",
        "hwsim/trace/schemas/trace_header.schema.json",
        "studies/common/report.css",
        "studies/common/report.html.j2",
        "studies/common/report.js",
        "studies/codesign/study.yaml",
        "accuracy/reference/selvic-llama/model.safetensors",
    ):
        assert needed in names


def test_neither_torch_nor_triton_comes_with_the_bare_wheel(clean, tmp_path):
    done = run(clean, tmp_path, "python", "-m", "pip", "list", "--format=json")
    installed = {package["name"].lower() for package in json.loads(done.stdout)}
    assert {"bittaper", "simpy", "optuna"} <= installed
    assert not {"torch", "triton", "transformers"} & installed


def test_simulate_works(clean, tmp_path):
    argv = "bittaper simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 32 --decode-tokens 8 --weight-bits 4 --json"
    done = run(clean, tmp_path, *argv.split())
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # 24 blocks of 4 x 2048^2 + 2 x 2048 x 8192 weights at 4 bits over 32 GB/s cannot be read faster than this.
    assert 0 < result["decode_tokens_per_s"] < 32e9 / (24 * (4 * 2048**2 + 2 * 2048 * 8192) / 2)


def test_explore_works_and_goes_on_where_it_stopped(clean, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    argv = "bittaper explore run study.yaml --out out --quiet"
    done = run(clean, tmp_path, *argv.split())
    assert done.returncode == 0, done.stderr
    trials = (tmp_path / "out" / "trials.csv").read_text()
    assert len(trials.splitlines()) == 1 + 6
    assert (tmp_path / "out" / "pareto.csv").is_file()
    again = run(clean, tmp_path, *argv.split())
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "trials.csv").read_text() == trials


def test_a_command_that_needs_torch_says_how_to_get_it(clean, tmp_path):
    done = run(clean, tmp_path, "bittaper", "quantize", "in", "out")
    assert done.returncode == 2
    assert "pip install 'bittaper[accuracy]'" in done.stderr
    assert done.stderr.count("\n") == 1
