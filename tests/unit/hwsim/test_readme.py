"""The package's README shows code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import hwsim


def test_the_readme_example_runs():
    text = (Path(hwsim.__file__).parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})


def test_the_readme_names_files_that_exist():
    folder = Path(hwsim.__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (folder / name).is_file(), name
