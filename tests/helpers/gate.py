"""Holds a model before every pass, so that a test sees a response while it grows."""

from __future__ import annotations

import threading

WAIT_S = 60


class Gate:
    """To be a model's forward pre-hook; open at first."""

    def __init__(self) -> None:
        self._passes, self._shut = threading.Semaphore(0), False

    def shut(self) -> None:
        """Let no further pass run."""
        while self._passes.acquire(blocking=False):
            pass
        self._shut = True

    def let(self, passes: int) -> None:
        """Let so many passes run."""
        self._passes.release(passes)

    def open(self) -> None:
        """Let everything run, those who wait included."""
        self._shut = False
        self._passes.release(1000)

    def wait(self, *_: object) -> None:
        """Called before a pass."""
        if self._shut:
            assert self._passes.acquire(timeout=WAIT_S)
