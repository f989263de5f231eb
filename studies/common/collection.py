"""Many studies on one page, with what they have in common in front."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwsim.trace import InputError
from studies.commands.options import check_writable
from studies.common.report import Report, Section, Table
from studies.common.report_folder import StudyFolder, changed_files, find_study_folders, study_report
from studies.common.report_page import write_page

PAGE_FILE = "report.html"


def write_study_page(folder: Path) -> Path:
    """Write ``report.html`` of a study, or of its parts, into its folder; returns its path.

    Raises:
        InputError: If the folder holds no results, or one of its files is cut.
    """
    path = folder / PAGE_FILE
    write_collection([folder], path)
    return path


def write_collection(given: Sequence[Path], path: Path, *, title: str | None = None) -> int:
    """Write the page of all studies in the folders that are given; returns how many there are.

    Args:
        given: Study folders, or folders of study folders.
        path: The HTML file.
        title: Heading; by default it says how many studies there are.

    Warns:
        UserWarning: If a file is not the one that its manifest was written for.

    Raises:
        InputError: If a folder holds no results, one of its files is cut, or ``path`` cannot be written.
    """
    if path.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"--out {path}: must end with .html")
    folders = list({one.path.resolve(): one for place in given for one in find_study_folders(place)}.values())
    check_writable(path.parent)
    reports = [study_report(folder) for folder in folders]
    for folder in folders:
        for name in changed_files(folder):
            warnings.warn(f"{folder.path / name}: changed after its manifest was written", stacklevel=2)
    if len(reports) == 1 and title is None:
        write_page(path, reports)
    else:
        page_title = title or f"Results of {len(reports)} studies"
        write_page(path, [*reports, _common(folders, reports)], title=page_title, lead=_LEAD)
    return len(reports)


_LEAD = (
    "Each study says what was measured, what was simulated, what is quoted and what is assumed, on which model and "
    "with how many prompts or repeats. Tables sort by a click on a heading. The last part lists what the simulated "
    "numbers assume, and where each study's numbers come from."
)


def _common(folders: Sequence[StudyFolder], reports: Sequence[Report]) -> Report:
    """What the simulations assume, and a table of where every study comes from."""
    header = ["study", "title", "commit", "written (UTC)", "seed", "device", "bittaper"]
    keys = ("commit", "created_utc", "seed", "device", "bittaper")
    rows = [
        [folder.name, report.title, *(folder.recorded(key) for key in keys)]
        for folder, report in zip(folders, reports, strict=True)
    ]
    origins = Section("Where the numbers come from")
    origins.text(
        "As each study's manifest records it. A commit that ends with -dirty had changes that were not committed; "
        "where a study has no random part or no device of its own, none is recorded."
    )
    origins.table(Table(header, rows))
    return Report("Assumptions and provenance", "", [*_assumptions(folders), origins], {})


def _assumptions(folders: Sequence[StudyFolder]) -> list[Section]:
    """The numbers that the NPU files in use mark as assumed."""
    from hwsim import NPU_NAMES
    from hwsim.assumptions import assumed_numbers

    names = [name for name in NPU_NAMES if any(name in _words(folder.manifest) for folder in folders)]
    section = Section("What the simulated numbers assume")
    section.text(
        "Every constant of an NPU file names its source, or is marked as assumed; those of the energy and area model "
        "are marked in hwsim/cost.py. Energy, area and DRAM traffic were compared with no published number; what speed "
        "was compared with, and how far it lies off, is the study called validation."
    )
    rows = [[name, ", ".join(assumed_numbers(name)) or "none"] for name in names or NPU_NAMES]
    section.table(Table(["NPU", "numbers marked as assumed"], rows))
    return [section]


def _words(value: Any) -> set[str]:
    """Every text within a JSON value."""
    if isinstance(value, dict):
        return {word for inner in value.values() for word in _words(inner)}
    if isinstance(value, list):
        return {word for inner in value for word in _words(inner)}
    return {value} if isinstance(value, str) else set()
