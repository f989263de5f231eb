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


def test_text_puts_the_remedy_below_the_use_and_what_is_missing_at_the_end(card, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "kernels: not ready (kernels, and decoding on a GPU)\n  -> use another machine" in out
    assert "simulate: ready" in out
    assert out.endswith("\n\nwhat is missing\n  for kernels: GPU was not found\n")


def test_text_says_nothing_of_missing_things_where_there_are_none(monkeypatch, capsys):
    monkeypatch.setattr(diagnosis, "USES", (diagnosis.Use("simulate", "simulate"),))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nsimulate: ready (simulate)\n")


def test_text_names_each_missing_thing_once_with_all_uses_that_need_it(monkeypatch, capsys):
    def browser():
        return diagnosis.Finding("Chromium", None, diagnosis.MISSING, "get it")

    def lacking(names, extra):
        missing = [diagnosis.Finding(name, None, diagnosis.MISSING, f"pip install x[{extra}]") for name in names]
        return [diagnosis.Finding("simpy", "4"), diagnosis.Finding("old", "1", "is 1, must be >=2", "new"), *missing]

    shared = [f"package-{number}" for number in range(12)]
    extras = {"a": shared, "b": [*shared, "only-b"]}
    monkeypatch.setattr(diagnosis, "packages", lambda extra: lacking(extras[extra], extra) if extra else [])
    uses = (diagnosis.Use("use a", "a", "a"), diagnosis.Use("use b", "b", "b", (browser,)), diagnosis.Use("use c", "c"))
    monkeypatch.setattr(diagnosis, "USES", uses)
    assert main(["doctor"]) == 0
    found, _, missing = capsys.readouterr().out.partition("\nwhat is missing\n")
    assert "use a: not ready (a)\n  -> new\n  -> pip install x[a]\nuse b: not ready (b)\n" in found
    assert found.endswith("  -> new\n  -> pip install x[b]\n  -> get it\nuse c: ready (c)\n")
    lines = missing.splitlines()
    assert lines[0].startswith("  for use a, use b: package-0, package-1, ")
    assert lines[1:] == [
        "    package-7, package-8, package-9, package-10, package-11; old is 1, must be >=2",
        "  for use b: only-b, Chromium",
    ]
    for name in (*extras["b"], "Chromium", "old"):
        assert sum(word.strip(",;") == name for word in missing.split()) == 1, name
