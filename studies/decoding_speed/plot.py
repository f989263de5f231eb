"""The figure of the study; reads what the run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from studies.common.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, TWO_COLUMNS_IN, figure_style, save_figure
from studies.decoding_speed.sharing import FULL_LENGTH, PAPER_POINTS
from studies.decoding_speed.throughput import GENERATE, OWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
Looks = dict[str, tuple[str, str]]
_MARKERS = ("o", "s", "^", "D")


def write_figure(folder: Path) -> list[Path]:
    """Draw speed against batch size, and steps saved against candidates, into the folder of a finished run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    summary, sharing, grid = (pd.read_csv(folder / f"{name}.csv") for name in ("summary", "sharing", "grid_summary"))
    models = list(summary["model"].unique())
    looks = dict(zip(models, zip(_COLOURS, _MARKERS, strict=True), strict=False))
    with figure_style(column=True):
        figure, (speed, two, three) = plt.subplots(
            1, 3, figsize=(TWO_COLUMNS_IN, 2.5), gridspec_kw={"width_ratios": [1.3, 1, 1]}
        )
        _speed(speed, summary, looks)
        _steps(two, sharing[sharing["widths"] == 2], looks)
        _steps(three, sharing[sharing["widths"] == 3], looks)
        _time_saved(three, grid, looks)
        titles = ("a  one schedule, 4 then 3 bits", "b  candidates, widths 4, 3", "c  candidates, widths 4, 3, 2")
        for axes, title in zip((speed, two, three), titles, strict=True):
            axes.set_title(title, loc="left", fontsize="medium")
        two.set_ylabel("saved by shared prefixes (%)")
        three.legend(loc="lower right", handlelength=1.4)
        figure.tight_layout()
        paths = save_figure(figure, folder / "decoding_speed", column=True)
        plt.close(figure)
    return paths


def _speed(axes: Axes, summary: pd.DataFrame, looks: Looks) -> None:
    """Tokens per CPU second beside the plain loop's; generate at batch 1 and 32 as open markers."""
    axes.axhline(1, color=BLACK, linewidth=0.8, linestyle=":")
    for model, (colour, marker) in looks.items():
        mine = summary[summary["model"] == model]
        for mode, line, fill, size in ((OWN, "-", colour, 3.5), (GENERATE, "none", "none", 6)):
            rows = mine[mine["mode"] == mode]
            median = rows["ratio_to_plain_median"]
            axes.errorbar(
                rows["batch_size"],
                median,
                yerr=[median - rows["ratio_to_plain_p20"], rows["ratio_to_plain_p80"] - median],
                color=colour,
                linestyle=line,
                marker=marker,
                markerfacecolor=fill,
                markersize=size,
                capsize=1.5,
                label=model if mode == OWN else None,
            )
    axes.plot([], [], "o", color=BLACK, markerfacecolor="none", markersize=6, label="model.generate")
    batches = sorted(summary["batch_size"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_yscale("log")
    # Room for the legend above the curves.
    axes.set_ylim(0.6, 100)
    ticks = [1, 2, 5, 10, 20, 50]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("batch size")
    axes.set_ylabel("tokens per CPU s / plain loop's")
    axes.legend(loc="upper left")


def _steps(axes: Axes, sharing: pd.DataFrame, looks: Looks) -> None:
    """Percent of the decode steps that sharing saves."""
    full = sharing[sharing["model"] == FULL_LENGTH]
    axes.plot(full["points"], 100 * full["steps_saved"], ":", color=BLACK, zorder=3, label="no response ends early")
    for model, (colour, marker) in looks.items():
        rows = sharing[sharing["model"] == model]
        axes.plot(rows["points"], 100 * rows["steps_saved"], color=colour, marker=marker, markersize=3)
    axes.set_xlabel("candidate switch points N")
    axes.set_xticks(sorted(sharing["points"].unique()))
    axes.set_ylim(0, 100)


def _time_saved(axes: Axes, grid: pd.DataFrame, looks: Looks) -> None:
    """Percent of the CPU time that the tree saves against schedule by schedule, at the paper's N."""
    for model, (colour, marker) in looks.items():
        (speed_up,) = grid.loc[grid["model"] == model, "speed_up_median"]
        axes.plot(PAPER_POINTS, 100 * (1 - 1 / speed_up), marker, color=colour, markerfacecolor="none", markersize=6)
    axes.plot([], [], "o", color=BLACK, markerfacecolor="none", markersize=6, label="CPU time saved")
