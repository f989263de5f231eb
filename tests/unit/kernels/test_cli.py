"""``python -m kernels`` and ``kernels/gpu_check.sh``: what they say, their exit codes, and what they leave behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import KernelError, cli

REPOSITORY = Path(__file__).parents[3]
SCRIPT = REPOSITORY / "kernels" / "gpu_check.sh"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
NO_GPU = "timing needs an NVIDIA GPU; nothing was measured"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.SUBCOMMANDS)])
def test_help_exits_with_0_and_shows_examples(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "python -m kernels" in (out.partition("examples:")[2] if command else out)


def test_examples_are_arguments_that_parse() -> None:
    for name, command in cli.SUBCOMMANDS.items():
        for example in command.examples:
            args = cli.build_parser().parse_args(example.split())
            assert (args.kernels_command, args.kernels_run) == (name, command.run)


def test_help_needs_neither_torch_nor_triton() -> None:
    code = (
        "import sys\n"
        "from kernels.cli import build_parser\n"
        "build_parser().parse_args(['bench'])\n"
        "print([name for name in ('torch', 'triton', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("bench", "--only", "linear"), "--only linear: must be some of"),
        (("bench", "--models", "vicuna"), "did you mean vicuna-7b"),
        (("bench", "--minutes", "0"), "--minutes 0: must be above 0"),
        (("bench", "--batch", "1,9"), "--batch 9: must be 1..8"),
        (("bench", "--batch", "one"), "'one' must be integers with commas"),
        (("bench", "--jobs", "0"), "--jobs 0: must be >= 1"),
        (("tune", "--widths", "9"), "--widths 9: must be 2..8"),
        (("check", "--jobs", "-1"), "--jobs -1: must be >= 1"),
        (("check", "--device", "gpu"), "invalid choice: 'gpu'"),
        (("benc",), "invalid choice: 'benc'"),
        ((), "COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert err.count("\n") == 1


@without_gpu
@pytest.mark.parametrize("command", ["bench", "tune"])
def test_without_a_gpu_measuring_is_refused_in_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    pytest.importorskip("triton")
    code, _, err = run(capsys, command, "--out", str(tmp_path / "out"))
    assert code == 2
    assert err == f"python -m kernels: error: no GPU is visible: {NO_GPU}\n"
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kernels.bench.run.bench", interrupted)
    code, _, err = run(capsys, "bench")
    assert code == 130
    assert "--resume" in err


@pytest.mark.parametrize(("failed", "code"), [({}, 0), ({"a": "failed: RuntimeError: x"}, 1)])
def test_a_benchmark_prints_the_goals_and_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, failed: dict[str, str], code: int
) -> None:
    goal = {"goal": "speed", "weight_bits": 4, "at_least": 2.0, "measured": 1.5, "worst": "1x1", "result": "miss"}
    summary = {
        "device": {"device": "GPU A"},
        "done": ["b"],
        "failed": failed,
        "skipped": {"c": "needs about 9 s, 3 s left"},
        "without_times": ["b: wrong: error 1"],
        "goals": [goal],
    }
    monkeypatch.setattr("kernels.bench.run.bench", lambda *_, **__: summary)
    got, out, _ = run(capsys, "bench", "--out", "x")
    assert got == code
    for text in ("miss", "skipped: c: needs about 9 s", "no time: b: wrong: error 1", "x: 1 parts measured on GPU A"):
        assert text in out
    assert ("failed: a: failed: RuntimeError: x" in out) == bool(failed)
    assert json.loads(run(capsys, "bench", "--json")[1]) == summary


@pytest.mark.parametrize("passed", [True, False])
def test_a_check_ends_with_the_count_and_a_failure_with_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passed: bool
) -> None:
    from kernels.check import Finding

    pytest.importorskip("triton")

    def found(task: object, jobs: int, report: object) -> list[Finding]:
        findings = [Finding("a", True, "error 0", {}, 0.1), Finding("b", passed, "error 1", {"error": 1.0}, 0.1)]
        for finding in findings:
            report(finding)
        return findings

    monkeypatch.setattr("kernels.check.check", found)
    code, out, _ = run(capsys, "check", "--device", "cpu", "--csv", str(tmp_path / "check.csv"))
    assert code == (0 if passed else 1)
    assert f"{2 if passed else 1} of 2 checks hold in Triton's CPU interpreter" in out
    assert ("FAIL  b" in out) != passed
    assert (tmp_path / "check.csv").read_text().count("\n") == 3
    code, out, _ = run(capsys, "check", "--device", "cpu", "--json")
    assert json.loads(out)["failed"] == ([] if passed else ["b"])


def test_a_missing_package_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(KernelError, match="triton is not installed: pip install triton"):
        cli._need_torch()
    assert run(capsys, "check")[0] == 2


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        timeout=120,
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
class TestGpuCheck:
    def test_a_dry_run_prints_every_part_within_eight_minutes_and_runs_none(self, tmp_path: Path) -> None:
        done = script("--dry-run", str(tmp_path / "out"))
        assert done.returncode == 0, done.stderr
        parts = {line.split()[0]: int(line.split()[3]) for line in done.stdout.splitlines()}
        assert list(parts) == ["tests", "check", "tune", "bench"]
        # Tests and checks run side by side.
        assert sum(parts.values()) - parts["check"] <= 8 * 60
        assert not (tmp_path / "out").exists()

    def test_every_command_of_the_plan_parses(self) -> None:
        for line in script("--dry-run", "out").stdout.splitlines():
            _, _, command = line.partition("-m kernels ")
            if command:
                cli.build_parser().parse_args(command.split())

    @without_gpu
    def test_without_a_gpu_it_says_so_in_one_line_and_leaves_nothing(self, tmp_path: Path) -> None:
        done = script(str(tmp_path / "out"))
        assert done.returncode == 3
        assert done.stderr == "gpu_check.sh: torch sees no NVIDIA GPU; nothing was run or written\n"
        assert done.stdout == ""
        assert not (tmp_path / "out").exists()

    def test_a_python_that_does_not_exist_is_no_gpu(self, tmp_path: Path) -> None:
        done = script(str(tmp_path / "out"), PYTHON="no-such-python")
        assert done.returncode == 3
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("broken", "code"), [("", 0), ("tune", 1), ("pytest", 1)])
    def test_a_part_that_fails_is_named_and_the_others_run(self, tmp_path: Path, broken: str, code: int) -> None:
        """The script alone: an interpreter that only notes what it is asked to run stands in for Python and the GPU."""
        python = tmp_path / "python"
        python.write_text(
            "#!/usr/bin/env bash\n"
            f'echo "$* tuning=${{BITTAPER_TUNING:-}} interpret=${{TRITON_INTERPRET:-}}" >> "{tmp_path}/calls"\n'
            '[[ "$*" == *"kernels tune"* ]] && mkdir -p "${@: -1}" && echo "{}" > "${@: -1}/gpu-a.json"\n'
            '[[ "$1" == "-" ]] && echo "device  GPU A"\n'
            f'[[ "{broken}" != "" && "$2" == "{broken}" || "{broken}" != "" && "$3" == "{broken}" ]] && exit 7\n'
            "exit 0\n"
        )
        python.chmod(0o755)
        done = script(str(tmp_path / "out"), PYTHON=str(python), TRITON_INTERPRET="1")
        assert done.returncode == code, done.stderr
        summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
        assert [line.split()[0] for line in summary] == ["check", "tests", "tune", "bench"]
        failed = [line.split()[0] for line in summary if "failed with exit code" in line]
        assert failed == ([{"pytest": "tests"}.get(broken, broken)] if broken else [])
        calls = (tmp_path / "calls").read_text().splitlines()
        assert all(call.endswith("interpret=") for call in calls)
        (bench,) = [call for call in calls if "kernels bench" in call]
        assert f"tuning={tmp_path}/out/tuning/gpu-a.json" in bench
        tested = [call for call in calls if "-m pytest" in call]
        assert any("test_gemv.py" in call for call in tested)
        assert (tmp_path / "out" / "device.txt").read_text() == "device  GPU A\n"
        if broken == "pytest":
            assert "exit code 7, see" in done.stdout

    @pytest.mark.parametrize("arguments", [("--fast",), ("a", "b")])
    def test_wrong_arguments_are_refused(self, arguments: tuple[str, ...]) -> None:
        done = script(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1

    def test_help_says_what_the_exit_codes_mean(self) -> None:
        done = script("--help")
        assert done.returncode == 0
        assert "3: no usable GPU here" in " ".join(done.stdout.split())
