"""A study's README, taken apart for its report: sections, tables that sort, and the figures it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from studies.common.report import FigureFile, Section, Table

if TYPE_CHECKING:
    from markdown_it.token import Token

_FIRST = "About"


@dataclass(frozen=True)
class _Part:
    """A run of Markdown, a table or an image, in the order of the README."""

    section: str
    markdown: str = ""
    table: Table | None = None
    image: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Prose:
    """A README.

    Attributes:
        title: Its first heading, without "Study: ".
        files: What it says of each file, by name, from a table whose first column is called "file".
        shown: Names of the figures it shows, without suffix.
    """

    title: str = ""
    files: dict[str, str] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()
    _parts: tuple[_Part, ...] = ()

    def sections(self, folder: Path) -> Iterator[Section]:
        """Its sections, with the figures of ``folder``; a figure that is not there is left out."""
        section: Section | None = None
        for part in self._parts:
            if section is None or section.title != part.section:
                if section is not None:
                    yield section
                section = Section(part.section)
            if part.table is not None:
                section.table(part.table)
            elif part.image:
                files = [folder / f"{part.image}.{kind}" for kind in ("svg", "png")]
                for path in [path for path in files if path.is_file()][:1]:
                    section.figure(FigureFile(path, part.alt, part.alt))
            else:
                section.markdown(part.markdown)
        if section is not None:
            yield section


def read_prose(text: str) -> Prose:
    """Take a README apart."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)
    lines = text.splitlines()
    title, section = "", _FIRST
    files: dict[str, str] = {}
    parts: list[_Part] = []
    for place, token in enumerate(tokens):
        if token.level or token.nesting < 0 or token.map is None:
            continue
        if token.type == "heading_open" and token.tag in {"h1", "h2"}:
            heading = _plain(tokens[place + 1])
            if token.tag == "h1":
                title = heading.removeprefix("Study: ")
                title = title[:1].upper() + title[1:]
            else:
                section = heading
        elif token.type == "table_open":
            table = _table(tokens[place:])
            files |= _file_descriptions(table)
            parts.append(_Part(section, table=table))
        elif token.type == "paragraph_open" and (image := _only_image(tokens[place + 1])) is not None:
            name = PurePosixPath(str(image.attrGet("src"))).stem
            parts.append(_Part(section, image=name, alt=image.content))
        else:
            source = "\n".join(lines[token.map[0] : token.map[1]])
            if parts and parts[-1].section == section and parts[-1].markdown:
                source = f"{parts.pop().markdown}\n\n{source}"
            parts.append(_Part(section, markdown=source))
    return Prose(title, files, frozenset(part.image for part in parts if part.image), tuple(parts))


def _plain(inline: Token) -> str:
    """The words of a heading or a cell without their marks."""
    return "".join(child.content for child in inline.children or ())


def _only_image(inline: Token) -> Token | None:
    children = inline.children or []
    return children[0] if len(children) == 1 and children[0].type == "image" else None


def _table(tokens: Sequence[Token]) -> Table:
    rows: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in {"th_open", "td_open"}:
            rows[-1].append(_plain(tokens[place + 1]))
        elif token.type == "table_close":
            break
    for above, row in pairwise(rows[1:]):
        # An empty first cell means the one above it, which is no longer there once the table is sorted.
        row[0] = row[0] or above[0]
    return Table(rows[0], rows[1:])


def _file_descriptions(table: Table) -> dict[str, str]:
    if len(table.header) != 2 or table.header[0] != "file":
        return {}
    return {name: str(row[1]) for row in table.rows for name in str(row[0]).replace(",", " ").split() if "." in name}
