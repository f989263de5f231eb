"""How answers about an exploration are written for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import TextWrapper
from typing import Any

WIDTH_COLUMNS = 100
TITLE_COLUMNS = 11
_SPACE = "\N{NO-BREAK SPACE}"


def in_words(name: str, value: Any, digits: int = 6) -> str:
    """A value as people read it: bandwidths in GB/s, everything else in its own unit, which its name tells.

    >>> in_words("bandwidth_bytes_per_s", 55.7152e9), in_words("matrix.macs", 4096), in_words("ttft_s", 0.12345, 3)
    ('55.7152 GB/s', '4096', '0.123')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name.endswith("_bytes_per_s"):
        return f"{value / 1e9:.{digits}g} GB/s"
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


def in_pairs(values: Mapping[str, Any]) -> list[str]:
    """``name = value`` of each.

    >>> in_pairs({"sfu.lanes": 8, "memory.bandwidth_bytes_per_s": 32e9})
    ['sfu.lanes = 8', 'memory.bandwidth_bytes_per_s = 32 GB/s']
    """
    return [f"{name} = {in_words(name, value)}" for name, value in values.items()]


def wrapped(text: str, first: str = "", rest: str = "    ") -> Iterator[str]:
    """Lines that break neither around an equals sign nor before a unit.

    Args:
        text: On one line.
        first: Before the first line.
        rest: Before every other.
    """
    wrapper = TextWrapper(WIDTH_COLUMNS, first, rest, break_long_words=False, break_on_hyphens=False)
    for line in wrapper.wrap(re.sub(r" (?==|GB/s)|(?<= =) ", _SPACE, text)):
        yield line.replace(_SPACE, " ")


def listed(title: str, items: Sequence[str]) -> Iterator[str]:
    """Indented items under a title that stands before the first; nothing where there are none.

    >>> list(listed("keeps", ["area <= 6", "ttft <= 2"]))
    ['  keeps      area <= 6', '             ttft <= 2']
    """
    for index, item in enumerate(items):
        indent = f"  {'' if index else title:<{TITLE_COLUMNS}}" if title else "  "
        yield from wrapped(item, indent, " " * (len(indent) + 2))
