"""Weigh models: ``python -m studies.cpu_decoding.memory SOURCE STORE`` prints JSON lines.

One process loads, runs and frees every mode in turn. Each is weighed by its tensors and by how much the process grew,
after a first round in which libraries are loaded and their working memory is allocated.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from accuracy.linear import weight_bytes
from studies.cpu_decoding.modes import CACHED, FLOAT, MEMORY_MODES, UNPACKED, GreedyDecoding, Mode

Row = dict[str, str | float]


def measure_memory(source: Path, store: Path) -> Iterator[Row]:
    """Bytes that the tensors of every mode take, and by how much the process grew when it loaded and ran it."""
    for name in (FLOAT, CACHED, UNPACKED):
        _weigh(Mode(name), source, store)
    for mode in MEMORY_MODES:
        tensors, grown = _weigh(mode, source, store)
        yield {
            "mode": mode.name,
            "weight_bits": mode.bits,
            "whole_store": mode.name != FLOAT and mode.max_bits is None,
            "weight_bytes": tensors,
            "resident_bytes": grown,
        }


def _weigh(mode: Mode, source: Path, store: Path) -> tuple[int, int]:
    """Decode a few tokens; bytes of the model's tensors, and by how much the process is larger than before."""
    before = _resident_bytes()
    lm = mode.load(source, store)
    decoding = GreedyDecoding(lm, mode.bits)
    for _ in range(3):
        decoding.step()
    return weight_bytes(lm.model), _resident_bytes() - before


def _resident_bytes() -> int:
    """Resident memory, after all that was freed is given back to the system."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(source: str, store: str) -> None:
    """Print one line for each mode."""
    torch.set_num_threads(1)
    for row in measure_memory(Path(source), Path(store)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
