"""The README's code runs as it stands there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
README = (REPOSITORY / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def shell_lines():
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with what the README's reader is said to have: a checkout's NPU files, a model, prompts, a study."""
    from accuracy.reference import MODEL_FOLDER, examples

    folder = tmp_path_factory.mktemp("readme")
    (folder / "hwsim").symlink_to(REPOSITORY / "hwsim")
    (folder / "my-model").symlink_to(MODEL_FOLDER)
    with (folder / "my-prompts.jsonl").open("w") as file, (folder / "my-text.txt").open("w") as text:
        for example in examples("calib", 40):
            print(json.dumps({"prompt": example.prompt, "reference": example.reference}), file=file)
            print(example.reference, file=text)
    for block in blocks("yaml"):
        name = re.match(r"# (\S+\.yaml)\n", block)
        assert name, "a YAML block of the README begins with a comment that names its file"
        (folder / name[1]).write_text(block)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_shell_line_runs_in_order(workspace):
    ran = 0
    for line in shell_lines():
        words = shlex.split(line.split(" > ")[0]) if " > " in line else shlex.split(line)
        if words[0] == "make":
            subprocess.run(["make", "--dry-run", words[1]], check=True, capture_output=True, cwd=REPOSITORY)
            continue
        if words[0] == "bittaper":
            words = [sys.executable, "-m", "studies.cli", *words[1:]]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=workspace, env=environment)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if " > " in line:
            (workspace / line.split(" > ")[1].strip()).write_text(done.stdout)
        ran += 1
    assert ran >= 10


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert "tokens/s" in capsys.readouterr().out


def test_every_command_is_in_the_table():
    from studies.cli import COMMANDS

    for name in COMMANDS:
        assert f"| `bittaper {name}" in README


def test_every_local_link_and_picture_exists():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target
