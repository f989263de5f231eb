"""Integer arithmetic of the simulator: time in cycles and picoseconds, sizes in bytes."""

from __future__ import annotations

from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Amount: TypeAlias = Any
"""An ``int``, or an :data:`IntArray`: the same quantity for many steps or many designs at once.

It is ``Any`` to the type checker because numpy's operators are not typed on that union.
"""

KIB = 1024
PS_PER_NS = 1_000
PS_PER_S = 10**12
BITS_PER_BYTE = 8


@overload
def ceil_div(numerator: int, denominator: int) -> int: ...
@overload
def ceil_div(numerator: Amount, denominator: Amount) -> Amount: ...
def ceil_div(numerator: Amount, denominator: Amount) -> Amount:
    """Divide and round up, for integers and integer arrays.

    >>> ceil_div(7, 2)
    4
    """
    return -(-numerator // denominator)


@overload
def round_up(value: int, multiple: int) -> int: ...
@overload
def round_up(value: IntArray, multiple: int) -> IntArray: ...
def round_up(value: Amount, multiple: int) -> Amount:
    """Smallest multiple of ``multiple`` that is not below ``value``.

    >>> round_up(17, 16), round_up(16, 16)
    (32, 16)
    """
    return ceil_div(value, multiple) * multiple


@overload
def bits_to_bytes(bits: int) -> int: ...
@overload
def bits_to_bytes(bits: IntArray) -> IntArray: ...
def bits_to_bytes(bits: Amount) -> Amount:
    """Round a number of bits up to whole bytes."""
    return ceil_div(bits, BITS_PER_BYTE)


def kib(value: float) -> int:
    """Bytes in ``value`` KiB, rounded down."""
    return int(value * KIB)


def minimum(left: Amount, right: Amount) -> Amount:
    """Elementwise smaller of two integers or integer arrays."""
    return min(left, right) if isinstance(left, int) and isinstance(right, int) else np.minimum(left, right)


def maximum(left: Amount, right: Amount) -> Amount:
    """Elementwise larger of two integers or integer arrays."""
    return max(left, right) if isinstance(left, int) and isinstance(right, int) else np.maximum(left, right)
