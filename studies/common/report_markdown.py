"""A report as Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from hwsim.trace import write_text
from studies.common.report import Block, Cell, FigureFile, Markdown, Report, Table, Text


def write_markdown(path: Path, report: Report) -> None:
    """Write a report as Markdown, atomically; figures are linked relative to it.

    Args:
        path: Markdown file, in or above the folder of the figures.
        report: The content.
    """
    blocks = [f"# {_plain(report.title)}", _plain(report.lead)]
    for section in report.sections:
        blocks.append(f"## {_plain(section.title)}")
        blocks += [_block(block, path) for block in section.blocks]
    blocks.append("## Provenance")
    blocks.append("\n".join(f"- {_plain(key)}: {_plain(value)}" for key, value in report.provenance.items()))
    write_text(path, "\n\n".join(blocks) + "\n")


def _block(block: Block, path: Path) -> str:
    match block:
        case Text(text):
            return _plain(text)
        case Markdown(source):
            return source
        case FigureFile(figure, caption, alt):
            target = figure.resolve().relative_to(path.parent.resolve()).as_posix()
            return f"![{_plain(alt)}]({target})\n\n{_plain(caption)}"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    lines = [
        "| " + " | ".join(_plain(cell) for cell in table.header) + " |",
        "|" + "|".join(["---", *["---:"] * (len(table.header) - 1)]) + "|",
        *(
            "| " + " | ".join(_plain(cell.text if isinstance(cell, Cell) else cell) for cell in row) + " |"
            for row in table.rows
        ),
    ]
    return f"{_plain(table.caption)}\n\n" * bool(table.caption) + "\n".join(lines)


def _plain(text: str) -> str:
    r"""Text that means itself in Markdown, within a line.

    >>> print(_plain("a_b | 2 * 3 <i>"))
    a_b \| 2 \* 3 \<i>
    """
    return re.sub(r"([\\`*<|])", r"\\\1", text)
