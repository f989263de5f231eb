"""Rows of real models' weights, with and without Fisher weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accuracy.quantization import fisher_sensitivity
from accuracy.quantization.checkpoint import Checkpoint
from accuracy.quantization.nested import WEIGHT_FLOOR
from hwsim.trace import InputError
from studies.quantization_quality.subjects import shared_folder, subject_makers

UNWEIGHTED, FISHER = "unweighted", "Fisher"
CALIBRATION_TEXTS = 16

DEFAULT_ROWS = 2000
"""Rows that are compared where there are as many."""


@dataclass(frozen=True)
class Part:
    """Rows of equal length: some of one matrix.

    Attributes:
        model: Whose.
        weighting: How errors are weighed.
        values: ``[R, K]`` float32.
        weights: ``[R, K]`` float64, the weight of each squared error: of mean one in each row, and at least what ours
            takes for a gradient that vanished.
    """

    model: str
    weighting: str
    values: NDArray[np.float32]
    weights: NDArray[np.float64]

    @property
    def rows(self) -> int:
        """R."""
        return int(self.values.shape[0])

    @property
    def columns(self) -> int:
        """K."""
        return int(self.values.shape[1])

    @property
    def sensitivity(self) -> NDArray[np.float64] | None:
        """The weights as :func:`accuracy.quantization.quantize_matrix` takes them."""
        return None if self.weighting == UNWEIGHTED else self.weights


def real_rows(total: int | None = None) -> list[Part]:
    """At least ``total`` rows, spread evenly over models, matrices and places within them; each twice.

    Args:
        total: How many; None for :data:`DEFAULT_ROWS`, or what the models at hand have of them.

    Raises:
        InputError: If the models have fewer rows than ``total``.
    """
    wanted = DEFAULT_ROWS if total is None else total
    makers = subject_makers(shared_folder())
    parts: list[Part] = []
    for name, make in makers.items():
        subject = make()
        checkpoint = Checkpoint.open(subject.folder)
        fisher = fisher_sensitivity(checkpoint, subject.calibration[:CALIBRATION_TEXTS], progress=False)
        each = -(-wanted // (len(makers) * len(fisher)))
        for linear, sensitivity in fisher.items():
            weight = checkpoint.tensor(f"{linear}.weight").float().numpy()
            chosen = np.unique(np.linspace(0, len(weight) - 1, min(each, len(weight))).round().astype(int))
            values = np.ascontiguousarray(weight[chosen])
            parts.append(Part(name, UNWEIGHTED, values, np.ones(values.shape)))
            parts.append(Part(name, FISHER, values, _scaled(sensitivity.numpy()[chosen].astype(np.float64))))
    found = sum(part.rows for part in parts if part.weighting == UNWEIGHTED)
    if total is not None and found < total:
        raise InputError(f"rows = {total}: the models at hand give {found} when spread evenly; ask for at most that")
    return parts


def generated_rows(rows: int, columns: int, seed: int = 0) -> Part:
    """Rows as long as a large model's, of heavy-tailed fp16 values; for timing only."""
    rng = np.random.default_rng(seed)
    values = (0.02 * rng.standard_t(5, (rows, columns))).astype(np.float16).astype(np.float32)
    return Part(f"generated, {columns} columns", FISHER, values, _scaled(rng.lognormal(0, 2, values.shape)))


def _scaled(fisher: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = fisher.mean(axis=1, keepdims=True)
    weights: NDArray[np.float64] = np.divide(fisher, mean, out=np.ones_like(fisher), where=mean > 0)
    return np.maximum(weights, WEIGHT_FLOOR)
