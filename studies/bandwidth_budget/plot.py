"""Figures of the bandwidth budget; reads the tables that the run wrote and computes none of their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import read_json
from studies.common.style import save_figure
from studies.figures.bandwidth_budget import bandwidth_budget
from studies.figures.iso_throughput import iso_throughput

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figures(folder: Path) -> list[Path]:
    """Draw every figure of a finished run into its folder, PNG and SVG."""
    import pandas as pd

    settings: dict[str, Any] = read_json(folder / "bandwidth_budget.json")["settings"]
    budget, grid = (pd.read_csv(folder / f"{name}.csv") for name in ("budget", "map"))
    title = (
        f"{settings['models'][0]}, {settings['map_schedule']}, {settings['prompt_tokens'][0]} prompt and "
        f"{settings['decode_tokens']} decode tokens"
    )
    figures: dict[str, Figure] = {"budget": bandwidth_budget(budget), "map": iso_throughput(grid, title=title)}
    paths: list[Path] = []
    for name, figure in figures.items():
        paths += save_figure(figure, folder / name, column=True)
    return paths
