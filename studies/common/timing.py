"""What studies that time something share: one thread, processes of their own, and the spread of what was found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of a process whose numerical libraries compute on one thread."""


def measured_apart(module: str, *arguments: object) -> Any:
    """The JSON that a module prints when it runs in a fresh process, on one thread.

    Args:
        module: Its dotted name; it is run as ``python -m`` would, and found where this process finds modules.
        *arguments: What it is given, as text.

    Raises:
        CalledProcessError: If it fails; what it said of that stands on standard error.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute on one thread, so that CPU seconds mean the same for everything that is compared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """20th percentile, median and 80th percentile, interpolated between neighbours.

    >>> spread([5.0, 1.0, 2.0, 4.0, 3.0, 6.0]), spread([7.0])
    ((2.0, 3.5, 5.0), (7.0, 7.0, 7.0))

    Args:
        values: At least one.
    """
    tenths = quantiles(values, n=10, method="inclusive") if len(values) > 1 else list(values) * 9
    return tenths[1], tenths[4], tenths[7]
