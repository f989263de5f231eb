"""``bittaper kernels``: the same commands under the project's own name."""

import pytest

from kernels import KernelError
from kernels import cli as kernels_cli
from studies import cli

torch = pytest.importorskip("torch")


def run(capsys, *arguments):
    try:
        code = cli.main(["kernels", *arguments])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("name", kernels_cli.SUBCOMMANDS)
def test_every_command_has_help_with_examples_under_this_name(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert f"bittaper kernels {name}" in out.partition("examples:")[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["bench", "tune"])
def test_without_a_gpu_measuring_is_one_line_and_exit_code_2(capsys, tmp_path, name):
    pytest.importorskip("triton")
    code, out, err = run(capsys, name, "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert err == "bittaper: error: no GPU is visible: timing needs an NVIDIA GPU; nothing was measured\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("result", "code"), [(0, 0), (1, 1)])
def test_the_exit_code_is_the_commands_own(capsys, monkeypatch, result, code):
    monkeypatch.setattr(
        kernels_cli,
        "SUBCOMMANDS",
        {"check": kernels_cli.Subcommand("s", ("check",), lambda parser: None, lambda args: result)},
    )
    assert run(capsys, "check")[0] == code


def test_what_the_user_can_mend_is_one_line(capsys, monkeypatch):
    def fail(args):
        raise KernelError("M = 9: must be 1..8")

    monkeypatch.setattr(
        kernels_cli, "SUBCOMMANDS", {"check": kernels_cli.Subcommand("s", ("check",), lambda parser: None, fail)}
    )
    assert run(capsys, "check") == (2, "", "bittaper: error: M = 9: must be 1..8\n")


def test_the_learned_scheduler_is_timed_for_a_shape():
    from kernels.bench.tables import PROVENANCE
    from stand_in_clock import StandInTimer, stand_in_session
    from studies.common.scheduler_time import COLUMNS, scheduler_row

    session = stand_in_session(StandInTimer(us_per_call=70.0))
    row = scheduler_row(session, "mobilellama-1.4b", 8)
    assert tuple(row) == COLUMNS
    assert not set(row) & set(PROVENANCE)
    assert (row["p50_us"], row["n"], row["input"]) == (70.0, 100, "kv-last")
    # One query a head, a layer norm, one hidden layer as wide as its input, and four classes.
    assert row["parameters"] == 2048 + 2 * 2048 + 2049 * 2048 + 2049 * 4


def test_the_scheduler_is_timed_only_after_responses(monkeypatch, tmp_path):
    from studies.commands import kernels

    timed = []
    monkeypatch.setattr(kernels, "_time_scheduler", lambda *arguments: timed.append(arguments))
    monkeypatch.setitem(
        kernels_cli.SUBCOMMANDS,
        "bench",
        kernels_cli.Subcommand("s", (), kernels_cli._configure_bench, lambda args: 0),
    )
    for only, times in (("linears", 0), ("decode", 1)):
        assert cli.main(["kernels", "bench", "--only", only, "--models", "phi-1.5", "--out", str(tmp_path)]) == 0
        assert len(timed) == times
    assert timed == [(tmp_path, ("phi-1.5",), 128)]
