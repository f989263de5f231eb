"""What every way of quantising a model has in common: its settings are all the pipeline needs to know."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from accuracy.quantization.nested import NestedMatrix


class Method(Protocol):
    """Settings of a quantiser: a frozen dataclass, so that a store can record them.

    A method that knows one width only stores it as a nested matrix of that width alone, so that its stores load, decode
    and trace like any other.
    """

    @property
    def quantizer(self) -> str:
        """The name that stores and results carry."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths it stores, rising."""

    @property
    def group_size(self) -> int | None:
        """Columns that share a codebook; None for one codebook per row."""

    @property
    def keep_full_precision(self) -> bool:
        """Whether the unquantised weights are stored too (width 16)."""

    @property
    def statistic(self) -> str:
        """What it needs of calibration text: ``"none"``, ``"fisher"`` (``[N, K]``) or ``"hessian"`` (``[K, K]``)."""

    def quantize_matrix(self, weight: NDArray[np.floating], statistic: NDArray[np.floating] | None) -> NestedMatrix:
        """Quantise one matrix ``[N, K]``, its weights finite fp16 numbers."""


def settings_of(method: Any) -> dict[str, Any]:
    """A method's settings as a store records them."""
    return {"method": type(method).__name__.removesuffix("Settings").lower(), **asdict(method)}
