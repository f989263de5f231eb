"""Figures of the benchmark; reads what the parts wrote and computes none of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import read_json
from studies.common.style import BLUE, GREY, ORANGE, TWO_COLUMNS_IN, VERMILION, figure_style, save_figure
from studies.exploration_benchmark import overhead_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {
    "random": ("random", GREY, ":"),
    "nsga2": ("NSGA-II", ORANGE, "--"),
    "tpe": ("multivariate TPE", VERMILION, "-."),
    "screened": ("screened (default with a budget)", BLUE, "-"),
}
LOWEST = 0.78


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


def draw_efficiency(folder: Path) -> list[Path]:
    """Share of the exhaustive hypervolume against full simulations: one panel a space."""
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.read_csv(folder / "efficiency.csv")
    summary = read_json(folder / "exploration_benchmark.json")["parts"]["efficiency"]
    spaces = list(dict.fromkeys(table["space"]))
    with figure_style(column=True):
        figure, panels = plt.subplots(1, len(spaces), figsize=(TWO_COLUMNS_IN, 2.4), sharey=True, squeeze=False)
        for axes, space in zip(panels[0], spaces, strict=True):
            _draw_space(axes, table[table["space"] == space], summary[space], summary["goal"])
        panels[0][0].set_ylabel("share of exhaustive hypervolume")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), bbox_to_anchor=(0.5, -0.1))
        figure.tight_layout()
        paths = save_figure(figure, folder / "efficiency", column=True)
        plt.close(figure)
    return paths


def _draw_space(axes: Axes, table: Any, summary: dict[str, Any], goal: dict[str, Any]) -> None:
    for sampler, (label, colour, line) in STYLES.items():
        rows = table[table["sampler"] == sampler]
        if rows.empty:
            continue
        axes.fill_between(rows["simulations"], rows["p25"], rows["p75"], color=colour, alpha=0.18, linewidth=0)
        axes.plot(rows["simulations"], rows["median"], color=colour, linestyle=line, label=label)
    ceilings = summary["exhaustive"]["greedy_ceilings"]
    axes.plot(
        [int(count) for count in ceilings],
        list(ceilings.values()),
        "k_",
        markersize=7,
        label="greedy subset of the exhaustive front",
    )
    axes.axhline(goal["share"], color="black", linewidth=0.6, linestyle=(0, (1, 2)))
    axes.axvline(goal["within"], color="black", linewidth=0.6, linestyle=(0, (1, 2)))
    axes.set_ylim(LOWEST, 1.003)
    axes.set_xlim(0, int(table["simulations"].max()))
    axes.set_xlabel("full simulations")
    axes.set_title(summary["title"].replace(", ", ",\n", 1), fontsize=6.5)


FIGURES: dict[str, Callable[[Path], list[Path]]] = {
    "efficiency.csv": draw_efficiency,
    "overhead.csv": overhead_figure.draw,
}
"""By the CSV file that a figure is drawn from."""
