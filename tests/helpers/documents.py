"""Markdown documents of the repository as tests see them: their code blocks, commands and links."""

from __future__ import annotations

import os
import re
import shlex
from argparse import ArgumentParser
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
NOT_OURS = {".git", ".venv", "_build", "_generated", ".pytest_cache", ".hypothesis", "results"}
README = REPOSITORY / "README.md"
SHIPPED_MODEL = "accuracy/reference/selvic-llama"


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
        text: The line as a reader copies it, without the comment.
    """

    words: tuple[str, ...]
    out: str | None
    comment: str
    text: str

    @property
    def needs_gpu(self) -> bool:
        """Whether it cannot run here."""
        return "needs a GPU" in self.comment or "cuda" in self.words

    @property
    def is_synopsis(self) -> bool:
        """Whether it shows what may be written, rather than a command."""
        return any(word.startswith("[") or "|" in word for word in self.words)

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
    return ShellLine(tuple(words[: words.index(">")] if out else words), out, comment, command.strip())


def commands(document: Path) -> list[ShellLine]:
    """Every line of a document that calls our program, whatever block it stands in."""
    lines = [
        line for block in blocks(document) if block.language in {"", "sh", "text"} for line in block.text.splitlines()
    ]
    ours = re.compile(r"(?:[A-Z_]+=\S* )?(?:bittaper|python -m kernels) (?!COMMAND|\.\.\.)\S")
    return [parse_line(line) for line in lines if ours.match(line)]


def all_lines(document: Path) -> list[ShellLine]:
    """Every command of a document: all lines of its shell blocks, and those of other blocks that call a program."""
    of_shell = [line for block in blocks(document) if block.language == "sh" for line in shell_lines(block)]
    others = [line for block in blocks(document) if block.language in {"", "text"} for line in block.text.splitlines()]
    called = re.compile(r"(?:[A-Z_]+=\S* )?(?:bittaper|python -m|pip install|make|kernels/gpu_check\.sh) \S")
    return [*of_shell, *(parse_line(line) for line in others if called.match(line) and "..." not in line)]


def minutes_of_studies() -> dict[str, str]:
    """What the README's table says each study takes, by the study's name."""
    found: dict[str, str] = {}
    for line in README.read_text(encoding="utf-8").splitlines():
        names = re.findall(r"\[`([\w-]+)`\]\(studies/", line)
        if not (line.startswith("| [`") and names):
            continue
        cell = line.strip("| ").split(" | ")[-1].split(";")[0]
        numbers = re.findall(r"[\d.]+", cell)
        # One duration for all, or a number each with the unit at the end.
        each = [f"{number} minutes" for number in numbers] if len(numbers) == len(names) > 1 else [cell] * len(names)
        found |= dict(zip(names, each, strict=True))
    return found


def said_duration(line: ShellLine) -> str:
    """How long the documents say that a command takes: its own comment, else the README's table; empty: nowhere."""
    if re.search(r"\d+ (?:s|seconds?|minutes?|hours?)\b", line.comment):
        return line.comment
    whole = minutes_of_studies().get(line.words[2], "") if line.words[:2] == ("bittaper", "study") else ""
    return f"the whole study {whole}" if whole and line.words[3:] else whole


def pages() -> list[Path]:
    """The pages below ``docs/``."""
    return [path for path in documents() if path.is_relative_to(REPOSITORY / "docs")]


def pages_that_run() -> list[Path]:
    """The documents whose blocks make one story, which runs from top to bottom."""
    packages = [REPOSITORY / f"{folder}/README.md" for folder in ("accuracy/quantization", "accuracy", "dse")]
    every = (README, *packages, *pages())
    return [page for page in every if any(block.language in {"sh", "python"} for block in blocks(page))]


def parser_of(words: tuple[str, ...]) -> tuple[ArgumentParser, tuple[str, ...]]:
    """The parser that takes a line, and the words it takes."""
    from kernels.cli import build_parser as kernels_parser
    from studies.cli import build_parser

    if words[:3] == ("python", "-m", "kernels"):
        return kernels_parser(), words[3:]
    return build_parser(words[1]), words[1:]


def local_links(document: Path) -> list[str]:
    """Targets of a document's links to files, code left out."""
    parts = re.split(
        r"^ *```.*?^ *```$|`[^`\n]+`", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return [target for part in parts for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", part)]
