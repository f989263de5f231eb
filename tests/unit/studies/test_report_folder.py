"""A collection is made of what studies write; a folder that is cut, foreign or newer is refused in one line."""

import json
import re
import shutil
from pathlib import Path

import pytest

import studies
from hwsim.trace import file_sha256
from studies.cli import main
from studies.common.collection import write_collection
from studies.common.report import Markdown, Report, Section, Table, write_report_file
from studies.common.report_folder import find_study_folders, read_csv, study_report
from studies.common.report_page import sort_keys
from studies.common.report_prose import read_prose

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><text>{}</text></svg>'
README = """# Study: bits

```
bittaper study bits
```

Some words.

| file | holds |
|---|---|
| `speed.csv` | how fast |

## Found

![The first figure](results/one.png)

| model | bits |
|---|---|
| **a** | 3 |
| | 4 |
"""


@pytest.fixture
def kept(tmp_path):
    """A study with a README and kept results beside it."""
    folder = tmp_path / "bits" / "results"
    folder.mkdir(parents=True)
    (folder.parent / "README.md").write_text(README)
    (folder / "speed.csv").write_text("bits,speed_per_s\n3,12345.678\n4,\n")
    for name in ("one", "two"):
        (folder / f"{name}.svg").write_text(SVG.format(name))
        (folder / f"{name}.png").write_bytes(b"\x89PNG")
    (folder / "notes.md").write_text("# Notes\n")
    manifest = {
        "schema_version": "1.0",
        "provenance": {"commit": "abc", "seed": "0"},
        "npu": {"name": "pmpd-4k"},
        "files_sha256": {"speed.csv": file_sha256(folder / "speed.csv")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def report_of(folder):
    return study_report(find_study_folders(folder)[0])


def test_kept_results_are_told_by_the_readme_beside_them(kept):
    report = report_of(kept)
    assert report.title == "Bits"
    assert [section.title for section in report.sections] == [
        "About",
        "Found",
        "More figures",
        "All numbers",
        "notes.md",
    ]
    about, found, more, numbers, notes = (section.blocks for section in report.sections)
    assert about[0] == Markdown("```\nbittaper study bits\n```\n\nSome words.")
    assert (found[0].path, found[0].alt) == (kept / "one.svg", "The first figure")
    assert [list(row) for row in found[1].rows] == [["a", "3"], ["a", "4"]]
    assert [figure.path.name for figure in more] == ["two.svg"]
    assert numbers[0].caption == "speed.csv: how fast"
    assert notes == [Markdown("# Notes\n")]
    assert list(report.provenance.items())[:3] == [("device", "not recorded"), ("commit", "abc"), ("seed", "0")]


def test_what_a_manifest_lacks_is_said_part_by_part(kept):
    parts = {"a": {"provenance": {"commit": "c", "seed": "0"}}, "b": {"provenance": {"commit": "c"}}}
    (kept / "manifest.json").write_text(json.dumps({"parts": parts}))
    (folder,) = find_study_folders(kept)
    assert folder.recorded("commit") == "c"
    assert folder.recorded("seed") == "0; not recorded in 1 of 2 parts"
    assert folder.recorded("device") == "not recorded"


def test_another_run_does_not_borrow_the_words_of_the_kept_one(kept, tmp_path):
    other = tmp_path / "elsewhere" / "bandwidth-budget"
    shutil.copytree(kept, other)
    report = report_of(other)
    assert report.title == "How much off-chip bandwidth a decoding speed needs"
    assert [section.title for section in report.sections] == ["Figures", "All numbers", "notes.md"]
    assert report.lead.startswith("The least off-chip bandwidth")


def test_a_studys_own_report_file_comes_before_everything_else(kept):
    write_report_file(kept, Report("Own", "words", [Section("S")], {}))
    report = report_of(kept)
    assert (report.title, report.lead, [section.title for section in report.sections]) == ("Own", "words", ["S"])
    assert report.provenance["commit"] == "abc"


def test_folders_are_found_below_and_only_the_outermost_of_nested_ones(kept, tmp_path):
    inner = kept / "val"
    inner.mkdir()
    shutil.copy(kept / "manifest.json", inner)
    part = tmp_path / "paper" / "results" / "table1"
    part.mkdir(parents=True)
    shutil.copy(kept / "manifest.json", part)
    assert [(one.path, one.name) for one in find_study_folders(tmp_path)] == [(kept, "bits"), (part, "table1")]


def test_numbers_keep_four_digits_and_sort_by_all_of_theirs(kept):
    table = read_csv(kept / "speed.csv")
    assert [list(row) for row in table.rows] == [["3", ("12,346", 12345.678)], ["4", ""]]
    assert sort_keys([row[1] for row in table.rows]) == [12345.678, ""]


def test_a_file_that_changed_since_its_manifest_is_pointed_out(kept):
    (kept / "speed.csv").write_text("bits,speed_per_s\n3,99\n")
    assert "changed since: speed.csv" in report_of(kept).provenance
    with pytest.warns(UserWarning, match="speed.csv: changed after its manifest was written"):
        write_collection([kept], kept / "page.html")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("manifest.json", '{"schema_version": "2.0", "provenance": {}}', "schema_version = 2.0: another version"),
        ("manifest.json", '{"provenance": {"com', "manifest.json:1: not JSON"),
        ("manifest.json", "[]", "must be a JSON object; it was cut"),
        ("manifest.json", '{"a": 1}', "holds no provenance"),
        ("speed.csv", "bits,speed_per_s\n3,1\n4", "row 3 has 1 cells instead of 2; it was cut: run its study again"),
        ("speed.csv", "", "speed.csv: is empty; it was cut"),
        ("speed.csv", f"bits\n{'x' * 200_000}\n", "speed.csv: not a table (field larger than field limit"),
        ("one.svg", "<svg", "one.svg: not an SVG drawing"),
        ("report.json", '{"title": "T"}', "report.json: lead"),
    ],
)
def test_a_cut_or_foreign_file_is_one_line_and_leaves_the_old_page(kept, tmp_path, capsys, name, text, message):
    page = tmp_path / "page.html"
    page.write_text("old")
    (kept / name).write_text(text)
    assert main(["report", str(kept), "--out", str(page)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert page.read_text() == "old"


def test_folders_without_results_and_pages_that_cannot_be_written_are_refused(kept, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for argv, message in (
        ([str(empty)], "empty: holds no manifest.json; give a folder that bittaper study wrote, or one above it"),
        ([str(tmp_path / "none")], "none: no such folder"),
        ([str(kept), "--out", "page.pdf"], "--out page.pdf: must end with .html"),
        ([str(kept), "--out", str(kept / "one.svg" / "page.html")], "is a file; choose another folder"),
    ):
        assert main(["report", *argv]) == 2
        assert message in capsys.readouterr().err


def test_a_study_that_could_not_write_is_refused_before_it_computes(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["study", "pmpd-bandwidth", "--out", str(tmp_path / "file" / "results")]) == 2
    assert f"{tmp_path / 'file'} is a file; choose another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_every_kept_result_of_the_program_is_on_one_page(tmp_path):
    root = Path(studies.__file__).parent
    kept = {path.parent for path in root.glob("*/results/**/manifest.json")} | {
        path.parent for path in root.glob("*/example/manifest.json")
    }
    page = tmp_path / "all.html"
    assert write_collection([root], page) == len(kept) >= 13
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == len(kept) + 1
    assert not re.search(r"\b(src|href)=\"(?!#|data:|https://)", text)


def test_a_readme_keeps_the_order_of_words_tables_and_figures():
    prose = read_prose("# A\n\none\n\n| x |\n|---|\n| 1 |\n\ntwo\n\n## B\n\n![f](results/f.svg)\n\n- three\n")
    kinds = [(section.title, [type(block) for block in section.blocks]) for section in prose.sections(Path("nowhere"))]
    assert kinds == [("About", [Markdown, Table, Markdown]), ("B", [Markdown])]
    assert prose.shown == {"f"}
