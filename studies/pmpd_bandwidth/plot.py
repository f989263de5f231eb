"""The figure of the study; reads the table that the run wrote and computes none of its numbers."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from studies.common.style import BLUE, GREY, ORANGE, TWO_COLUMNS_IN, figure_style, save_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LOOKS = {"uniform": (BLUE, "s"), "pmpd": (ORANGE, "o")}


def _panel(axes: Axes, table: pd.DataFrame, labels: list[str]) -> None:
    """Uniform widths and PMPD joined by a line for every model and task, a little apart for each loss."""
    from matplotlib.ticker import LogLocator, NullFormatter

    losses = sorted(set(table["loss"]))
    for number, loss in enumerate(losses):
        mine = table[table["loss"] == loss]
        offset = 0.24 * (number - (len(losses) - 1) / 2)
        for place, (_, row) in enumerate(mine.iterrows()):
            y = place + offset
            found = {family: row[f"bandwidth_bytes_per_s_{family}"] / 1e9 for family in _LOOKS}
            reached = {family: value for family, value in found.items() if not isnan(value)}
            axes.plot(list(reached.values()), [y] * len(reached), color=GREY, linewidth=0.8, zorder=1)
            for family, value in reached.items():
                colour, marker = _LOOKS[family]
                face = colour if number == 0 else "white"
                axes.plot(value, y, marker, color=colour, markersize=4, markerfacecolor=face)
            text = "PMPD: none" if isnan(row["saving"]) else f"{-100 * row['saving']:+.0f}%"
            place_at = min(reached.values(), default=axes.get_xlim()[0])
            axes.annotate(
                text, (place_at, y), xytext=(-6, 0), textcoords="offset points", ha="right", va="center", size=6
            )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("least peak bandwidth (GB/s)")
    axes.margins(x=0.2)


def savings_figure(savings: pd.DataFrame) -> Figure:
    """A panel per target: squares for uniform widths, circles for PMPD, the first loss filled, the others open."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    with figure_style(column=True):
        targets = sorted(set(savings["target_tokens_per_s"]))
        pairs = savings[["model", "task"]].drop_duplicates()
        labels = [f"{row['model']}\n{row['task']}" for _, row in pairs.iterrows()]
        size = (TWO_COLUMNS_IN, 0.9 + 0.36 * len(labels))
        figure, grid = plt.subplots(1, len(targets), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axes, target in zip(grid[0], targets, strict=True):
            _panel(axes, savings[savings["target_tokens_per_s"] == target], labels)
            axes.set_title(f"{target:g} tokens/s")
        grid[0, 0].invert_yaxis()  # of all panels, which share it
        handles = [
            Line2D([], [], color=BLUE, marker="s", linestyle="", markersize=4, label="uniform width"),
            Line2D([], [], color=ORANGE, marker="o", linestyle="", markersize=4.5, label="PMPD, static"),
        ]
        for number, loss in enumerate(sorted(set(savings["loss"]))):
            face = "black" if number == 0 else "white"
            label = "no loss" if loss == 0 else f"up to {100 * loss:g}% lost"
            handles.append(
                Line2D(
                    [], [], color="black", marker="D", markerfacecolor=face, linestyle="", markersize=3.5, label=label
                )
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return figure


def write_figures(folder: Path) -> list[Path]:
    """Draw the figure of a finished run into its folder, PNG and SVG."""
    import pandas as pd

    return save_figure(savings_figure(pd.read_csv(folder / "savings.csv")), folder / "savings", column=True)
