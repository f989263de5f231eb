"""How many points Sobol's indices need: their error against known ones, and what their intervals say of it.

Two functions of 16 numbers. The area of an NPU is additive here: its MACs and its weight buffer take few values, its
bandwidth is continuous, other numbers move it a little or not at all; the indices are variances. Ishigami's function
has numbers that act only together; its indices are known in closed form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from hwsim.trace import atomic_writer

NPU = "pmpd-4k"
FACTORS = 16
MACS, WEIGHT_KIB = (1024, 4096, 16384), (128, 1024)
BANDWIDTHS, KV_KIB = (29.7e9, 32.2e9), (461, 563)
POINTS = (64, 128, 256, 512, 1024, 2048)
SEEDS = tuple(range(20))

FloatArray = NDArray[np.float64]


class AreaModel:
    """Area of ``NPU`` as its numbers vary, from hwsim's area at the ends of each."""

    def __init__(self) -> None:
        self._base = self._area({})
        self._macs = np.array([self._area({"matrix.macs": macs}) for macs in MACS]) - self._base
        self._weight = np.array([self._area({"buffers.weight_kib": kib}) for kib in WEIGHT_KIB]) - self._base
        self._ends = [
            np.array([self._area({path: end}) for end in ends]) - self._base
            for path, ends in (("memory.bandwidth_bytes_per_s", BANDWIDTHS), ("buffers.kv_kib", KV_KIB))
        ]
        # Nothing here may be taken for additive that is not.
        together = {"matrix.macs": MACS[-1], "buffers.weight_kib": WEIGHT_KIB[0], "buffers.kv_kib": KV_KIB[-1]}
        parts = self._base + self._macs[-1] + self._weight[0] + self._ends[1][1]
        assert abs(self._area(together) / parts - 1) < 1e-9, "the area is no sum of its parts"

    @staticmethod
    def _area(changes: dict[str, Any]) -> float:
        from hwsim import load_npu
        from hwsim.cost import area_mm2

        return sum(area_mm2(load_npu(NPU, changes)).values())

    def __call__(self, quantiles: FloatArray) -> FloatArray:
        """Areas in mm2 of points ``[..., FACTORS]``."""
        area = self._base + self._macs[(quantiles[..., 0] * len(MACS)).astype(int)]
        area = area + self._weight[(quantiles[..., 1] * len(WEIGHT_KIB)).astype(int)]
        for place, (low, high) in enumerate(self._ends, start=2):
            area = area + low + (high - low) * quantiles[..., place]
        return np.asarray(area)

    def totals(self) -> FloatArray:
        """Sobol's total indices, which are the first-order ones of a sum."""
        parts = [self._macs.var(), self._weight.var(), *((high - low) ** 2 / 12 for low, high in self._ends)]
        return np.array([*parts, *[0.0] * (FACTORS - len(parts))]) / float(sum(parts))


class Ishigami:
    """``sin x1 + 7 sin^2 x2 + 0.1 x3^4 sin x1``, x uniform in -pi to pi; other numbers do nothing.

    Source: Ishigami and Homma, "An importance quantification technique in uncertainty analysis for computer models",
    ISUMA (1990); indices in closed form in Saltelli et al., "Sensitivity Analysis" (2000).
    """

    def __call__(self, quantiles: FloatArray) -> FloatArray:
        """Values of points ``[..., FACTORS]``."""
        first, second, third = np.moveaxis(np.pi * (2 * quantiles[..., :3] - 1), -1, 0)
        return np.asarray(np.sin(first) + 7 * np.sin(second) ** 2 + 0.1 * third**4 * np.sin(first))

    def totals(self) -> FloatArray:
        """Sobol's total indices."""
        alone = 0.5 * (1 + 0.1 * np.pi**4 / 5) ** 2
        together = 0.1**2 * np.pi**8 * (1 / 18 - 1 / 50)
        parts = np.array([alone + together, 7**2 / 8, together])
        return np.array([*parts, *[0.0] * (FACTORS - 3)]) / float(alone + together + 7**2 / 8)


FUNCTIONS: dict[str, AreaModel | Ishigami] = {f"area of {NPU}": AreaModel(), "Ishigami": Ishigami()}


def measure(points: int, seed: int) -> dict[str, FloatArray]:
    """Total indices with their intervals, ``[3, FACTORS]``, by function."""
    from dse.sensitivity import sobol_indices, sobol_points

    cube = sobol_points(FACTORS, points, seed)
    values = np.stack([function(cube) for function in FUNCTIONS.values()])
    found = sobol_indices(values[..., 0], values[..., 1], np.moveaxis(values[..., 2:], 2, 0), seed)
    return {name: found[1, :, place] for place, name in enumerate(FUNCTIONS)}


def run(folder: Path, *, progress: bool) -> dict[str, Any]:
    """Write ``sensitivity.csv``: a row per function and number of points."""
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=len(POINTS) * len(SEEDS), desc="sensitivity", unit="sample", disable=not progress, leave=False)
    with bar:
        for points in POINTS:
            found = []
            for seed in SEEDS:
                found.append(measure(points, seed))
                bar.update()
            rows += [_row(name, points, np.stack([one[name] for one in found])) for name in FUNCTIONS]
    with atomic_writer(folder / "sensitivity.csv") as file:
        pd.DataFrame(rows).to_csv(file, index=False, lineterminator="\n")
    return {"factors": FACTORS, "seeds": len(SEEDS), "rows": rows}


def _row(name: str, points: int, found: FloatArray) -> dict[str, Any]:
    """Errors of ``found``, ``[seeds, 3, FACTORS]``, and what the intervals say."""
    totals = FUNCTIONS[name].totals()
    estimate, low, high = np.moveaxis(found, 1, 0)
    errors = np.abs(estimate - totals).max(axis=1)
    acting = totals > 0
    inside = (low <= totals) & (totals <= high)
    return {
        "function": name,
        "points": points,
        "designs": points * (FACTORS + 2),
        "seeds": len(SEEDS),
        "error_median": round(float(np.median(errors)), 4),
        "error_worst": round(float(errors.max()), 4),
        "half_interval_median": round(float(np.median((high - low).max(axis=1))) / 2, 4),
        "inside": round(float(inside[:, acting].mean()), 4),
    }
