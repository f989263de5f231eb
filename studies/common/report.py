"""One self-contained HTML report (text, sortable tables, inline SVG figures, provenance; opens offline); Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwsim.trace import write_text


@dataclass(frozen=True)
class Table:
    """A table; numbers align to the right and sort as numbers. A long one may start collapsed under its caption."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    collapsed: bool = False


@dataclass(frozen=True)
class FigureFile:
    """An SVG file that is copied into the page."""

    path: Path
    caption: str
    alt: str


@dataclass
class Section:
    """A heading with paragraphs, tables and figures in the order they were added."""

    title: str
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def text(self, paragraph: str) -> None:
        """Add a paragraph of plain text."""
        self.blocks.append({"kind": "text", "text": paragraph})

    def table(self, table: Table) -> None:
        """Add a table."""
        self.blocks.append({"kind": "table", "table": table})

    def figure(self, figure: FigureFile) -> None:
        """Add a figure."""
        svg = _inline_svg(figure.path.read_text(encoding="utf-8"), figure.path.stem)
        self.blocks.append({"kind": "figure", "svg": svg, "figure": figure})


def _inline_svg(text: str, prefix: str) -> str:
    """Strip what only a stand-alone file needs, and make ids unique within the page."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    # The page scales the drawing by its viewBox.
    return re.sub(
        r'(<svg[^>]*?) width="[^"]+"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]+"', r"\1", svg, count=1), count=1
    )


def write_report(path: Path, *, title: str, lead: str, sections: Sequence[Section], manifest: dict[str, str]) -> None:
    """Render the page and write it atomically.

    Args:
        path: HTML file.
        title: Heading of the page.
        lead: What was asked and what came out, in a paragraph.
        sections: The content.
        manifest: Provenance, shown at the end.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title, lead=lead, sections=sections, manifest=manifest
    )
    write_text(path, page)


def write_markdown(path: Path, *, title: str, lead: str, sections: Sequence[Section], manifest: dict[str, str]) -> None:
    """Write the same report as Markdown, atomically; figures are linked relative to it.

    Args:
        path: Markdown file, in or above the folder of the figures.
        title: Heading.
        lead: First paragraph.
        sections: The content.
        manifest: Provenance, listed at the end.
    """
    blocks = [f"# {_plain(title)}", _plain(lead)]
    for section in sections:
        blocks.append(f"## {_plain(section.title)}")
        for block in section.blocks:
            if block["kind"] == "text":
                blocks.append(_plain(block["text"]))
            elif block["kind"] == "figure":
                figure: FigureFile = block["figure"]
                target = figure.path.resolve().relative_to(path.parent.resolve()).as_posix()
                blocks.append(f"![{_plain(figure.alt)}]({target})\n\n{_plain(figure.caption)}")
            else:
                blocks.append(_markdown_table(block["table"]))
    blocks.append("## Provenance")
    blocks.append("\n".join(f"- {_plain(key)}: {_plain(value)}" for key, value in manifest.items()))
    write_text(path, "\n\n".join(blocks) + "\n")


def _markdown_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(_plain(cell) for cell in table.header) + " |",
        "|" + "|".join(["---", *["---:"] * (len(table.header) - 1)]) + "|",
        *("| " + " | ".join(_plain(cell) for cell in row) + " |" for row in table.rows),
    ]
    return f"{_plain(table.caption)}\n\n" * bool(table.caption) + "\n".join(lines)


def _plain(text: str) -> str:
    r"""Text that means itself in Markdown, within a line.

    >>> print(_plain("a_b | 2 * 3 <i>"))
    a_b \| 2 \* 3 \<i>
    """
    return re.sub(r"([\\`*<|])", r"\\\1", text)
