"""The package's README shows code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import hwsim


def test_the_readme_examples_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(hwsim.__file__).parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert {path.name for path in (tmp_path / "results" / "run").iterdir()} >= {"result.json", "timeline.json"}


def test_the_readme_names_files_that_exist():
    folder = Path(hwsim.__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (folder / name).is_file(), name
