"""Small pieces of MyST Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table; cells are Markdown already, line breaks and pipes in them are taken care of."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def code(text: object) -> str:
    """Text in code style."""
    return f"`{text}`"


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: roles and double backticks become code, sections of Google style become paragraphs.

    >>> prose("Read :func:`a.b` as ``x``.")
    'Read `a.b` as `x`.'
    """
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":(?:\w+:)?\w+:`~?([^`]+)`", r"`\1`", text)
    text = text.replace("``", "`")
    return re.sub(r"^(Source|Note):[ \n]+", r"*\1*: ", text, flags=re.MULTILINE)
