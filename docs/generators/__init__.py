"""Pages of the documentation that are written from the code: field references, commands, studies, API, notebooks.

:func:`write_pages` runs at the start of every build, so these pages say what the code says. What they are made from
is what the program itself uses: the pydantic models, the argparse parsers, the registry of studies, ``__all__``.
"""

from __future__ import annotations

from pathlib import Path

from docs.generators import api, commands, notebooks, readmes, records, studies

REPOSITORY = Path(__file__).parent.parent.parent
DOCS = REPOSITORY / "docs"
GENERATED = DOCS / "_generated"


def write_pages() -> None:
    """Write all generated pages into ``docs/_generated``; a page that would not change is left alone."""
    pages: dict[str, str] = {}
    for part in (records, commands, api):
        pages |= part.pages()
    pages |= readmes.pages(REPOSITORY, GENERATED)
    pages |= studies.pages(REPOSITORY, GENERATED)
    pages |= notebooks.pages(DOCS / "notebooks", GENERATED)
    for old in GENERATED.rglob("*.md"):
        if str(old.relative_to(GENERATED)) not in pages:
            old.unlink()
    for name, text in pages.items():
        path = GENERATED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
