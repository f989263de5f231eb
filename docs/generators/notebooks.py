"""Notebooks as pages: kept without outputs, run when the documentation is built, shown with what they then said."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

PACKAGES = ("hwsim", "kernels", "accuracy", "dse", "studies")
TIMEOUT_S = 300
"""Of one cell."""


def pages(folder: Path, out: Path) -> dict[str, str]:
    """One page for each notebook of ``folder``, in the order of their names."""
    found = {f"notebooks/{path.stem}.md": path for path in sorted(folder.glob("*.ipynb"))}
    return {
        name: as_markdown(executed(path, out / "notebooks"), path.stem, out / "notebooks")
        for name, path in found.items()
    }


def executed(path: Path, cache: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; one that was run before, on the same code and kept results, is not run again.

    Raises:
        CellExecutionError: If a cell fails; nothing is kept then.
    """
    source = path.read_text(encoding="utf-8")
    repository = path.parent.parent.parent
    state = hashlib.sha256(source.encode() + _state(repository)).hexdigest()[:16]
    kept = cache / f"{path.stem}-{state}.executed"
    if not kept.is_file():
        notebook = nbformat.reads(source, as_version=4)
        work = cache / "work" / path.stem
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(work)}},
            extra_arguments=["--log-level=ERROR"],
        )
        # Figures go into the notebook, whatever the environment of the build says.
        inline = {"PYTHONPATH": str(repository), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        client.execute(env={**os.environ, **inline})
        for old in cache.glob(f"{path.stem}-*.executed"):
            old.unlink()
        kept.write_text(nbformat.writes(notebook), encoding="utf-8")
    return nbformat.reads(kept.read_text(encoding="utf-8"), as_version=4)


@lru_cache(maxsize=1)
def _state(repository: Path) -> bytes:
    """Hash of everything that a notebook's outputs may depend on: the packages' code and the files beside it."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((repository / package).rglob("*")):
            if path.suffix in {".py", ".csv", ".json", ".yaml"}:
                digest.update(path.read_bytes())
    return digest.digest()


def as_markdown(notebook: nbformat.NotebookNode, stem: str, pictures: Path) -> str:
    """MyST Markdown of a notebook that was run: its text, its code and what the code said.

    Args:
        notebook: With outputs.
        stem: Its name, before the numbers of its pictures.
        pictures: Folder that gets the pictures.
    """
    parts = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.source.strip():
            parts.append(f"```python\n{cell.source}\n```")
            said = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
            parts.append(f"```text\n{said.rstrip()}\n```" if said.strip() else "")
            parts += [
                _output(output, f"{stem}-{number}-{index}", pictures) for index, output in enumerate(cell.outputs)
            ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: Any, name: str, pictures: Path) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        (pictures / f"{name}.png").write_bytes(base64.b64decode(data["image/png"]))
        return f"![What the cell above draws]({name}.png)"
    if "text/html" in data:
        return f'```{{raw}} html\n<div class="notebook-table">{data["text/html"]}</div>\n```'
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""
