"""The README of each package and study as a page: included, not repeated.

Pages written by hand name a README or a notebook where it lies, so that their links also work unbuilt; as an extension
of Sphinx this module leads them to its page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sphinx.application import Sphinx

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
        document: Where the text comes from; it stays there if it is none of ``known``.
        out: Folder of the generated pages.
        known: Pages by document, relative to ``out``.
    """
    here = (out / known[document] if document in known else repository / document).parent

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


def _lead_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    if not name.startswith("_generated/"):
        docs = Path(app.srcdir)
        source[0] = relinked(source[0], docs.parent, Path("docs", name), docs / "_generated", sources(docs.parent))


def sources(repository: Path) -> dict[Path, str]:
    """Every document and notebook, and its page's path below the generated folder."""
    notebooks = sorted((repository / "docs/notebooks").glob("*.ipynb"))
    return documents(repository) | {path.relative_to(repository): f"notebooks/{path.stem}.md" for path in notebooks}


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect it."""
    app.connect("source-read", _lead_to_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
