"""The report of a study's folder, made of the files that every study writes.

A folder belongs in a collection if it holds ``manifest.json``. Of the rest, all of it optional, the report takes:

- ``report.json`` (:func:`studies.common.report.write_report_file`): the study's own words, tables and figures, then
  nothing else; or, without it,
- ``README.md`` beside the folder, where the folder is called ``results`` or ``example`` and so holds the very numbers
  that the README speaks of; its images show the folder's figures;
- every ``*.svg`` (or ``*.png`` where there is no such SVG) that the README does not show;
- every ``*.csv`` as a table that sorts, described as the README's table of files describes it;
- every ``*.md``.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim.trace import InputError, file_sha256, read_json, read_text
from studies.common.report import (
    REPORT_FILE,
    Cell,
    FigureFile,
    Report,
    Section,
    Table,
    check_version,
    read_report_file,
)
from studies.common.report_prose import Prose, read_prose

MANIFEST_FILE = "manifest.json"
KEPT = ("results", "example")
"""Names of folders whose numbers the README beside them speaks of."""
NOT_RECORDED = "not recorded"
TABLE_ROWS = 5000
"""Rows of a CSV file that the page holds; the file holds all."""


@dataclass(frozen=True)
class StudyFolder:
    """One study's folder as a collection sees it.

    Attributes:
        path: The folder.
        name: The study's, as the command line calls it.
        manifest: What ``manifest.json`` holds.
    """

    path: Path
    name: str
    manifest: Mapping[str, Any]

    def provenances(self) -> list[Mapping[str, Any]]:
        """Every record of provenance in the manifest: one, or one for each part of the study."""
        return list(_provenances(self.manifest))

    def recorded(self, key: str) -> str:
        """The distinct values of one key of the provenance, times as dates; says where parts have none."""
        parts = self.provenances()
        values = [str(one[key]) for one in parts if key in one]
        values = [value.partition("T")[0] if key == "created_utc" else value for value in values]
        if not values:
            return NOT_RECORDED
        missing = len(parts) - len(values)
        found = ", ".join(dict.fromkeys(values))
        return f"{found}; {NOT_RECORDED} in {missing} of {len(parts)} parts" if missing else found


def find_study_folders(given: Path) -> list[StudyFolder]:
    """The study folder that is given, or those within it, up to three levels below.

    Raises:
        InputError: If there is none, or its manifest is cut or of another version.
    """
    if not given.is_dir():
        raise InputError(f"{given}: no such folder; give a folder that bittaper study wrote")
    found: list[Path] = []
    for level in ("", "*/", "*/*/", "*/*/*/"):
        folders = sorted(path.parent for path in given.glob(f"{level}{MANIFEST_FILE}"))
        found += [folder for folder in folders if not any(outer in folder.parents for outer in found)]
        if found == [given]:
            break
    if not found:
        raise InputError(f"{given}: holds no {MANIFEST_FILE}; give a folder that bittaper study wrote, or one above it")
    return [_open(folder) for folder in sorted(found)]


def _open(folder: Path) -> StudyFolder:
    path = folder / MANIFEST_FILE
    manifest = read_json(path)
    check_version(path, manifest)
    if next(_provenances(manifest), None) is None:
        raise InputError(f"{path}: holds no provenance; bittaper study did not write it, or it was changed")
    place = folder.resolve()
    name = place.parent.name if place.name in KEPT else place.name
    return StudyFolder(folder, str(manifest.get("study", name.replace("_", "-"))), manifest)


def _provenances(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "provenance" and isinstance(inner, dict):
                yield inner
            else:
                yield from _provenances(inner)


def study_report(folder: StudyFolder) -> Report:
    """The report of one folder.

    Raises:
        InputError: If one of its files is cut or cannot be read.
    """
    # What every study is asked for stands first where it is missing, instead of being left out in silence.
    expected = {key: folder.recorded(key) for key in ("seed", "device")}
    provenance = {key: value for key, value in expected.items() if value == NOT_RECORDED}
    provenance |= dict(_leaves(folder.manifest))
    for name in changed_files(folder):
        provenance[f"changed since: {name}"] = "not what the manifest was written for; run the study again"
    if (folder.path / REPORT_FILE).is_file():
        return read_report_file(folder.path, provenance)
    ours, prose = _readmes(folder)
    sections = list(ours.sections(folder.path))
    figures = Section("More figures" if sections else "Figures")
    for path in _figures(folder.path):
        if path.stem not in ours.shown:
            caption = path.stem.replace("_", " ")
            figures.figure(FigureFile(path, caption, caption))
    tables = Section("All numbers")
    for path in sorted(folder.path.glob("*.csv")):
        tables.table(read_csv(path, prose.files.get(path.name, "")))
    sections += [section for section in (figures, tables) if section.blocks]
    for path in sorted(folder.path.glob("*.md")):
        written = Section(path.name, collapsed=True)
        written.markdown(read_text(path))
        sections.append(written)
    return Report(prose.title or folder.name, "" if ours.title else _summary(folder.name), sections, provenance)


def _readmes(folder: StudyFolder) -> tuple[Prose, Prose]:
    """The README about these numbers, empty where there is none; and one that says what the study's files are."""
    place = folder.path.resolve()
    beside = place.parent / "README.md"
    if place.name in KEPT and beside.is_file():
        prose = read_prose(read_text(beside))
        return prose, prose
    shipped = Path(__file__).parent.parent / folder.name.replace("-", "_") / "README.md"
    return Prose(), read_prose(read_text(shipped)) if shipped.is_file() else Prose()


def _summary(name: str) -> str:
    from studies.commands.study import STUDIES

    text = STUDIES.get(name, "")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _figures(folder: Path) -> list[Path]:
    drawings = sorted(folder.glob("*.svg"))
    names = {path.stem for path in drawings}
    return sorted([*drawings, *(path for path in folder.glob("*.png") if path.stem not in names)])


def read_csv(path: Path, description: str = "") -> Table:
    """A CSV file as a table: numbers with four digits, sorted by all of theirs.

    Args:
        path: The file.
        description: What it holds, put behind its name.

    Raises:
        InputError: If it is empty, its last line is cut, or it is no table.
    """
    text = read_text(path)
    try:
        lines = [line for line in csv.reader(io.StringIO(text)) if line]
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({error}); move it elsewhere, or run its study again") from None
    if not lines:
        raise InputError(f"{path}: is empty; it was cut: run its study again")
    header, rows = lines[0], lines[1:]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise InputError(
                f"{path}: row {number} has {len(row)} cells instead of {len(header)}; it was cut: run its study again"
            )
    shown = [[_cell(text) for text in row] for row in rows[:TABLE_ROWS]]
    caption = path.name + (f": {description}" if description else "")
    if len(rows) > TABLE_ROWS:
        caption += f"; the first {TABLE_ROWS:,} of {len(rows):,} rows"
    return Table(header, shown, caption, collapsed=True, source=path.name)


def _cell(text: str) -> str | Cell:
    """A fraction with four significant digits; whole numbers, words and empty cells as they are.

    >>> [_cell(text) for text in ("412", "p4:3", "")]
    ['412', 'p4:3', '']
    >>> _cell("0.1234567")
    Cell(text='0.1235', value=0.1234567)
    """
    try:
        value = float(text)
    except ValueError:
        return text
    if "." not in text and "e" not in text.lower():
        return text
    return Cell(four_digits(value), value) if math.isfinite(value) else text


def four_digits(value: float) -> str:
    """Four significant digits; an exponent, a multiple of three, only where there would be many zeros.

    >>> [four_digits(value) for value in (32.0, 0.012345, 13420.6, 32.1234e9, -4.5e-7)]
    ['32', '0.01235', '13,421', '32.12e9', '-450e-9']
    """
    if value == 0:
        return "0"
    places = math.floor(math.log10(abs(value)))
    if -4 < places < 6:
        text = f"{value:,.{max(0, 3 - places)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    thousands = places // 3 * 3
    return f"{value / 10**thousands:.4g}e{thousands}"


def changed_files(folder: StudyFolder) -> list[str]:
    """Files that the manifest gives a hash of and that have another one now."""
    hashes = folder.manifest.get("files_sha256", {})
    if not isinstance(hashes, dict):
        return []
    return [
        name
        for name, sha256 in hashes.items()
        if (folder.path / name).is_file() and file_sha256(folder.path / name) != sha256
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value of the manifest under its dotted path; the provenance first, under plain names."""
    for key, value in sorted(values.items(), key=lambda item: item[0] != "provenance"):
        path = key if prefix in {"", "provenance"} else f"{prefix}.{key}"
        if isinstance(value, dict):
            yield from _leaves(value, path)
        elif key != "schema_version":
            yield path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
