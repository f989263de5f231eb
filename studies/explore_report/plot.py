"""Figures of an exploration's report; each is drawn from its tables and skipped where it has nothing to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studies.common.style import figure_style, save_figure
from studies.explore_report import plot_designs, plot_search
from studies.explore_report.numbers import Numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[["Figure", Numbers], bool]
"""Draws into an empty figure; False where there is nothing to draw."""


@dataclass(frozen=True)
class FigureKind:
    """One figure of the report."""

    draw: Draw
    alt: str
    caption: str


FIGURES: dict[str, FigureKind] = {
    "front": FigureKind(
        plot_designs.draw_front,
        "the designs by the first objectives, the Pareto front with its uncertainty",
        "Every simulated design. Bars on the front: the sampling interval of a measured quality (dark), and where "
        "a simulated value may lie in truth, by the largest error either way that the validation showed (light).",
    ),
    "hypervolume": FigureKind(
        plot_search.draw_hypervolume,
        "dominated hypervolume against simulated designs",
        "Volume of objective space that the front dominates, after each simulated design.",
    ),
    "importance": FigureKind(
        plot_search.draw_importance,
        "share of each objective's variance by decision",
        "Share of the variance among the simulated designs that each decision explains alone, with 95% intervals.",
    ),
    "parallel": FigureKind(
        plot_designs.draw_parallel,
        "parallel coordinates of decisions and objectives, the front highlighted",
        "Decisions and objectives of every design; the front is coloured by its first objective. A conditional "
        "parameter that does not act is drawn at 'off'.",
    ),
    "scatter": FigureKind(
        plot_designs.draw_scatter_matrix,
        "scatter matrix of all objectives",
        "Every pair of objectives; the front is dark.",
    ),
    "worth": FigureKind(
        plot_search.draw_worth,
        "what more bandwidth buys",
        "The best that each bandwidth buys among the simulated designs that keep all limits.",
    ),
    "sensitivity": FigureKind(
        plot_search.draw_sensitivity,
        "Sobol indices of the varied numbers",
        "Share of each metric's variance in which a number has a part (total Sobol' index) with 95% intervals; "
        "hollow: the NPU file says assumed.",
    ),
}


def write_figures(numbers: Numbers, folder: Path, *, progress: bool) -> dict[str, Path]:
    """Draw what there is to draw, PNG and SVG; returns the SVG's path by name."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from tqdm import tqdm

    paths = {}
    with figure_style():
        for name, kind in tqdm(FIGURES.items(), desc="figures", unit="figure", disable=not progress, leave=False):
            figure = plt.figure(layout="constrained")
            if kind.draw(figure, numbers):
                paths[name] = next(path for path in save_figure(figure, folder / name) if path.suffix == ".svg")
            plt.close(figure)
    return paths
