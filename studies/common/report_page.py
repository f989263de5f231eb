"""One self-contained HTML page of one report or many: opens offline, sorts, prints, light and dark."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError, write_text
from studies.common.report import Block, Cell, FigureFile, Markdown, Report, Table, Text
from studies.common.svg import inline_svg

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

# Every pair of a text colour (text, soft, link) and a ground (back, head) has a contrast of 4.5 or more; tested.
THEMES = {
    "light": {
        "text": "#1b1b1b",
        "soft": "#565656",
        "link": "#00559c",
        "line": "#d5d5d5",
        "back": "#ffffff",
        "head": "#f3f3f3",
    },
    "dark": {
        "text": "#e8e8e8",
        "soft": "#b4b4b4",
        "link": "#82bdf2",
        "line": "#444444",
        "back": "#171717",
        "head": "#262626",
    },
}
PAGE_ROWS = 20
"""Rows of a table that are shown at a time."""
PAPER_COLUMNS = 12
"""Columns of a table that a printed page holds without breaking words."""
WORD_LENGTH = 28
"""Longest text of a column that does not wrap."""
PROVENANCE_ENTRIES = 24
"""Entries of the provenance that are not folded."""

# A number by itself, before a unit or a remark, or at the low end of a range; not a date, a hash or a name.
_NUMBER = re.compile(
    r"([-+−]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)(?=$|[\s%×x()\[\];,/]|\.\.|[-–][\d.]+%?$)", flags=re.IGNORECASE
)
_EMPTY = {"", "-", "–", "off", "none", "n/a"}
"""What stands where there is no number; it sorts last."""


def write_page(path: Path, reports: Sequence[Report], *, title: str | None = None, lead: str = "") -> None:
    """Render the page and write it atomically.

    Args:
        path: HTML file.
        reports: What it holds, in this order.
        title: Heading above several reports; a single report has its own.
        lead: First paragraph below that heading.

    Raises:
        InputError: If a figure is cut or of no known kind.
    """
    import jinja2

    here = Path(__file__).parent
    script = (here / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    markdown = _markdown()
    level = 2 if title is None else 3
    page = environment.get_template("report.html.j2").render(
        title=reports[0].title if title is None else title,
        lead=lead,
        level=level,
        studies=[_study(report, f"s{number}", level, markdown) for number, report in enumerate(reports, 1)],
        style=(here / "report.css").read_text(encoding="utf-8"),
        themes={
            name: "; ".join(f"--{key}: {colour}" for key, colour in theme.items()) for name, theme in THEMES.items()
        },
        script=script,
        # Only this very script may run, whatever the text and figures hold.
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(path, page)


def _study(report: Report, key: str, level: int, markdown: MarkdownIt) -> dict[str, Any]:
    """A report as the template needs it, the headings of its sections at ``level``."""
    entries = list(report.provenance.items())
    sections = []
    for number, section in enumerate(report.sections, 1):
        name = f"{key}-{number}"
        blocks = [_block(block, f"{name}-{place}", level, markdown) for place, block in enumerate(section.blocks, 1)]
        sections.append({"id": name, "title": section.title, "collapsed": section.collapsed, "blocks": blocks})
    return {
        "id": key,
        "title": report.title,
        "lead": report.lead,
        "sections": sections,
        "provenance": (entries[:PROVENANCE_ENTRIES], entries[PROVENANCE_ENTRIES:]),
    }


def _block(block: Block, name: str, level: int, markdown: MarkdownIt) -> dict[str, Any]:
    match block:
        case Text(text):
            return {"kind": "text", "text": text}
        case Markdown(source):
            return {"kind": "html", "html": _html(source, markdown, level + 1)}
        case FigureFile():
            return {"kind": "figure", "html": _figure(block, name), "caption": block.caption}
        case Table():
            return {"kind": "table", "table": _table(block)}


def _figure(figure: FigureFile, name: str) -> str:
    """The drawing as HTML."""
    from markupsafe import escape

    if figure.path.suffix == ".svg":
        return inline_svg(figure.path, name, figure.alt)
    pixels = figure.path.read_bytes()
    if not pixels.startswith(b"\x89PNG"):
        raise InputError(f"{figure.path}: not a PNG image; it was cut, or is another file: run its study again")
    return f'<img src="data:image/png;base64,{base64.b64encode(pixels).decode()}" alt="{escape(figure.alt)}">'


@dataclass(frozen=True)
class _Table:
    """A table as the template needs it.

    Attributes:
        table: What it was made of.
        columns: ``n`` for a column of numbers, ``w`` for one of words, which do not wrap, ``t`` for one of text.
        rows: Text and sort key of every cell.
    """

    table: Table
    columns: Sequence[str]
    rows: Sequence[Sequence[tuple[str, float | str]]]

    @property
    def shown(self) -> Sequence[Sequence[tuple[str, float | str | None]]]:
        """Rows that stand in the page from the start; no key where the text is one."""
        rows = self.rows[:PAGE_ROWS]
        return [[(text, None if _short(text, key) == text else key) for text, key in row] for row in rows]

    @property
    def wide(self) -> bool:
        """Whether there are more columns than fit on paper as they are."""
        return len(self.columns) > PAPER_COLUMNS

    @property
    def more(self) -> dict[str, Any] | None:
        """All rows, for the script to show the others, where not all are shown."""
        if len(self.rows) <= PAGE_ROWS:
            return None
        return {"rows": [[_short(*cell) for cell in row] for row in self.rows], "page": PAGE_ROWS}


def _short(text: str, key: float | str) -> str | tuple[str, float | str]:
    """A cell for the script: its text alone where the script finds the same key in it."""
    try:
        return text if key == text or key == float(text) else (text, key)
    except ValueError:
        return (text, key)


def _table(table: Table) -> _Table:
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.header)
    keys = [sort_keys(column) for column in columns]
    kinds = [_kind(column) for column in keys]
    texts = [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in table.rows]
    rows = [[(text, keys[place][number]) for place, text in enumerate(row)] for number, row in enumerate(texts)]
    return _Table(table, kinds, rows)


def _kind(keys: Sequence[float | str]) -> str:
    if any(isinstance(key, float) for key in keys):
        return "n"
    return "w" if max((len(str(key)) for key in keys), default=0) <= WORD_LENGTH else "t"


def sort_keys(column: Sequence[str | Cell]) -> list[float | str]:
    """What a column sorts by: numbers if every cell that is not empty begins with one, else its texts.

    Empty cells have an empty text and sort last.

    >>> sort_keys(["1,024", "-", "9.5 (p4:4)", Cell("2 GB", 2e9)])
    [1024.0, '', 9.5, 2000000000.0]
    >>> sort_keys(["10", "none: lookups"])
    ['10', 'none: lookups']
    >>> sort_keys(["5-6%", "12%"]), sort_keys(["2026-11-21"]), sort_keys(["87fba96"])
    ([5.0, 12.0], ['2026-11-21'], ['87fba96'])
    """
    found: list[float | str] = []
    for cell in column:
        text = cell.text if isinstance(cell, Cell) else cell.strip()
        if isinstance(cell, Cell):
            found.append(float(cell.value))
        elif text in _EMPTY:
            found.append("")
        elif number := _NUMBER.match(text):
            found.append(float(number[1].replace(",", "").replace("−", "-")))
        else:
            return [one.text if isinstance(one, Cell) else one for one in column]
    return found


def _html(source: str, markdown: MarkdownIt, level: int) -> str:
    """Markdown as HTML, its highest heading at ``level``."""
    tokens = markdown.parse(source)
    headings = [token for token in tokens if token.type in {"heading_open", "heading_close"}]
    highest = min((int(token.tag[1]) for token in headings), default=1)
    for token in headings:
        token.tag = f"h{min(6, int(token.tag[1]) - highest + level)}"
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def _markdown() -> MarkdownIt:
    """CommonMark with tables; HTML is shown as text, images as their words, and only links to the web stay links."""
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def keep_web_links(state: Any) -> None:
        for token in state.tokens:
            children, kept = [], [True]
            for child in token.children or ():
                if child.type == "link_open":
                    kept.append(str(child.attrGet("href")).startswith(("https://", "http://")))
                if child.type == "image":
                    children.append(Token("text", "", 0, content=child.content))
                elif child.type not in {"link_open", "link_close"} or kept[-1]:
                    children.append(child)
                if child.type == "link_close":
                    kept.pop()
            if token.children is not None:
                token.children = children

    parser.core.ruler.push("keep_web_links", keep_web_links)
    return parser
