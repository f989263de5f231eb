"""The commit of a run, in real git repositories: what a run writes itself is no change of the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hwsim.trace import collect_provenance
from hwsim.trace.provenance import commit_of

ODD = "study/re*[s] :ults"
FILES = (
    f"{ODD}/a.csv",
    "code/engine.py",
    "code/npu.yaml",
    "study/results/speed.csv",
    "study/results/deep/er.csv",
    "study/run.py",
)


@pytest.fixture
def checkout(tmp_path):
    """A repository of code with the kept results of a study."""

    def git(*command):
        options = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *options, *command], cwd=tmp_path, check=True, capture_output=True)

    for name in FILES:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    return tmp_path


def is_dirty(checkout, results=None):
    return commit_of(checkout / "code/engine.py", results).endswith("-dirty")


@pytest.mark.parametrize("changed", ["study/results/speed.csv", "study/results/deep/er.csv"])
def test_results_that_a_run_writes_do_not_make_its_code_dirty(checkout, monkeypatch, changed):
    (checkout / changed).write_text("2\n")
    assert is_dirty(checkout) and is_dirty(checkout, checkout / "elsewhere")
    assert not is_dirty(checkout, checkout / "study/results")
    monkeypatch.chdir(checkout / "study")
    assert not is_dirty(checkout, Path("results"))
    assert not is_dirty(checkout, Path("../study/results/"))


def test_results_that_are_gone_new_or_of_an_odd_name_are_a_runs_own_too(checkout):
    (checkout / "study/results/speed.csv").unlink()
    (checkout / "study/results/new.csv").write_text("1\n")
    assert not is_dirty(checkout, checkout / "study/results")
    (checkout / ODD / "a.csv").write_text("2\n")
    assert is_dirty(checkout, checkout / "study/results")
    assert is_dirty(checkout, checkout / ODD), "the other study's results differ"
    subprocess.run(["git", "checkout", "-q", "--", "study/results"], cwd=checkout, check=True)
    assert not is_dirty(checkout, checkout / ODD)


@pytest.mark.parametrize("changed", ["code/npu.yaml", "code/engine.py", "study/run.py"])
def test_a_change_elsewhere_makes_it_dirty(checkout, changed):
    (checkout / "study/results/speed.csv").write_text("2\n")
    (checkout / changed).write_text("2\n")
    assert is_dirty(checkout, checkout / "study/results")


@pytest.mark.parametrize("results", [".", "code", "study", ".."])
def test_a_folder_that_holds_code_is_not_only_results(checkout, results):
    (checkout / ("code/npu.yaml" if results == "code" else "study/results/speed.csv")).write_text("2\n")
    assert is_dirty(checkout, checkout / results)


def test_what_is_not_tracked_is_no_change_and_has_no_commit_itself(checkout):
    (checkout / "code/new.py").write_text("1\n")
    assert not is_dirty(checkout)
    # As a package that is installed below a checkout of something else.
    assert commit_of(checkout / "code/new.py") == "unknown"


def test_without_a_repository_or_without_git_the_commit_is_unknown(tmp_path, checkout, monkeypatch):
    assert commit_of(Path(tmp_path.anchor) / "none.py") == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(checkout / "code/engine.py") == "unknown"


def test_a_run_says_what_it_ran_with_and_what_was_added(tmp_path):
    found = collect_provenance(tmp_path, seed=3)
    assert found["seed"] == "3" and {"commit", "created_utc", "python", "machine", "numpy"} <= found.keys()
