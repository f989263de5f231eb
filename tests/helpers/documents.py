"""Markdown documents of the repository as tests see them: their code blocks, commands and links."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
NOT_OURS = {".git", ".venv", "_build", "_generated", ".pytest_cache", ".hypothesis", "results"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and what it holds."""

    language: str
    text: str


@dataclass(frozen=True)
class ShellLine:
    """A line of a shell block.

    Attributes:
        words: The command, without redirection and settings of variables.
        out: File that takes its output.
        comment: What stands behind ``#``: how long it takes, or that it needs a GPU.
    """

    words: tuple[str, ...]
    out: str | None
    comment: str

    @property
    def needs_gpu(self) -> bool:
        """Whether it cannot run here."""
        return "GPU" in self.comment

    @property
    def never_ends(self) -> bool:
        """Whether it serves until somebody stops it."""
        return "Ctrl-C" in self.comment

    @property
    def takes_minutes(self) -> bool:
        """Whether it takes longer than a reader would wait."""
        return re.search(r"\bminutes?\b|\bhours?\b", self.comment) is not None


@lru_cache(maxsize=1)
def documents() -> tuple[Path, ...]:
    """Every Markdown file that somebody wrote, in order."""
    found = []
    for folder, below, files in os.walk(REPOSITORY):
        below[:] = sorted(name for name in below if name not in NOT_OURS)
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".md")]
    return tuple(found)


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order; those of a list lose their indentation."""
    found: list[Block] = []
    lines = iter(document.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if fence := re.match(r"( *)```(.*)", line):
            inside = takewhile(lambda inner: inner.strip() != "```", lines)
            found.append(Block(fence[2].strip(), "\n".join(inner.removeprefix(fence[1]) for inner in inside) + "\n"))
    return found


def shell_lines(block: Block) -> list[ShellLine]:
    """The commands of a shell block."""
    return [parse_line(line) for line in block.text.splitlines() if line.strip() and not line.startswith("#")]


def parse_line(line: str) -> ShellLine:
    """Take a shell line apart.

    >>> parse_line("A=1 bittaper doctor --json > a.json  # 4 seconds").words
    ('bittaper', 'doctor', '--json')
    >>> parse_line("bittaper trace --schedule p4:4>3@8").out
    '3@8'
    """
    command, _, comment = line.partition(" # ")
    lexer = shlex.shlex(command, posix=True, punctuation_chars=">")  # as a shell: an unquoted > redirects
    lexer.whitespace_split = True
    words = list(lexer)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    out = words[words.index(">") + 1] if ">" in words else None
    return ShellLine(tuple(words[: words.index(">")] if out else words), out, comment)


def commands(document: Path) -> list[ShellLine]:
    """Every line of a document that calls our program, whatever block it stands in."""
    lines = [
        line for block in blocks(document) if block.language in {"", "sh", "text"} for line in block.text.splitlines()
    ]
    ours = re.compile(r"(?:[A-Z_]+=\S* )?(?:bittaper|python -m kernels) (?!COMMAND|\.\.\.)\S")
    return [parse_line(line) for line in lines if ours.match(line)]


def local_links(document: Path) -> list[str]:
    """Targets of a document's links to files, code left out."""
    parts = re.split(
        r"^ *```.*?^ *```$|`[^`\n]+`", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return [target for part in parts for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", part)]
