"""Switching the weight width of a model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from accuracy.linear import set_weight_bits, stored_widths
from hwsim.trace import InputError


class PrecisionSwitch:
    """Sets the weight width of a model, and only when it changes."""

    def __init__(
        self,
        model: torch.nn.Module,
        widths: Sequence[int] | None = None,
        apply: Callable[[torch.nn.Module, int], None] = set_weight_bits,
    ) -> None:
        """Prepare a model whose width is not known yet.

        Args:
            model: The model.
            widths: Widths it can run at; the stored ones by default.
            apply: How a width is set.
        """
        self.widths = tuple(sorted(stored_widths(model) if widths is None else widths))
        self._model, self._apply = model, apply
        self._bits: int | None = None

    def set(self, bits: int) -> None:
        """Make the next forward pass read ``bits`` bits per weight."""
        if bits != self._bits:
            self._apply(self._model, bits)
            self._bits = bits

    def forget(self) -> None:
        """Assume nothing about the model's width: somebody else may have set it."""
        self._bits = None

    def check(self, label: str, widths: frozenset[int]) -> None:
        """Refuse widths that are not stored.

        Raises:
            InputError: Naming the schedule, the width and the stored ones.
        """
        for bits in sorted(widths):
            if bits not in self.widths:
                stored = ", ".join(str(width) for width in self.widths)
                raise InputError(f"schedule {label}: weight_bits = {bits}: not stored; stored widths: {stored}")
