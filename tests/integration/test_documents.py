"""What the documents show runs as it stands there, and what they point to exists.

All of them run in one folder of one process, where what several of them need (a store, a model) is made once. A shell
line whose comment says that it takes minutes, needs a GPU or runs until Ctrl-C is only parsed here: like the commands
of studies' READMEs it is run by ``test_documented_commands.py``.
"""

import argparse
import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from documents import (
    README,
    REPOSITORY,
    SHIPPED_MODEL,
    blocks,
    commands,
    documents,
    local_links,
    pages,
    pages_that_run,
    parse_line,
    parser_of,
    shell_lines,
)
from registries import registrations_taken_back

RUN_HERE = pages_that_run()


def name_of(path):
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("document", [path for path in documents() if commands(path)], ids=name_of)
def test_every_command_of_a_document_is_one_that_the_program_takes(document, monkeypatch):
    monkeypatch.setattr(argparse.ArgumentParser, "exit", _raise)
    for line in commands(document):
        if line.is_synopsis or "--help" in line.words:
            continue
        parser, words = parser_of(line.words)
        parser.parse_args(words)


def _raise(self, status=0, message=None):
    raise AssertionError(message)


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_every_local_link_and_picture_exists(document):
    for target in local_links(document):
        if "_generated/" not in target:  # pages that the build makes, and checks itself
            assert (document.parent / target).exists(), target


def test_external_links_are_encrypted():
    for document in documents():
        assert not re.findall(r"\]\((http://[^)]*)\)", document.read_text(encoding="utf-8")), document


@pytest.mark.parametrize("page", [README, *pages()], ids=name_of)
def test_a_page_has_no_command_outside_of_the_blocks_that_are_run(page):
    run = [line for block in blocks(page) if block.language == "sh" for line in shell_lines(block)]
    assert [line.words for line in commands(page) if line not in run] == []


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with what a reader is said to have, and the lines that were run in it: equal ones run once.

    It holds a checkout, a model and its store, prompts, a text, and the files that the documents show.
    """
    from accuracy.reference import examples

    folder = tmp_path_factory.mktemp("reader")
    for package in ("hwsim", "accuracy", "docs", "studies", "kernels"):
        (folder / package).symlink_to(REPOSITORY / package)
    (folder / "my-model").symlink_to(folder / SHIPPED_MODEL)
    with (folder / "my-prompts.jsonl").open("w") as file, (folder / "my-text.txt").open("w") as text:
        for example in examples("calib", 80):
            print(json.dumps({"prompt": example.prompt, "reference": example.reference}), file=file)
            print(example.reference, file=text)
    for block in (block for document in RUN_HERE for block in blocks(document)):
        if block.language == "yaml" and (file_name := re.match(r"# (\S+\.yaml)\n", block.text)):
            (folder / file_name[1]).write_text(block.text)
    ran = set()
    with registrations_taken_back():
        with contextlib.chdir(folder):
            run_line(parse_line("bittaper quantize my-model my-store"), folder, ran)
        yield folder, ran


def run_line(line, folder, ran):
    from studies.cli import main

    # The reader's own model is the shipped one.
    key = (tuple("my-model" if word == SHIPPED_MODEL else word for word in line.words), line.out)
    if line.needs_gpu or line.never_ends or line.takes_minutes or key in ran:
        return
    ran.add(key)
    match line.words:
        case ("make", target):
            subprocess.run(["make", "--dry-run", target], check=True, capture_output=True, cwd=REPOSITORY)
        case ("cp", source, target):
            shutil.copy(folder / source, folder / target)
        case ("bittaper", *words):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                assert main(words) == 0, line.words
            if line.out:
                (folder / line.out).write_text(said.getvalue())
        case _:
            raise AssertionError(f"{line.words}: say in a comment how long it takes, or that it needs a GPU")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", RUN_HERE, ids=name_of)
def test_a_page_runs_from_top_to_bottom(page, reader, monkeypatch):
    folder, ran = reader
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    names = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, name_of(page), "exec"), names)
        elif block.language == "sh":
            for line in shell_lines(block):
                run_line(line, folder, ran)


@pytest.mark.slow
def test_the_code_of_the_kernels_readme_runs():
    import torch

    codes = torch.randint(0, 16, (64, 4096))
    from kernels import pack_planes

    planes = pack_planes(codes, 4)
    tables = {f"lut{bits}": torch.randn(64, 1, 2**bits, dtype=torch.float16) for bits in (2, 3, 4)}
    names = {"planes": planes, "x": torch.randn(2, 4096, dtype=torch.float16), **tables}
    (block,) = (block for block in blocks(REPOSITORY / "kernels/README.md") if block.language == "python")
    exec(compile(block.text, "kernels/README.md", "exec"), names)
    assert names["y"].shape == (2, 64)


def test_every_command_is_in_the_readmes_table():
    from studies.cli import COMMANDS

    for name in COMMANDS:
        assert f"| `bittaper {name}" in README.read_text(encoding="utf-8")


def test_a_line_is_taken_apart_as_a_shell_would():
    line = parse_line("A=1 bittaper simulate --json > a.json  # 3 minutes: on a CPU")
    assert (line.words, line.out) == (("bittaper", "simulate", "--json"), "a.json")
    assert line.takes_minutes and not line.needs_gpu
    assert parse_line("kernels/gpu_check.sh results/gpu  # needs a GPU").needs_gpu
    assert not parse_line("bittaper kernels bench --minutes 5").takes_minutes
    assert parse_line("bittaper demo  # until Ctrl-C").never_ends


def test_blocks_are_found_behind_directives_and_in_lists(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```{include} a\n```\n- x\n  ```sh\n  bittaper doctor\n  ```\n[one](a.md) `[two](b.md)`\n")
    assert [block.language for block in blocks(page)] == ["{include} a", "sh"]
    assert [line.words for line in commands(page)] == [("bittaper", "doctor")]
    assert local_links(page) == ["a.md"]


def test_documents_of_others_are_left_out():
    found = {Path(name_of(path)).parts[0] for path in documents()}
    assert "README.md" in found and ".venv" not in found
