"""The built wheel in a clean virtual environment: the architect's tools without torch or triton."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
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


WHEEL_BYTES = 10e6
PACKAGES = ("hwsim", "kernels", "accuracy", "dse", "studies")
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

TYPED_SCRIPT = """\
import hwsim
from dse import read_study
from hwsim.trace import Schedule

bits: int = Schedule.from_label("p4:4>3@20").bits_at(0)
name: str = hwsim.load_npu("pmpd-4k").name
seed: int = read_study("study.yaml").seed
wrong: str = Schedule.uniform(4).bits_at(0)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with an sdist and the wheel that was built from it, as a package index would get them."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, REPOSITORY], check=True, timeout=600)
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built):
    (path,) = built.glob("*.tar.gz")
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


def tracked(*folders):
    """Files under version control, or those of the tree where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert listed.returncode == 0, "these tests compare with what is under version control"
    return {name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists()}


def test_the_wheel_holds_every_file_of_the_packages_but_pictures_and_no_tests(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("bittaper-")}
    assert {name.split("/")[0] for name in names} == set(PACKAGES)
    left_out = tracked(*PACKAGES) - names
    # Of a picture that the report shows, the drawing is there.
    drawings = {name.removesuffix(".png") + ".svg" for name in left_out - {"studies/demo/page.png"}}
    assert drawings and drawings <= names
    assert wheel.stat().st_size < WHEEL_BYTES
    for needed in (
        "hwsim/npus/pmpd-4k.yaml",
        "hwsim/trace/schemas/trace_header.schema.json",
        "dse/schemas/study.schema.json",
        "dse/published/pmpd-table1.json",
        "studies/common/report.html.j2",
        "studies/codesign/study.yaml",
        "accuracy/reference/selvic-llama/model.safetensors",
        "accuracy/reference/selvic-scheduler/scheduler.safetensors",
        *(f"{package}/py.typed" for package in PACKAGES),
    ):
        assert needed in names


def test_the_wheel_says_its_version_licence_and_notices(wheel):
    folder = f"bittaper-{VERSION}.dist-info"
    archive = zipfile.ZipFile(wheel)
    about = archive.read(f"{folder}/METADATA").decode()
    assert f"\nVersion: {VERSION}\n" in about and "\nLicense-Expression: Apache-2.0\n" in about
    assert "Classifier: Typing :: Typed" in about
    for name in ("LICENSE", "THIRD-PARTY-NOTICES.md"):
        assert archive.read(f"{folder}/licenses/{name}") == (REPOSITORY / name).read_bytes()


def test_the_sdist_holds_everything_that_is_under_version_control(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    left_out = tracked() - names
    assert left_out == set(), left_out
    assert not [name for name in names if name.startswith(("docs/_build", "docs/_generated", "results/"))]


def test_a_users_script_is_checked_against_our_types(clean, tmp_path):
    """The checker is ours; the packages it sees are those of the wheel."""
    (tmp_path / "script.py").write_text(TYPED_SCRIPT)
    command = [sys.executable, "-m", "mypy", "--python-executable", clean / "bin" / "python", "script.py"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MYPY"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    problems = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(problems) == 1 and problems[0].startswith("script.py:8:"), done.stdout


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


def test_the_report_of_the_kept_results_is_that_of_the_sdist(clean, sdist, tmp_path):
    """Whatever pictures the wheel leaves out."""
    from studies.common.collection import write_collection

    done = run(clean, tmp_path, "bittaper", "report")
    assert done.returncode == 0, done.stderr
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    write_collection([tmp_path / f"bittaper-{VERSION}" / "studies"], tmp_path / "whole.html")
    assert (tmp_path / "report.html").read_bytes() == (tmp_path / "whole.html").read_bytes()


def test_a_command_that_needs_torch_says_how_to_get_it(clean, tmp_path):
    done = run(clean, tmp_path, "bittaper", "quantize", "in", "out")
    assert done.returncode == 2
    assert "pip install 'bittaper[accuracy]'" in done.stderr
    assert done.stderr.count("\n") == 1
