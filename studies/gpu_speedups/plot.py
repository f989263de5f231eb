"""The figure of the study; reads what the run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from studies.common.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    TWO_COLUMNS_IN,
    VERMILION,
    figure_style,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODELS = {
    "vicuna-7b": ("Vicuna-7B", BLUE),
    "mobilellama-1.4b": ("MobileLLaMA", ORANGE),
    "phi-1.5": ("Phi-1.5", GREEN),
    "stablelm-zephyr-3b": ("Zephyr-3B", PURPLE),
}
_MARKERS = {"RTX 4090": "o", "A40": "s"}


def write_figure(folder: Path) -> list[Path]:
    """Draw derived against printed for Tables 3 and 6, into the folder of a finished run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    layers, steps = (pd.read_csv(folder / f"{name}.csv") for name in ("table3", "table6"))
    with figure_style(column=True):
        figure, (left, right) = plt.subplots(1, 2, figsize=(TWO_COLUMNS_IN, 2.7), layout="constrained")
        _layers(left, layers)
        _end_to_end(right, steps)
        paths = save_figure(figure, folder / "gpu_speedups", column=True)
        plt.close(figure)
    return paths


def _layers(axes: Axes, table: pd.DataFrame) -> None:
    """Table 3: every entry on the diagonal but one."""
    limits = (1.0, 14.0)
    axes.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
    for row in table.to_dict("records"):
        label, colour = MODELS[row["model"]]
        face = colour if row["method"] == "pmpd" else "none"
        marker = _MARKERS[row["gpu"]]
        axes.plot(row["published"], row["derived"], marker, color=colour, markerfacecolor=face, markersize=4)
        if not row["agrees"]:
            axes.annotate(
                f"{label}, {row['gpu']}:\nprinted {row['published']:.2f}, derived {row['derived']:.2f}",
                (row["published"], row["derived"]),
                xytext=(0.12, 0.62),
                textcoords="axes fraction",
                arrowprops={"arrowstyle": "-", "color": BLACK, "linewidth": 0.6},
                fontsize=6.5,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [1, 2, 3, 5, 10]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    for gpu, marker in _MARKERS.items():
        axes.plot([], [], marker, color=BLACK, markersize=4, label=f"{gpu}: PMPD")
        axes.plot([], [], marker, color=BLACK, markerfacecolor="none", markersize=4, label=f"{gpu}: baseline-h")
    axes.legend(loc="lower right", handletextpad=0.2)
    axes.set_xlabel("printed speed-up over fp16 (Table 3)")
    axes.set_ylabel("derived from Tables 7 and 8")
    axes.set_title("a  linear layers", loc="left", fontsize="medium")


def _end_to_end(axes: Axes, table: pd.DataFrame) -> None:
    """Table 6: printed beside predicted, and the most that the fitted rest allows."""
    for place, row in enumerate(table.to_dict("records")):
        _, colour = MODELS[row["model"]]
        axes.plot([place, place], [row["published_baseline"], row["bound"]], color=colour, linewidth=5, alpha=0.25)
        axes.plot(place, row["published_pmpd"], "D", color=BLACK, markersize=4, markerfacecolor="none")
        impossible = row["verdict"] == "impossible"
        axes.plot(place, row["predicted_pmpd"], "x" if impossible else "o", color=colour, markersize=4)
        if impossible:
            axes.annotate(
                "rest < 0",
                (place, row["predicted_pmpd"]),
                xytext=(0, 5),
                textcoords="offset points",
                fontsize=6.5,
                color=VERMILION,
                ha="center",
            )
    axes.plot([], [], "D", color=BLACK, markersize=4, markerfacecolor="none", label="printed")
    axes.plot([], [], "o", color=BLUE, markersize=4, label="predicted")
    axes.plot([], [], color=BLUE, linewidth=5, alpha=0.25, label="baseline-h to all steps low")
    labels = [f"{MODELS[row['model']][0]}\n{row['gpu']}" for row in table.to_dict("records")]
    axes.set_xticks(range(len(labels)), labels, fontsize=5.5, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_ylim(1.5, 3.8)
    axes.set_ylabel("end-to-end speed-up over fp16")
    axes.legend(loc="upper left", ncols=3, handletextpad=0.4, columnspacing=1)
    axes.set_title("b  end to end, PMPD (Table 6)", loc="left", fontsize="medium")
