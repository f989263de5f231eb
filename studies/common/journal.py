"""Raw numbers of a study in files that appear whole, so that a run that is stopped goes on with what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwsim.trace import canonical_sha256, read_json, write_json


class Journal:
    """Numbers by what they depend on: a file each, named by the hash of that."""

    def __init__(self, folder: Path) -> None:
        """Keep them in a folder, which the first one makes."""
        self._folder = folder

    def get_or(self, key: object, make: Callable[[], Any]) -> Any:
        """What is kept under a key; made and kept first where there is nothing.

        Args:
            key: All that the numbers depend on, as JSON.
            make: Gives the numbers, as JSON.
        """
        path = self._path(key)
        if not path.is_file():
            write_json(path, make())
        return read_json(path)

    def _path(self, key: object) -> Path:
        return self._folder / f"{canonical_sha256(key)[:32]}.json"
