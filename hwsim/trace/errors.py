"""The errors a user can cause, each one line naming field, value, bound and remedy."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError


class BittaperError(Exception):
    """Base of every error bittaper raises on purpose; its message is one line fit for a terminal."""


class InputError(BittaperError, ValueError):
    """Something given by the user (a value, a file, an option) cannot be used."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Make the error for a name that is not registered, with the nearest name and the whole list.

    >>> str(unknown_name("NPU", "pmpd-4", ["pmpd-4k", "pmpd-16k"]))
    "unknown NPU 'pmpd-4'; did you mean 'pmpd-4k'? known: pmpd-16k, pmpd-4k"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return InputError(f"unknown {kind} '{name}'{hint} known: {', '.join(names)}")


def from_validation(error: ValidationError, source: str, line: int | None = None) -> InputError:
    """Turn a pydantic error into one line: file, line, field, value, bound.

    Only the first problem is spelt out; the number of others follows. A rule between fields names them itself: the
    record that breaks it would only be noise.
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    where = source if line is None else f"{source}:{line}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if first["type"] == "extra_forbidden":
        message = "no such field; check its name or leave it out"
    value = "" if first["type"] == "missing" or isinstance(first["input"], dict) else f" = {_short(first['input'])}"
    more = error.error_count() - 1
    rest = f" (and {more} more)" if more else ""
    return InputError(f"{where}: {field}{value}{': ' if field else ''}{message}{rest}")


def _short(value: object, limit: int = 80) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."
