"""The gallery: every registered study with its kept figures."""

from __future__ import annotations

import os
import re
from pathlib import Path

from docs.generators.readmes import PICTURES, documents
from studies.commands.study import STUDIES

KEPT = ("results", "example")
"""Folders of a study in which a run is kept."""


def pages(repository: Path, out: Path) -> dict[str, str]:
    """An overview of the studies and a gallery of their figures."""
    known = documents(repository)
    cards, sections, readmes = [], [], []
    for name, summary in STUDIES.items():
        folder = Path("studies", name.replace("-", "_"))
        readme = known.get(folder / "README.md")
        figures = kept_figures(repository / folder)
        link = f"../{readme}" if readme else ""
        if readme:
            readmes.append(f"{name} <../{readme.removesuffix('.md')}>")
        cards.append(_card(name, summary, link, figures[0] if figures else None, out))
        if figures:
            titles = _captions(repository / folder / "README.md")
            sections.append(_section(name, link, figures, titles, out))
    # What stands beside the studies without being one: the demo, the report of an exploration.
    readmes += [
        f"../{page.removesuffix('.md')}"
        for path, page in known.items()
        if path.match("studies/*/README.md") and not any(page.removesuffix(".md") in entry for entry in readmes)
    ]
    overview = (
        "# Studies\n\n`bittaper study NAME` computes each of these; what is shown is one kept run, with its numbers "
        "and provenance beside it in the repository. Click a card for method, findings and what falls short.\n\n"
        "::::{grid} 1 2 2 3\n:gutter: 2\n\n" + "\n".join(cards) + "::::\n\n"
        "```{toctree}\n:hidden:\n\nFigures <gallery>\n" + "\n".join(readmes) + "\n```\n"
    )
    gallery = "# Figures\n\nEvery kept figure, by study.\n\n" + "\n".join(sections)
    return {"studies/index.md": overview, "studies/gallery.md": gallery}


def kept_figures(folder: Path) -> list[Path]:
    """A study's kept figures, PNG before SVG where there are both; one that its README shows comes first."""
    found: dict[str, Path] = {}
    for kept in KEPT:
        for path in sorted((folder / kept).rglob("*")):
            key = str(path.with_suffix(""))
            if path.suffix == ".png" or (path.suffix in PICTURES and key not in found):
                found[key] = path
    shown = list(_captions(folder / "README.md"))
    return sorted(found.values(), key=lambda path: shown.index(path.stem) if path.stem in shown else len(shown))


def _captions(readme: Path) -> dict[str, str]:
    """Captions of the pictures in a README by file name, in its order."""
    if not readme.is_file():
        return {}
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", readme.read_text(encoding="utf-8"))
    return {Path(target).stem: text for text, target in pictures}


def _card(name: str, summary: str, link: str, figure: Path | None, out: Path) -> str:
    options = f":link: {link}\n:link-type: doc\n".replace(".md", "") if link else ""
    picture = f":img-top: {os.path.relpath(figure, out / 'studies')}\n:img-alt: Figure of {name}\n" if figure else ""
    return f":::{{grid-item-card}} {name}\n{options}{picture}\n{summary}\n:::\n"


def _section(name: str, link: str, figures: list[Path], titles: dict[str, str], out: Path) -> str:
    heading = f"## [{name}]({link})" if link else f"## {name}"
    shown = [
        f"```{{figure}} {os.path.relpath(figure, out / 'studies')}\n:alt: {titles.get(figure.stem, figure.stem)}\n"
        f":width: 100%\n\n{titles.get(figure.stem) or figure.stem.replace('_', ' ').replace('-', ' ')}\n```\n"
        for figure in figures
    ]
    return f"{heading}\n\n" + "\n".join(shown)
