"""What an example registers is for its own test only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def registrations_taken_back() -> Iterator[None]:
    """Schedulers and tasks that are registered inside are forgotten at the end."""
    from accuracy.schedulers import registry
    from accuracy.tasks import base

    factories = (registry._SCHEDULERS._factories, base._TASKS._factories)
    before = [dict(names) for names in factories]
    try:
        yield
    finally:
        for names, known in zip(factories, before, strict=True):
            names.clear()
            names.update(known)
