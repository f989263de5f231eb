"""What the distribution promises to bring."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
REQUIRED = {
    "datasets",
    "matplotlib",
    "numpy",
    "optuna",
    "pandas",
    "pytest",
    "rouge-score",
    "sacrebleu",
    "simpy",
    "torch",
    "transformers",
    "triton",
}


def names(requirements):
    return {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in requirements}


def test_every_required_package_comes_with_the_base_or_an_extra():
    everything = names(PROJECT["dependencies"]).union(*map(names, PROJECT["optional-dependencies"].values()))
    assert everything >= REQUIRED


def test_the_base_brings_no_ml_stack():
    assert not names(PROJECT["dependencies"]) & {"torch", "triton", "transformers", "datasets", "numba"}


def test_the_extras_are_the_promised_ones():
    promised = {"accuracy", "gpu", "bench", "demo", "cluster", "parquet", "docs", "dev"}
    assert set(PROJECT["optional-dependencies"]) == promised


def test_whatever_setup_installs_is_pinned():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = PROJECT["optional-dependencies"]
    installed = names([*PROJECT["dependencies"], *(name for extra in extras.values() for name in extra)]) - {"bittaper"}
    assert {name.replace("_", "-") for name in installed} <= pinned
