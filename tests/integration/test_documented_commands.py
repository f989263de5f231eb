"""Every command of every document is run by a test, as it is written: by which one follows from the line itself.

Lines of pages that take seconds are run top to bottom by ``test_documents.py``. What is left is here: commands that
take minutes (``make test-full`` prints how long each took beside what the documents say), pages that are served until
Ctrl-C, installations, and what needs a GPU, which runs where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import (
    REPOSITORY,
    SHIPPED_MODEL,
    ShellLine,
    all_lines,
    blocks,
    documents,
    minutes_of_studies,
    pages_that_run,
    parse_line,
    parser_of,
    said_duration,
    shell_lines,
)

RUN_HERE = pages_that_run()

KINDS = {
    "quick": "asks for help: run by a quick test",
    "synopsis": "shows what may be written: a quick test takes it apart",
    "gate": "what .ci/run begins with",
    "page": "takes seconds: its page is run top to bottom by a slow test",
    "served": "runs until Ctrl-C: a slow test opens what it serves, and ends it",
    "minutes": "run by a full test",
    "install": "run by a full test, in an environment of its own",
    "gpu": "run by a test where there is a GPU",
}


def kind_of(document: Path, line: ShellLine) -> str:
    """Which test runs a command of a document."""
    if line.words[-1] == "--help":
        return "quick"
    if line.is_synopsis:
        return "synopsis"
    if line.words == ("make", "test"):
        return "gate"
    if line.needs_gpu:
        return "gpu"
    if line.never_ends:
        return "served"
    if line.words[0] == "pip" or line.words == ("make", "setup"):
        return "install"
    in_page = any(block.language == "sh" and line in shell_lines(block) for block in blocks(document))
    # A page's `make` is only asked what it would do.
    seconds = document in RUN_HERE and in_page and not line.takes_minutes and line.words[0] != "make"
    return "page" if seconds else "minutes"


def every_line() -> Iterator[tuple[Path, ShellLine]]:
    for document in documents():
        for line in all_lines(document):
            yield document, line


def lines_of(kind: str) -> list[ShellLine]:
    """The different commands of a kind; what a page runs already, or another line of the same words, not again."""
    found: dict[tuple[object, ...], ShellLine] = {}
    elsewhere = {(line.words, line.out) for document, line in every_line() if kind_of(document, line) == "page"}
    for document, line in every_line():
        if kind_of(document, line) == kind and (kind == "page" or (line.words, line.out) not in elsewhere):
            known = found.get((line.words, line.out))
            if known is None or (said_duration(line) and not said_duration(known)):
                found[line.words, line.out] = line
    return list(found.values())


def minutes(line: ShellLine) -> float:
    """For the order: what is said to take longest comes last."""
    said = re.search(r"([\d.]+) (s|seconds?|minutes?|hours?)\b", said_duration(line))
    return float(said[1]) * {"s": 1 / 60, "m": 1, "h": 60}[said[2][0]] if said else 1.0


def name_of(line: ShellLine) -> str:
    return line.text


MINUTES = sorted(lines_of("minutes"), key=minutes)


def test_every_command_of_every_document_is_run_by_some_test():
    counted = dict.fromkeys(KINDS, 0)
    for document, line in every_line():
        counted[kind_of(document, line)] += 1  # a kind that no test has is an error here
    assert min(counted.values()) > 0, counted
    runs = {(line.words, line.out) for kind in KINDS for line in lines_of(kind)}
    assert {(line.words, line.out) for _, line in every_line()} == runs
    full = {(line.words, line.out) for line in MINUTES}
    for study in minutes_of_studies():
        assert (("bittaper", "study", study), None) in full, study


def test_no_block_hides_a_command_from_these_tests():
    for document in documents():
        seen = {line.text for line in all_lines(document)}
        for block in blocks(document):
            for text in block.text.splitlines():
                if re.match(r"(?:[A-Z_]+=\S* )?bittaper \w", text) and "..." not in text:
                    assert parse_line(text).text in seen, (document, text)


@pytest.mark.parametrize("line", lines_of("quick"), ids=name_of)
def test_a_command_is_explained_as_its_page_says(line, capsys):
    parser, words = parser_of(line.words)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 0
    assert f"usage: {' '.join(line.words[:-1])}" in capsys.readouterr().out


def epilogs(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What stands below the options of a parser and of all of its own commands."""
    yield parser.epilog or ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from epilogs(below)


def examples_of_help() -> list[str]:
    """The examples that ``--help`` shows, and the command reference with it; ``...`` stands for what one above has."""
    from studies.cli import COMMANDS, build_parser

    text = "\n".join(epilog for name in COMMANDS for epilog in epilogs(build_parser(name))).replace("\\\n", " ")
    found = re.findall(r"^ +(bittaper \w.*)$", text, flags=re.MULTILINE)
    whole = "--model phi-1.5 --npu pmpd-4k --prompt-tokens 9 --decode-tokens 9 --weight-bits 4"
    return [line.replace(" ... ", f" {whole} ") for line in dict.fromkeys(found)]


@pytest.mark.parametrize("example", examples_of_help())
def test_every_example_of_help_is_one_that_the_program_takes(example):
    """Its paths are made up; what they stand for runs where a document shows it."""
    parser, words = parser_of(parse_line(example).words)
    parser.parse_args(words)


STANDS_FOR = {"TRIAL": "0", "PATH=VALUE": "matrix.macs=4096", "LABEL": "p4:4", "DIR": "folder"}


@pytest.mark.parametrize("line", lines_of("synopsis"), ids=name_of)
def test_a_synopsis_shows_what_the_command_takes(line):
    words = [word.strip("[]").partition("|")[0] for word in line.words]
    parser, words = parser_of(tuple(STANDS_FOR.get(word, word) for word in words))
    parser.parse_args(words)


def test_what_ci_runs_first_is_the_readmes_command():
    assert "\nmake test\n" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def environment(**more: str) -> dict[str, str]:
    """A reader's: our program is installed, other models and texts than the shipped ones are not at hand."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "BITTAPER_SHARED": "/nonexistent",
        **more,
    }


def run_as_written(line: ShellLine, folder: Path, **more: str) -> str:
    """Run a line in a shell; returns what it said, after an assertion that it succeeded."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["bash", "-c", line.text],
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took = f"took {time.perf_counter() - began:,.0f} s, {cpu_s:,.0f} s of CPU time"
    assert done.returncode == 0, f"{line.text}: exit code {done.returncode}, {took}\n{done.stdout[-4000:]}"
    return f"{line.text}\n  said: {said_duration(line) or 'nothing'}\n  {took}"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """What takes seconds to make and several commands need: a store, an exploration."""
    folder = tmp_path_factory.mktemp("prepared")
    for text in (
        f"bittaper quantize {REPOSITORY / SHIPPED_MODEL} my-store",
        "bittaper npus pmpd-4k --write my-npu.yaml",
        "bittaper explore run my-study.yaml --out STUDY",
    ):
        write_pages_files(folder)
        run_as_written(parse_line(text), folder)
    return folder


def write_pages_files(folder: Path) -> None:
    """The YAML files that the pages show, under the names they give them."""
    for block in (block for document in RUN_HERE for block in blocks(document)):
        if block.language == "yaml" and (file_name := re.match(r"# (\S+\.yaml)\n", block.text)):
            (folder / file_name[1]).write_text(block.text)


@pytest.fixture
def reader(prepared, tmp_path) -> Path:
    """A folder of its own with what the pages say a reader has: a checkout, a model, its store, prompts, an NPU."""
    from accuracy.reference import examples

    for package in ("hwsim", "accuracy", "docs", "studies", "kernels", "dse", "tests", "pyproject.toml"):
        (tmp_path / package).symlink_to(REPOSITORY / package)
    (tmp_path / "path" / "to").mkdir(parents=True)
    for name in ("my-model", "FOLDER", "path/to/model"):
        (tmp_path / name).symlink_to(REPOSITORY / SHIPPED_MODEL)
    for name in ("my-store", "store", "STUDY"):
        shutil.copytree(prepared / ("STUDY" if name == "STUDY" else "my-store"), tmp_path / name)
    shutil.copy(prepared / "my-npu.yaml", tmp_path)
    write_pages_files(tmp_path)
    shown = list(examples("calib", 80))
    prompts = "".join(f"{json.dumps({'prompt': one.prompt, 'reference': one.reference})}\n" for one in shown)
    for name in ("my-prompts.jsonl", "prompts.jsonl"):
        (tmp_path / name).write_text(prompts)
    (tmp_path / "my-text.txt").write_text("".join(f"{one.reference}\n" for one in shown))
    # A trace with step times from anywhere: the one that comes with the study.
    shutil.copy(REPOSITORY / "studies/trace_replay/results/cpu-trace.jsonl", tmp_path / "gpu.jsonl")
    (tmp_path / "results").mkdir()
    shutil.copytree(REPOSITORY / "accuracy/reference/selvic-scheduler", tmp_path / "results" / "scheduler")
    return tmp_path


@pytest.mark.full
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("line", MINUTES, ids=name_of)
def test_a_command_that_takes_minutes_runs_as_it_is_written(line, reader, capsys):
    if line.words[:2] == ("bittaper", "quantize"):
        shutil.rmtree(reader / line.words[3], ignore_errors=True)  # what it makes, others have
    if line.words[0] == "make":  # in a checkout whose environment is there
        reader = checkout(reader / "checkout")
        (reader / ".venv").mkdir()
        (reader / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        (reader / ".venv" / ".installed").touch()
    told = run_as_written(line, reader)
    with capsys.disabled():
        print(f"\n{told}")


def checkout(folder: Path) -> Path:
    """A clean clone of what is committed."""
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
    return folder


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("line", lines_of("install"), ids=name_of)
def test_an_installation_runs_as_it_is_written(line, tmp_path, capsys):
    folder = checkout(tmp_path / "checkout")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "own"], check=True)
    path = f"{tmp_path / 'own' / 'bin'}:{os.environ['PATH']}"
    if any(word.startswith("bittaper[") for word in line.words):  # said to whoever has it already
        run_as_written(parse_line("pip install --quiet ."), folder, PATH=path, PYTHONPATH="")
    told = run_as_written(line, folder, PATH=path, PYTHONPATH="")
    if line.words[0] == "make":
        path = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    run_as_written(parse_line("bittaper doctor"), tmp_path, PATH=path, PYTHONPATH="")
    with capsys.disabled():
        print(f"\n{told}")


def heed_ctrl_c() -> None:
    """What a shell starts in the background, these tests perhaps, ignores Ctrl-C, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", lines_of("served"), ids=name_of)
def test_what_is_served_until_ctrl_c_opens_and_ends(line, reader):
    asked = line.words[line.words.index("--port") + 1] if "--port" in line.words else None
    if asked and not free(int(asked)):
        pytest.skip(f"port {asked} is taken on this machine")
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line.text}"],
        cwd=reader,
        env=environment(XDG_CACHE_HOME=str(reader / "cache"), HOME=str(reader), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - the tests start no threads
    )
    with process:
        try:
            assert process.stdout is not None
            said = ""
            while not (address := re.search(r"http://127\.0\.0\.1:\d+", said)):
                said += (text := process.stdout.readline())
                assert text, f"{line.text}: {said}{process.communicate()[1]}"
            assert asked is None or address[0].endswith(f":{asked}")
            with urllib.request.urlopen(address[0], timeout=60) as page:
                assert page.status == 200
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, error


@pytest.mark.gpu
@pytest.mark.timeout(7200)
def test_commands_that_need_a_gpu_run_as_they_are_written(reader, shared_data, capsys):
    """In the documents' order and in one folder: later ones read what earlier ones measured."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    shutil.copy(shared_data / "text" / "mtbench" / "question.jsonl", reader)
    for line in lines_of("gpu"):
        if "dialogsum" in line.words and os.environ.get("HF_HUB_OFFLINE") == "1":
            continue  # its data come from the hub
        told = run_as_written(line, reader)
        with capsys.disabled():
            print(f"\n{told}")
