"""A small seeded source of draws whose sequence is fixed by definition, not by the Python version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1


def stable_hash(text: str) -> int:
    """Hash text to 64 bits, the same in every process and Python version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Draws:
    """SplitMix64 stream; `random.Random` promises only `random()` to stay the same between Python versions.

    Args:
        key: Any text; equal keys give equal streams, different keys unrelated ones.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """

    def __init__(self, key: str) -> None:
        self._state = stable_hash(key)

    def below(self, bound: int) -> int:
        """Draw an integer in [0, bound); the bias of the remainder is below bound / 2**64."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return (z ^ (z >> 31)) % bound

    def choice(self, options: Sequence[T]) -> T:
        """Draw one of the options with equal chances."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """Return true in the given percentage of draws."""
        return self.below(100) < percent
