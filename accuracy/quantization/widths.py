"""Which widths of a store are not worth running: codebooks are read too, and short rows share them badly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from hwsim.trace import FULL_PRECISION_BITS


class WastefulWidthWarning(UserWarning):
    """A stored width reads as many bits as a better one."""


def wasteful_widths(bits_per_weight: Mapping[int, float]) -> dict[int, int]:
    """Widths that cost no less than a wider one, which is at least as accurate.

    A row of K weights read at b bits takes ``b K`` bits of indices and ``16 * 2**b`` of its codebook. With K = 192
    width 8 reads 8 + 4096 / 192 = 29.3 bits per weight, and the unquantised weights only 16.

    Args:
        bits_per_weight: Per stored width, bits read per weight: indices, codebooks and sparse parts.

    Returns:
        Per wasteful width the widest that reads no more; 16, the unquantised weights, where it reads 16 bits or more.

    >>> wasteful_widths({6: 6 + 1024 / 192, 7: 7 + 2048 / 192, 8: 8 + 4096 / 192})
    {7: 16, 8: 16}
    """
    costs = {**bits_per_weight, FULL_PRECISION_BITS: float(FULL_PRECISION_BITS)}
    found = {}
    for width in sorted(bits_per_weight):
        better = [other for other, cost in costs.items() if other > width and cost <= costs[width]]
        if better:
            found[width] = max(better)
    return found


def describe_wasteful_widths(bits_per_weight: Mapping[int, float]) -> list[str]:
    """One sentence for each wasteful width, narrowest first."""
    costs = {**bits_per_weight, FULL_PRECISION_BITS: float(FULL_PRECISION_BITS)}
    return [
        f"width {width} reads {costs[width]:.3g} bits per weight, since short rows share its codebooks badly; "
        + (
            "unquantised weights read 16"
            if better == FULL_PRECISION_BITS
            else f"width {better} is better and reads {costs[better]:.3g}"
        )
        for width, better in wasteful_widths(bits_per_weight).items()
    ]


def warn_of_wasteful_widths(name: str, bits_per_weight: Mapping[int, float]) -> None:
    """Issue a :class:`WastefulWidthWarning` that names every wasteful width of a store, if there are any."""
    sentences = describe_wasteful_widths(bits_per_weight)
    if sentences:
        warnings.warn(f"{name}: {'; '.join(sentences)}", WastefulWidthWarning, stacklevel=2)
