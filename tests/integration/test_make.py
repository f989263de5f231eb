"""The Makefile's promises that need no installation."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def dry_run(cwd, *targets):
    done = subprocess.run(["make", "--dry-run", *targets], capture_output=True, text=True, check=True, cwd=cwd)
    return done.stdout


def test_a_second_make_does_not_reinstall(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    assert "pip install" in dry_run(tmp_path, "study")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    assert "pip install" not in dry_run(tmp_path, "study", "test", "test-slow")


def test_torch_is_pinned_and_installed_before_anything_that_could_pull_another_build(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    installs = [line for line in dry_run(tmp_path, "setup").splitlines() if "pip install" in line]
    assert all("--constraint constraints.txt" in line for line in installs)
    assert installs[0].endswith(" torch")
    assert any(line.startswith("torch==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines())


def test_ci_runs_the_quick_and_the_slow_tests():
    script = (REPOSITORY / ".ci" / "run").read_text()
    assert "make test\n" in script
    assert "make test-slow\n" in script
