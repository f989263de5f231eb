"""The folder in which a calibration keeps its state, so that a killed run goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy_format
from torch import Tensor

from hwsim.trace import InputError, atomic_writer, canonical_sha256, read_json, write_json

_POSITION = "position.json"


class CalibrationState:
    """How many blocks are done, and float32 arrays ``[tokens of all texts, H]``.

    Every file is written beside its name and renamed when it is on the disk: a file that is there is complete, and
    whether it is there says what has been done.

    Attributes:
        done: Number of blocks that are done.
    """

    def __init__(self, folder: Path, identity: object, hidden_size: int, lengths: Sequence[int]) -> None:
        """Make the folder, or open the one of a calibration that was begun.

        Args:
            folder: Where the files lie.
            identity: JSON value that says which calibration this is: model, statistic, tokens.
            hidden_size: H.
            lengths: Tokens of each text.

        Raises:
            InputError: If the folder holds another calibration's state.
        """
        self._folder = folder
        self._sha256 = canonical_sha256(identity)
        self._hidden_size = hidden_size
        self._bounds = np.cumsum([0, *lengths])
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".*.part"):
            unfinished.unlink()
        if (folder / _POSITION).exists():
            position: Any = read_json(folder / _POSITION)
            if not isinstance(position, dict) or position.get("calibration_sha256") != self._sha256:
                raise InputError(f"{folder}: holds a calibration of another model, statistic or texts; remove it")
            self.done = int(position["blocks_done"])
        else:
            self.finish(0)

    def finish(self, blocks: int) -> None:
        """Note that so many blocks are done; durable before it returns."""
        write_json(self._folder / _POSITION, {"calibration_sha256": self._sha256, "blocks_done": blocks})
        self._sync()
        self.done = blocks

    def has(self, name: str) -> bool:
        """Whether an array has been written."""
        return self._file(name).exists()

    def remove(self, name: str) -> None:
        """Delete an array, if it is there."""
        self._file(name).unlink(missing_ok=True)

    def read(self, name: str) -> Iterator[Tensor]:
        """The rows of one text after the other, ``[1, T, H]``, copied out of the mapped file."""
        rows = np.load(self._file(name), mmap_mode="r")
        for start, end in pairwise(self._bounds):
            yield torch.from_numpy(np.array(rows[start:end]))[None]

    @contextmanager
    def write(self, name: str) -> Iterator[Callable[[Tensor], None]]:
        """Write an array; the function it gives appends the rows of the next text, ``[1, T, H]``."""
        shape = (int(self._bounds[-1]), self._hidden_size)
        with atomic_writer(self._file(name), "wb") as file:
            npy_format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})

            def append(rows: Tensor) -> None:
                file.write(rows.detach().contiguous().numpy().data)

            yield append
        self._sync()

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _sync(self) -> None:
        """Make the names in the folder durable; a file's own fsync does not."""
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
