"""The study's page has a section for every result, and its numbers are the kept run's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import studies.paper
from studies.paper.catalogue import RESULTS

FOLDER = Path(studies.paper.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
COLUMNS = ("quantity", "case", "paper", "ours", "n")


def comparisons(text: str) -> Iterator[tuple[str, ...]]:
    """The rows of every table that holds the paper's values beside ours."""
    header: list[str] | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []
        if not cells:
            header = None
        elif header is None:
            header = cells
        elif set(COLUMNS) <= set(header) and not line.startswith("|---"):
            row = dict(zip(header, (cell.strip() for cell in line[1:-1].split("|")), strict=True))
            yield tuple(row[column] for column in COLUMNS)


def test_every_number_of_the_page_is_in_the_kept_run() -> None:
    kept = set(comparisons((FOLDER / "results" / "summary.md").read_text(encoding="utf-8")))
    shown = list(comparisons(README))
    assert len(shown) > 60
    assert [row for row in shown if row not in kept] == []


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_has_a_section_with_its_command_and_its_figure(name: str) -> None:
    sections = re.split(r"\n### ", README)
    (section,) = (one for one in sections if f"`bittaper study paper --only {name}`" in one)
    assert f"](results/{name}.png)" in section
    assert (FOLDER / "results" / f"{name}.png").is_file()
    assert next(comparisons(section), None) is not None
