"""Results are made once, kept by their settings, left out where they cannot be made, and go on after a kill."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsim.trace import InputError
from studies.common.report_folder import find_study_folders, study_report
from studies.paper import catalogue, command, report, run
from studies.paper.comparison import Comparison, Found
from studies.paper.files import read_result
from studies.paper.report import headlines
from studies.paper.result import Request, Result


def comparison(ours: float, *, same_subject: bool = True) -> Comparison:
    return Comparison(
        case="one", quantity="speed", unit="ratio", paper=2.0, paper_basis="Table 0", ours=ours, our_basis="here",
        kind="derived", same_subject=same_subject, n=3, headline=True,
    )  # fmt: skip


class Counted:
    """A result that counts how often it is made."""

    def __init__(self, name: str, *, missing: bool = False) -> None:
        self.made = 0
        self.version = 1
        self._missing = missing
        self.result = Result(
            name=name, title=f"Result {name}", takes="1 s", runs_on="nothing", paper="p", ours="o", why="w",
            caption="c", compute=self.compute, settings=self.settings, draw=self.draw,
        )  # fmt: skip

    def settings(self, request: Request) -> Mapping[str, Any]:
        if self._missing:
            raise InputError("no questions; give --questions")
        return {"version": self.version}

    def compute(self, request: Request) -> Found:
        self.made += 1
        return Found([comparison(2.5)], {"rows": [{"a": 1}, {"a": 2, "b": float("nan")}]}, {"n": 3})

    def draw(self, out: Path, name: str) -> list[Path]:
        path = out / f"{name}.svg"
        path.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>')
        return [path]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    made = {"a": Counted("a"), "b": Counted("b"), "none": Counted("none", missing=True)}
    results = {name: one.result for name, one in made.items()}
    for module in (catalogue, run, report):
        monkeypatch.setattr(module, "RESULTS", results)
    return made


def request_in(out: Path) -> Request:
    return Request(out, progress=False)


def test_a_difference_is_taken_only_of_the_same_subject() -> None:
    assert comparison(2.5).difference == 0.5
    assert comparison(2.5, same_subject=False).difference is None


def test_a_difference_that_only_floats_make_is_none_without_a_sign() -> None:
    assert str(replace(comparison(41.0 - 39.6), paper=1.4).difference) == "0.0"


def test_what_is_there_is_not_made_again_unless_its_settings_changed(tmp_path: Path, known: dict[str, Counted]) -> None:
    run.run_paper(request_in(tmp_path), ["a"])
    run.run_paper(request_in(tmp_path), ["a", "b"])
    assert (known["a"].made, known["b"].made) == (1, 1)
    known["a"].version = 2
    run.run_paper(request_in(tmp_path), ["a", "b"])
    assert (known["a"].made, known["b"].made) == (2, 1)


def test_a_figure_that_a_kill_left_out_is_drawn_the_next_time(tmp_path: Path, known: dict[str, Counted]) -> None:
    run.run_paper(request_in(tmp_path), ["a"])
    (tmp_path / "a.svg").unlink()
    run.run_paper(request_in(tmp_path), ["a"])
    assert (tmp_path / "a.svg").is_file()
    assert known["a"].made == 1


def test_a_result_of_another_version_or_a_cut_one_is_refused_and_left_as_it_is(
    tmp_path: Path, known: dict[str, Counted]
) -> None:
    run.run_paper(request_in(tmp_path), ["a"])
    path = tmp_path / "a.json"
    value = json.loads(path.read_text())
    for broken, what in (({**value, "schema_version": "2.0"}, "another version"), ({"settings": {}}, "has no 'name'")):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=what):
            run.run_paper(request_in(tmp_path), ["a"])
        assert json.loads(path.read_text()) == broken
    path.write_text(path.read_text()[:5])
    with pytest.raises(InputError, match=str(path)):
        run.run_paper(request_in(tmp_path), ["a"])


def test_all_results_leave_out_what_cannot_be_made_and_say_why(tmp_path: Path, known: dict[str, Counted]) -> None:
    assert run.run_paper(request_in(tmp_path)) == {"none": "no questions; give --questions"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["results"]) == ["a", "b"]
    assert "no questions" in (tmp_path / "summary.md").read_text()
    with pytest.raises(InputError, match="give --questions"):
        run.run_paper(request_in(tmp_path), ["none"])


def test_the_folder_is_one_that_a_report_is_made_of(tmp_path: Path, known: dict[str, Counted]) -> None:
    run.run_paper(request_in(tmp_path), ["a"])
    (folder,) = find_study_folders(tmp_path)
    found = study_report(folder)
    assert folder.name == "paper"
    assert [section.title for section in found.sections] == ["Result a"]
    text = (tmp_path / "summary.md").read_text()
    assert "| speed | one | 2 | 2.5 | ratio | 3 | Table 0 | here | derived | 0.5 |" in text
    assert "| how | difference |" in text


def test_a_table_without_any_difference_has_no_column_of_it(tmp_path: Path, known: dict[str, Counted]) -> None:
    found = Found([comparison(2.5, same_subject=False)])
    run.RESULTS["a"] = replace(known["a"].result, compute=lambda request: found)
    run.run_paper(request_in(tmp_path), ["a"])
    text = (tmp_path / "summary.md").read_text()
    assert "| speed | one | 2 | 2.5 | ratio | 3 | Table 0 | here | derived |\n" in text
    assert "| difference |" not in text


def test_a_terminal_shows_the_paper_beside_ours(tmp_path: Path, known: dict[str, Counted]) -> None:
    run.run_paper(request_in(tmp_path), ["a"])
    assert headlines(read_result(tmp_path, "a")) == [["speed", "one", "2", "2.5", "ratio", "3", "derived"]]


def test_an_unknown_result_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="table-2"):
        run.run_paper(request_in(tmp_path), ["tabel-2"])


def command_line(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return parser.parse_args(words)


def test_the_list_names_every_result(capsys: pytest.CaptureFixture[str]) -> None:
    command.run(command_line("--list"))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:]] == list(catalogue.RESULTS)
    assert {"fig-2", "fig-3", "fig-5", "fig-6", "fig-7"} < set(catalogue.RESULTS)
    assert {f"table-{number}" for number in (1, 2, 3, 4, 5, 6, 9)} < set(catalogue.RESULTS)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--data", "mine.jsonl"), "--data mine.jsonl: is for --model"),
        (("--max-new-tokens", "9"), "--max-new-tokens 9: is for --model"),
        (("--task", "dialogsum"), "--task dialogsum: is for --model"),
        (("--device", "cuda"), "--device cuda: is for --model"),
        (("--model", "m", "--subject", "selvic"), "--model m: takes the place of --subject"),
        (("--model", "m", "--pmpd", "p"), "--model m: takes the place of --pmpd"),
        (("--only", "fig-3", "--pmpd", "nowhere"), "--pmpd nowhere: holds no scores.csv"),
        (("--only", "fig-3", "--subject", "vicuna"), "--subject vicuna: not at hand"),
        (("--only", "table-3", "--measured", "nowhere"), "nowhere"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path: Path, words: tuple[str, ...], what: str) -> None:
    with pytest.raises(InputError, match=what):
        command.run(command_line("--out", str(tmp_path), "--quiet", *words))


def test_the_help_says_what_an_own_model_is_asked_by_default() -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    text = " ".join(parser.format_help().split())
    assert "(default without --data: to continue beginnings that the model samples itself)" in text
    assert "perplexity" not in text


def test_the_kept_run_on_four_models_is_read_in_a_moment(tmp_path: Path) -> None:
    command.run(command_line("--out", str(tmp_path), "--quiet", "--pmpd", "kept", "--only", "table-4"))
    claims = json.loads((tmp_path / "table-4.json").read_text())["comparisons"]
    prefill = next(row for row in claims if row["quantity"] == "holds: high prefill helps low decoding")
    assert (prefill["ours"], prefill["n"]) == (1.0, 8)
    text = (tmp_path / "summary.md").read_text()
    assert "`bittaper study paper --only table-4`" in text
    assert "on selvic (selvic 2, test, 320 prompts), stories260K (" in text


def start(out: Path, *names: str) -> subprocess.Popen[bytes]:
    """Begin a run of some results in a process of its own."""
    only = [word for name in names for word in ("--only", name)]
    words = ["study", "paper", "--quick", "--quiet", "--out", str(out), *only]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "studies.cli", *words], env=environment, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed, "table-4")
    while not (kept := list(killed.glob("pmpd/work/*/nested/responses.jsonl"))) or not kept[0].stat().st_size:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "table-4.json").exists()
    assert start(killed, "table-4").wait() == 0
    assert start(whole, "table-4").wait() == 0
    for table in ("table-4.csv", "table-4-scores.csv"):
        assert (killed / table).read_bytes() == (whole / table).read_bytes()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_another_result_of_the_same_model_leaves_what_is_there(tmp_path: Path) -> None:
    assert start(tmp_path, "table-4", "fig-6").wait() == 0
    made = (tmp_path / "table-4.json").stat().st_mtime_ns
    assert start(tmp_path, "table-4", "fig-3").wait() == 0
    assert (tmp_path / "table-4.json").stat().st_mtime_ns == made
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["results"]) == ["fig-3", "fig-6", "table-4"]
