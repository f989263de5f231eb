"""The error this package raises for input it cannot work on."""

from __future__ import annotations


class KernelError(ValueError):
    """A tensor or a width a kernel cannot take; the message names it, its value, the bound and the remedy."""
