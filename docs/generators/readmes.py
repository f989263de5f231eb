"""The README of each package and study as a page: included, not repeated."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE_READMES = (
    "hwsim/README.md",
    "dse/README.md",
    "accuracy/README.md",
    "accuracy/quantization/README.md",
    "accuracy/reference/MODEL_CARD.md",
    "kernels/README.md",
    "kernels/results/README.md",
    "kernels/tuning/README.md",
)
ROOT_DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "THIRD-PARTY-NOTICES.md")
LISTED = {Path(name).name for name in (*PACKAGE_READMES, *ROOT_DOCUMENTS)}
"""What the documentation's contents name; the rest, such as a study's tables, is reached by links."""
ORPHAN = "---\norphan: true\n---\n\n"
PICTURES = {".png", ".svg"}

_FENCED = re.compile(r"(^```.*?^```|`[^`\n]+`)", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def documents(repository: Path) -> dict[Path, str]:
    """Every document that becomes a page, and the page's path below the generated folder."""
    listed = [Path(name) for name in (*PACKAGE_READMES, *ROOT_DOCUMENTS)]
    studies = [path.relative_to(repository) for path in sorted((repository / "studies").glob("*/README.md"))]
    results = [path.relative_to(repository) for path in sorted((repository / "studies").glob("*/[re]*/*.md"))]
    found = [*listed, *studies, *results]
    return {
        path: f"files/{path.with_suffix('')}.md".replace("-", "_")
        for path in dict.fromkeys(found)
        if (repository / path).is_file()
    }


def pages(repository: Path, out: Path) -> dict[str, str]:
    """The documents with their links set right for where they stand now."""
    known = documents(repository)
    texts = {path: (repository / path).read_text(encoding="utf-8") for path in known}
    return {
        page: ORPHAN * (path.name not in LISTED) + relinked(texts[path], repository, path, out, known)
        for path, page in known.items()
    }


def relinked(text: str, repository: Path, document: Path, out: Path, known: Mapping[Path, str]) -> str:
    """The text with every local link led to the page, the picture or the file that it means.

    Args:
        text: Markdown of ``document``.
        repository: Root that ``document`` is relative to.
        document: Where the text comes from.
        out: Folder of the generated pages.
        known: Pages by document, relative to ``out``.
    """
    here = (out / known[document]).parent

    def target(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(document.parent / match[1]))
        if path.suffix == "" and (path / "README.md") in known:
            path /= "README.md"
        if path in known:
            return f"]({os.path.relpath(out / known[path], here)}{match[2] or ''})"
        return f"]({os.path.relpath(repository / path, here)})"

    parts = _FENCED.split(text)
    # Every second part is code.
    return "".join(part if index % 2 else _LINK.sub(target, part) for index, part in enumerate(parts))


def local_links(text: str) -> Iterator[str]:
    """Targets of the local links of a Markdown text, code left out."""
    for part in _FENCED.split(text)[::2]:
        for match in _LINK.finditer(part):
            yield match[1]
