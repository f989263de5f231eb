"""What doctor says is missing follows from the project's own list of packages, with the command that brings it."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

from studies.cli import main
from studies.common import diagnosis
from studies.common.diagnosis import USES, Finding, packages, requirements


def test_an_extra_asks_for_the_packages_of_the_extras_it_names():
    plain, accuracy, gpu = (set(requirements(extra)) for extra in ("", "accuracy", "gpu"))
    assert plain < accuracy < gpu
    assert any(text.startswith("torch") for text in accuracy - plain)
    assert {text.partition(">")[0] for text in gpu - accuracy} == {"triton"}
    assert requirements("nosuch") is None


def test_the_installed_program_asks_for_the_same_as_its_checkout(monkeypatch, tmp_path):
    listed = ["numpy<3,>=2", "torch>=2.11; extra == 'accuracy'", "triton>=3.6; extra == 'gpu'"]
    monkeypatch.setattr(diagnosis, "ROOT", tmp_path)
    monkeypatch.setattr(diagnosis, "requires", lambda name: listed)
    assert [text.partition(";")[0] for text in requirements("accuracy")] == ["numpy<3,>=2", "torch>=2.11"]
    assert requirements("docs") is None
    assert next(packages("docs")).remedy == "pip install 'bittaper[docs]'"


def test_missing_and_old_packages_come_with_the_command_that_mends_them(monkeypatch):
    def version(name):
        if name == "torch":
            raise PackageNotFoundError(name)
        return "1.0" if name == "transformers" else "999"

    monkeypatch.setattr(diagnosis, "version", version)
    monkeypatch.setattr(diagnosis, "requirements", lambda extra: ["torch>=2.11", "transformers>=5,<6", "numpy"])
    torch, transformers, numpy = packages("accuracy")
    assert (torch.problem, torch.found) == ("is missing", None)
    assert "[accuracy]" in torch.remedy
    assert transformers.problem == "is 1.0, must be <6,>=5"
    assert transformers.remedy == "pip install 'transformers<6,>=5'"
    assert numpy == Finding("numpy", "999")


def test_a_folder_without_write_permission_and_a_full_disk_are_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert diagnosis.writable() == Finding("write permission here", "yes")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(diagnosis.tempfile, "NamedTemporaryFile", refuse)
    assert diagnosis.writable().problem == "is missing (Permission denied)"
    monkeypatch.setattr(diagnosis, "MIN_FREE_BYTES", 10**18)
    assert "a study may need" in diagnosis.free_disk().problem


def test_missing_programs_come_with_their_package(monkeypatch):
    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: None)
    assert diagnosis.browser() == Finding("Chromium", None, "is missing", "apt-get install chromium")
    assert diagnosis.compiler().remedy == "apt-get install gcc"


@pytest.fixture
def card(monkeypatch):
    """No look for a GPU, which would load torch."""
    lacking = Finding("GPU", None, "was not found", "use another machine")
    monkeypatch.setattr(diagnosis, "gpu", lambda: lacking)
    uses = tuple(
        diagnosis.Use(use.name, use.commands, use.extra, (lambda: lacking,) if use.name == "kernels" else ())
        for use in USES
    )
    monkeypatch.setattr(diagnosis, "USES", uses)


def test_json_says_of_every_use_whether_it_is_ready_and_what_is_missing(card, capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    uses = {use["name"]: use for use in found["uses"]}
    assert {"simulate", "explore", "evaluate", "kernels", "demo", "docs"} <= set(uses)
    assert uses["simulate"]["ready"]
    assert not uses["kernels"]["ready"]
    assert {"what": "GPU", "found": None, "problem": "was not found", "remedy": "use another machine"} in (
        uses["kernels"]["missing"]
    )
    assert found["packages"]["simpy"][0].isdigit()


def test_text_puts_the_remedy_below_the_use(card, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "kernels: not ready (kernels, and decoding on a GPU)\n  GPU was not found\n  -> use another machine" in out
    assert "simulate: ready" in out


def test_text_names_all_missing_packages_at_once(monkeypatch, capsys):
    def use():
        return diagnosis.Finding("Chromium", None, diagnosis.MISSING, "get it")

    lacking = [diagnosis.Finding(f"package-{number}", None, diagnosis.MISSING, "pip install x") for number in range(12)]
    monkeypatch.setattr(diagnosis, "packages", lambda extra: lacking if extra else [])
    monkeypatch.setattr(diagnosis, "USES", (diagnosis.Use("docs", "make docs", "docs", (use,)),))
    assert main(["doctor"]) == 0
    _, _, found = capsys.readouterr().out.partition("docs: not ready (make docs)\n")
    first, *rest = found.splitlines()
    assert first.startswith("  missing: package-0, package-1,")
    assert rest[-3:] == [
        "    package-8, package-9, package-10, package-11, Chromium",
        "  -> pip install x",
        "  -> get it",
    ]
