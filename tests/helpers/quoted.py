"""What documents quote of kept runs: the runs' tables, and the documents' own."""

from __future__ import annotations

import csv
import json
from typing import Any

from documents import REPOSITORY

STUDIES = REPOSITORY / "studies"


def rows_of(study: str, name: str) -> list[dict[str, str]]:
    """A table of a study's kept run."""
    with (STUDIES / study / "results" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def json_of(study: str, name: str) -> Any:
    """A JSON file of a study's kept run."""
    return json.loads((STUDIES / study / "results" / f"{name}.json").read_text(encoding="utf-8"))


def text_of(*parts: str) -> str:
    """A document on one line, without emphasis: prose may wrap anywhere."""
    return " ".join(REPOSITORY.joinpath(*parts).read_text(encoding="utf-8").replace("**", "").split())


def tables_of(*parts: str) -> list[list[list[str]]]:
    """The tables of a document: their rows, the header first, without emphasis.

    A cell that is empty in the first column repeats the one above, as a reader takes it.
    """
    found: list[list[list[str]]] = []
    inside = False
    for line in REPOSITORY.joinpath(*parts).read_text(encoding="utf-8").replace("**", "").splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line[1:].removesuffix("|").split("|")]
        if not inside:
            found.append([])
        inside = True
        if set(line) <= set("|-: "):
            continue
        if found[-1][1:] and not cells[0]:
            cells[0] = found[-1][-1][0]
        found[-1].append(cells)
    return found


def table_of(*parts: str, header: str) -> list[list[str]]:
    """The rows, without the header, of the one table whose header begins so (its cells joined by ``|``)."""
    (found,) = (rows for rows in tables_of(*parts) if "|".join(rows[0]).startswith(header))
    return found[1:]
