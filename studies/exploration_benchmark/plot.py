"""Figures of the benchmark; reads what the parts wrote and computes none of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from studies.common.style import figure_style
from studies.exploration_benchmark import overhead_figure

FIGURES: dict[str, Callable[[Path], list[Path]]] = {"overhead.csv": overhead_figure.draw}
"""By the CSV file that a figure is drawn from."""


def write_figures(folder: Path) -> list[Path]:
    """Draw the figure of every part that has run in ``folder``, PNG and SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    paths: list[Path] = []
    with figure_style():
        for table, draw in FIGURES.items():
            if (folder / table).is_file():
                paths += draw(folder)
    return paths
