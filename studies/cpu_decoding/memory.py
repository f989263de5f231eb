"""Weigh models in processes of their own: ``python -m studies.cpu_decoding.memory SOURCE STORE`` prints JSON lines.

This process loads and runs the float model and the store once, and frees them: libraries are then loaded and their
working memory is allocated. For every mode it splits off a child, which measures by how much it grows.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from accuracy.linear import weight_bytes
from studies.cpu_decoding.modes import CACHED, FLOAT, MEMORY_MODES, GreedyDecoding, Mode

Row = dict[str, str | float]


def measure_memory(source: Path, store: Path) -> Iterator[Row]:
    """Bytes that the tensors of every mode take, and by how much a process grew when it loaded and ran it."""
    for name in (FLOAT, CACHED):
        _run(Mode(name), source, store)
    _free_unused()
    # The children share what is loaded; a fresh interpreter would grow by its libraries too.
    context = get_context("fork")
    for mode in MEMORY_MODES:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_weigh, args=(mode, source, store, sender))
        child.start()
        # With its own end closed, this process sees the end of a child that fails.
        sender.close()
        yield receiver.recv()
        child.join()


def _weigh(mode: Mode, source: Path, store: Path, sender: Connection) -> None:
    before = _resident_bytes()
    taken = _run(mode, source, store)
    row = {"mode": mode.name, "weight_bits": mode.bits, "whole_store": mode.max_bits is None and mode.name != FLOAT}
    sender.send({**row, "weight_bytes": taken[0], "resident_bytes": taken[1] - before})


def _run(mode: Mode, source: Path, store: Path) -> tuple[int, int]:
    """Decode a few tokens; bytes of the model's tensors, and of the process while it still holds them."""
    lm = mode.load(source, store)
    decoding = GreedyDecoding(lm, mode.bits)
    for _ in range(3):
        decoding.step()
    _free_unused()
    return weight_bytes(lm.model), _resident_bytes()


def _free_unused() -> None:
    """Give memory that was allocated and freed since back to the system."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(source: str, store: str) -> None:
    """Print one line for each mode."""
    torch.set_num_threads(1)
    for row in measure_memory(Path(source), Path(store)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
