"""Schedulers by name; anyone may add one with the decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accuracy.schedulers.base import Scheduler
from hwsim.trace import InputError, unknown_name

Factory = Callable[..., Scheduler]
F = TypeVar("F", bound=Factory)

_FACTORIES: dict[str, Factory] = {}


def register_scheduler(name: str) -> Callable[[F], F]:
    """Register a scheduler class or function under ``name``.

    Raises:
        ValueError: If the name is taken; two schedulers of one name would make traces ambiguous.
    """

    def add(factory: F) -> F:
        if name in _FACTORIES:
            raise ValueError(f"scheduler '{name}' is already registered; choose another name")
        _FACTORIES[name] = factory
        return factory

    return add


def scheduler_names() -> tuple[str, ...]:
    """Names of all registered schedulers, sorted."""
    return tuple(sorted(_FACTORIES))


def make_scheduler(name: str, **options: Any) -> Scheduler:
    """Make the scheduler ``name``.

    Args:
        name: A registered name.
        options: What its constructor takes.

    Raises:
        InputError: If the name is unknown (the nearest is suggested) or the options do not fit.
    """
    if name not in _FACTORIES:
        raise unknown_name("scheduler", name, _FACTORIES)
    try:
        return _FACTORIES[name](**options)
    except TypeError as error:
        raise InputError(f"scheduler '{name}': {error}") from None
