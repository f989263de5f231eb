"""The figure of the study; reads what the run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from studies.common.style import BLUE, GREY, ORANGE, figure_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"cached": BLUE, "unpacked": ORANGE}
_MIB = 2**20
# Where what follows 8 bits stands.
_LAST = 9


def write_figure(folder: Path) -> list[Path]:
    """Draw speed and memory against width, into the folder of a finished run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    summary, memory = (pd.read_csv(folder / f"{name}.csv") for name in ("summary", "memory"))
    models = summary["model"].unique()
    with figure_style():
        figure, grid = plt.subplots(2, len(models), figsize=(4.2 * len(models), 6.2), squeeze=False)
        for column, model in enumerate(models):
            _speed(grid[0][column], summary[summary["model"] == model])
            _memory(grid[1][column], memory[memory["model"] == model])
            grid[0][column].set_title(model, fontsize=9.5)
        grid[0][0].set_ylabel("tokens per CPU second / float32's")
        grid[1][0].set_ylabel("memory of weights (MiB)")
        grid[0][0].legend(loc="lower left")
        grid[1][-1].legend(loc="best")
        figure.tight_layout()
        paths = save_figure(figure, folder / "cpu_decoding")
        plt.close(figure)
    return paths


def _speed(axes: Axes, rows: pd.DataFrame) -> None:
    again = rows[rows["mode"] == "float32 again"].iloc[0]
    axes.axhspan(again["ratio_p20"], again["ratio_p80"], color=GREY, alpha=0.35, linewidth=0, label="float32 again")
    axes.axhline(1, color="black", linewidth=1, linestyle="--")
    for mode, colour in _COLOURS.items():
        part = rows[rows["mode"] == mode]
        spread = [part["ratio_median"] - part["ratio_p20"], part["ratio_p80"] - part["ratio_median"]]
        places = part["weight_bits"].replace(16, _LAST)
        axes.errorbar(
            places, part["ratio_median"], yerr=spread, fmt="o", color=colour, capsize=2, markersize=4, label=mode
        )
    axes.set_yscale("log")
    ticks = [0.1, 0.2, 0.5, 1]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(0.08, 1.6)
    _width_axis(axes, "16", "weight bits")


def _memory(axes: Axes, rows: pd.DataFrame) -> None:
    plain = rows[rows["mode"] == "float32"].iloc[0]
    axes.axhline(plain["weight_bytes"] / _MIB, color="black", linewidth=1, linestyle="--", label="float32")
    for mode, colour in _COLOURS.items():
        part, whole = (rows[(rows["mode"] == mode) & (rows["whole_store"] == flag)] for flag in (False, True))
        axes.plot(part["weight_bits"], part["weight_bytes"] / _MIB, "o-", color=colour, markersize=4, label=mode)
        axes.plot([_LAST], whole["weight_bytes"] / _MIB, "o", color=colour, markersize=4)
    axes.set_ylim(bottom=0)
    _width_axis(axes, "all", "widest width loaded (all: 2 to 8 and 16, running at 8)")


def _width_axis(axes: Axes, last: str, label: str) -> None:
    axes.set_xticks([*range(2, 9), _LAST], [*map(str, range(2, 9)), last])
    axes.set_xlim(1.5, _LAST + 0.5)
    axes.set_xlabel(label)
