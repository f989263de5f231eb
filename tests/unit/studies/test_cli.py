import argparse
import errno
import json
import os
import re
import subprocess
import sys
import warnings

import pytest

from documents import REPOSITORY
from hwsim.trace import InputError
from studies import cli
from studies.commands.study import STUDIES


def run(capsys, *argv):
    try:
        code = cli.main(list(argv))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def failing(monkeypatch):
    """Let `bittaper doctor` raise the given error."""

    def install(error):
        def fail(args):
            raise error

        monkeypatch.setattr("studies.commands.doctor.run", fail)

    return install


def test_a_warning_is_one_line_without_its_place_in_the_code(capsys, monkeypatch):
    monkeypatch.setattr(
        "studies.commands.doctor.run", lambda args: warnings.warn("width 8 reads\n20 bits", stacklevel=1)
    )
    code, _, err = run(capsys, "doctor")
    assert code == 0
    assert err == "bittaper: warning: width 8 reads 20 bits\n"


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_and_version_exit_with_0(capsys, argv):
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert "bittaper" in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_shows_an_example(capsys, name):
    assert f"bittaper {name}" in cli.load_command(name).HELP.partition("examples:")[2]


def leaves(parser, words=()):
    """Every command that can be run, in words, with its parser."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield " ".join(words), parser
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))


WITHOUT_A_BAR = {
    # Seconds at most.
    *("simulate", "compare", "report", "npus", "models", "doctor"),
    *("explore ask", "explore why", "explore export"),
    # Their lines are their result; python -m kernels offers the same.
    *("kernels bench", "kernels tune", "kernels check"),
}


def test_every_command_takes_quiet_but_those_that_show_no_bar():
    found = {}
    for name in cli.COMMANDS:
        parser = argparse.ArgumentParser()
        cli.load_command(name).configure(parser)
        found |= {words: "--quiet" in leaf._option_string_actions for words, leaf in leaves(parser, (name,))}
    assert {words for words, quiet in found.items() if not quiet} == WITHOUT_A_BAR
    assert {f"study {name}" for name in STUDIES} <= set(found)


@pytest.mark.parametrize("words", [*((name,) for name in cli.COMMANDS), *(("study", name) for name in STUDIES)])
def test_a_shell_takes_no_schedule_of_an_example_for_a_redirection(capsys, words):
    with pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    assert not re.search(r"\sp\d+:\d+>", capsys.readouterr().out.partition("examples:")[2])


def test_a_schedule_without_quotes_is_refused_and_not_cut_short(tmp_path):
    command = (
        f"{sys.executable} -m studies.cli simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 8 --decode-tokens 4"
    )
    ran = subprocess.run(
        ["bash", "-c", f"{command} --schedule p4:4>3@2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, (tmp_path / "3@2").read_text()) == (2, "")
    assert (
        ran.stderr
        == "bittaper: error: the shell took >3@2 for a file to write to: put the schedule in quotes, remove 3@2\n"
    )


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    code, _, err = run(capsys, "simulat")
    assert code == 2
    assert "did you mean 'simulate'" in err


@pytest.mark.parametrize("argv", [["simulate"], ["simulate", "--modle", "x"], ["compare", "a"], []])
def test_a_usage_error_is_one_line_and_exit_code_2(capsys, argv):
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert err.count("\n") == 1
    assert "--help" in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("field = 3:\n must be > 4"), 2, "error: field = 3: must be > 4"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "out.json"), 2, "out.json: No space left on device"),
        (FileExistsError(errno.EEXIST, "File exists", "out"), 2, "out: File exists; nothing half-written was left"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "pip install 'bittaper[accuracy]'"),
    ],
)
def test_what_a_user_can_mend_is_one_line_without_a_traceback(capsys, failing, error, code, text):
    failing(error)
    got, _, err = run(capsys, "doctor")
    assert got == code
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError(errno.EIO, "I/O error"), ModuleNotFoundError(name="x")])
def test_a_bug_keeps_its_traceback(failing, error):
    failing(error)
    with pytest.raises(type(error)):
        cli.main(["doctor"])


def test_compare_prints_ratios(capsys, tmp_path):
    base = {"mode": "realistic", "engine": "events", "cycles": 100, "energy_j": 0.0, "label": "x"}
    (tmp_path / "a.json").write_text(json.dumps(base))
    (tmp_path / "b.json").write_text(json.dumps({**base, "cycles": 50}))
    code, out, _ = run(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json")
    assert code == 0
    rows = {row["quantity"]: row for row in json.loads(out)["rows"]}
    assert rows["cycles"]["b_over_a"] == 0.5
    assert rows["energy_j"]["b_over_a"] is None


def test_compare_refuses_results_of_different_modes_and_foreign_files(capsys, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"mode": "realistic", "engine": "events", "cycles": 1}))
    (tmp_path / "b.json").write_text(json.dumps({"mode": "pmpd-analytic", "engine": "events", "cycles": 1}))
    (tmp_path / "c.json").write_text("[1]")
    code, _, err = run(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert (code, "modes do not compare" in err) == (2, True)
    code, _, err = run(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "c.json"))
    assert (code, "c.json" in err) == (2, True)
