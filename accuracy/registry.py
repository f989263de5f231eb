"""Things made by name: what is registered, and an error that suggests the nearest name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from hwsim.trace import InputError, unknown_name

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Factories by name; anyone may add one.

    Attributes:
        kind: What it makes, for error messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorate a class or function to make it known as ``name``.

        Raises:
            ValueError: If the name is taken; two of one name would make results ambiguous.
        """

        def add(factory: F) -> F:
            if name in self._factories:
                raise ValueError(f"{self.kind} '{name}' is already registered; choose another name")
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._factories))

    def takes(self, name: str, option: str) -> bool:
        """Whether the constructor of ``name`` has this option; not where there is no such name."""
        return name in self._factories and option in inspect.signature(self._factories[name]).parameters

    def make(self, name: str, **options: Any) -> T:
        """Make ``name`` with its constructor's options.

        Raises:
            InputError: If the name is unknown (the nearest is suggested) or the options do not fit.
        """
        if name not in self._factories:
            raise unknown_name(self.kind, name, self._factories)
        return call_factory(self.kind, name, self._factories[name], options)


def call_factory(kind: str, name: str, factory: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Call a factory with options.

    Raises:
        InputError: If the options do not fit.
    """
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise InputError(f"{kind} '{name}': {error}") from None
    return factory(**options)
