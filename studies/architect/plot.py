"""The figure of each question; reads the tables that the run wrote and computes none of their numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from studies.architect import figures_hardware, figures_precision
from studies.architect.looks import Read
from studies.common.style import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[Read], Figure]] = {
    "templates": figures_hardware.templates,
    "speed-map": figures_hardware.speed_map,
    "buffer-sizes": figures_hardware.buffer_sizes,
    "memory-bound": figures_hardware.memory_bound,
    "bit-value": figures_precision.bit_value,
    "widths": figures_precision.widths,
    "energy": figures_precision.energy,
    "kv-bits": figures_precision.kv_bits,
    "switching": figures_precision.switching,
    "codesign": figures_precision.codesign,
    "sensitivity": figures_hardware.sensitivity,
}


def write_figure(folder: Path, name: str) -> list[Path]:
    """Draw one question's figure from the tables in a folder, PNG and SVG."""
    import pandas as pd

    figure = FIGURES[name](lambda table: pd.read_csv(folder / f"{table}.csv"))
    return save_figure(figure, folder / name.replace("-", "_"), column=True)
