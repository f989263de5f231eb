"""What a report holds: text, tables and figures by section, and where they come from.

Three things are made of it: a page (:mod:`studies.common.report_page`), Markdown
(:mod:`studies.common.report_markdown`), and ``report.json``, from which a collection of studies takes it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from hwsim.trace import InputError, from_validation, read_json, write_json
from hwsim.trace.schedule import Record

REPORT_FILE = "report.json"
SCHEMA_MAJOR = "1"


class Cell(NamedTuple):
    """A table's cell that sorts by a number which its text does not begin with: ``Cell("1.5 GB/s", 1.5e9)``."""

    text: str
    value: float


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Markdown:
    """Paragraphs, lists and code as CommonMark without HTML."""

    source: str


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers align to the right and sort as numbers.

    Attributes:
        header: Names of the columns.
        rows: Cells; a plain text sorts by the number that it begins with, in a column where every text has one.
        caption: What it shows.
        collapsed: Whether it starts folded under its caption.
        source: File that holds every row, named where a page prints only some.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    collapsed: bool = False
    source: str = ""


@dataclass(frozen=True)
class FigureFile:
    """An SVG or PNG file that is copied into the page."""

    path: Path
    caption: str
    alt: str


Block = Text | Markdown | Table | FigureFile


@dataclass
class Section:
    """A heading with paragraphs, tables and figures in the order they were added.

    Attributes:
        title: The heading.
        blocks: The content.
        collapsed: Whether it starts folded under its heading.
    """

    title: str
    blocks: list[Block] = field(default_factory=list)
    collapsed: bool = False

    def text(self, paragraph: str) -> None:
        """Add a paragraph of plain text."""
        self.blocks.append(Text(paragraph))

    def markdown(self, source: str) -> None:
        """Add Markdown."""
        self.blocks.append(Markdown(source))

    def table(self, table: Table) -> None:
        """Add a table."""
        self.blocks.append(table)

    def figure(self, figure: FigureFile) -> None:
        """Add a figure."""
        self.blocks.append(figure)


@dataclass(frozen=True)
class Report:
    """One study's report.

    Attributes:
        title: Heading.
        lead: What was asked and what came out, in a paragraph.
        sections: The content.
        provenance: Where the numbers come from, shown at the end.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    provenance: dict[str, str]


class _CellFile(Record):
    text: str
    value: float


class _BlockFile(Record):
    """One block; which fields it has follows from its kind."""

    kind: Literal["text", "markdown", "table", "figure"]
    text: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str | _CellFile, ...], ...] = ()
    caption: str = ""
    collapsed: bool = False
    source: str = ""
    file: Annotated[str, Field(pattern=r"^$|^[\w.-]+\.(svg|png)$", description="Figure beside the report.")] = ""
    alt: str = ""


class _SectionFile(Record):
    title: str
    collapsed: bool = False
    blocks: tuple[_BlockFile, ...]


class _ReportFile(Record):
    """What ``report.json`` holds: everything but the provenance, which is the manifest's."""

    schema_version: str = "1.0"
    title: str
    lead: str
    sections: tuple[_SectionFile, ...]


def write_report_file(folder: Path, report: Report) -> Path:
    """Write ``report.json`` into the folder of the report's figures; returns its path."""
    path = folder / REPORT_FILE
    value = _ReportFile(
        title=report.title,
        lead=report.lead,
        sections=tuple(
            _SectionFile(
                title=section.title, collapsed=section.collapsed, blocks=tuple(_to_file(one) for one in section.blocks)
            )
            for section in report.sections
        ),
    )
    write_json(path, value.model_dump(mode="json", exclude_defaults=True) | {"schema_version": "1.0"})
    return path


def read_report_file(folder: Path, provenance: dict[str, str]) -> Report:
    """Read ``report.json`` of a folder.

    Raises:
        InputError: If it is cut or broken, of another version, or a figure that it names is missing.
    """
    path = folder / REPORT_FILE
    value = read_json(path)
    check_version(path, value)
    try:
        found = _ReportFile.model_validate(value)
    except ValidationError as error:
        raise from_validation(error, str(path)) from None
    sections = [
        Section(one.title, [_from_file(block, folder) for block in one.blocks], one.collapsed) for one in found.sections
    ]
    return Report(found.title, found.lead, sections, provenance)


def check_version(path: Path, value: Any) -> None:
    """Refuse a file of a newer form than this version reads; one without a version is of the first form.

    Raises:
        InputError: With both versions and what to do.
    """
    if not isinstance(value, dict):
        raise InputError(f"{path}: must be a JSON object; it was cut or is another file: run its study again")
    version = str(value.get("schema_version", SCHEMA_MAJOR))
    if version.partition(".")[0] != SCHEMA_MAJOR:
        raise InputError(
            f"{path}: schema_version = {version}: another version of bittaper wrote it, this one reads "
            f"{SCHEMA_MAJOR}.x; use that version, or run the study again with this one"
        )


def _to_file(block: Block) -> _BlockFile:
    match block:
        case Text(text):
            return _BlockFile(kind="text", text=text)
        case Markdown(source):
            return _BlockFile(kind="markdown", text=source)
        case FigureFile(path, caption, alt):
            return _BlockFile(kind="figure", file=path.name, caption=caption, alt=alt)
    rows = tuple(
        tuple(_CellFile(text=cell.text, value=cell.value) if isinstance(cell, Cell) else cell for cell in row)
        for row in block.rows
    )
    return _BlockFile(
        kind="table",
        header=tuple(block.header),
        rows=rows,
        caption=block.caption,
        collapsed=block.collapsed,
        source=block.source,
    )


def _from_file(block: _BlockFile, folder: Path) -> Block:
    if block.kind == "text":
        return Text(block.text)
    if block.kind == "markdown":
        return Markdown(block.text)
    if block.kind == "figure":
        path = folder / block.file
        if not block.file or not path.is_file():
            raise InputError(f"{folder / REPORT_FILE}: names the figure '{block.file}', which is not there")
        return FigureFile(path, block.caption, block.alt)
    rows = [
        [Cell(cell.text, cell.value) if isinstance(cell, _CellFile) else cell for cell in row] for row in block.rows
    ]
    return Table(block.header, rows, block.caption, block.collapsed, block.source)
