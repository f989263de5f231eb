"""The figure of the study; reads what the run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from studies.common.style import GREY, TWO_COLUMNS_IN, figure_style, save_figure
from studies.figures.step_latency import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MS_PER_US = 1e-3
ROW_IN = 1.55
# Longer times read better in milliseconds.
MILLISECONDS_FROM_US = 1000.0
MOST_SWITCHES = 4


def write_figure(folder: Path) -> list[Path]:
    """Draw one column a trace, measured above simulated, into the folder of a finished run.

    Drawn is each trace's longest response (the first of equals); the tables hold all of them.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    steps = pd.read_csv(folder / "steps.csv", dtype={"sequence": str})
    traces = list(steps["trace"].unique())
    with figure_style(column=True):
        figure, grid = plt.subplots(
            2, len(traces), sharex="col", squeeze=False, figsize=(TWO_COLUMNS_IN, 2 * ROW_IN), layout="constrained"
        )
        for place, trace in enumerate(traces):
            own = steps[steps["trace"] == trace]
            longest = own.groupby("sequence", sort=False).size().idxmax()
            drawn = own[own["sequence"] == longest]
            first = drawn.iloc[0]
            simulated = first["simulated_model"]
            label = simulated if simulated == first["model"] else f"{simulated}, precisions of {first['model']}"
            _draw(grid[0, place], drawn, "measured_us", f"{first['model']} measured: {first['device']}")
            _draw(grid[1, place], drawn, "simulated_us", f"{label} simulated: {first['npu']}")
            grid[1, place].set_xlabel("decode step")
            grid[0, place].legend(loc="lower right", ncols=4, handletextpad=0.2, markerscale=2.5)
        paths = save_figure(figure, folder / "trace_replay", column=True)
        plt.close(figure)
    return paths


def _draw(axes: Axes, steps: pd.DataFrame, column: str, title: str) -> None:
    """Step times from zero, a colour per width, a dashed line per switch; outliers are shown as arrows at the top."""
    middle = float(steps[column].median())
    scale, unit = (MS_PER_US, "ms") if middle >= MILLISECONDS_FROM_US else (1.0, "µs")
    time = steps[column] * scale
    top = 1.25 * min(float(time.max()), 2 * float(time.quantile(0.9)))
    for bits in sorted(set(steps["weight_bits"]), reverse=True):
        here = steps["weight_bits"] == bits
        colour = COLOURS.get(int(bits), GREY)
        inside = here & (time <= top)
        axes.plot(steps["step"][inside], time[inside], ".", markersize=3, color=colour, label=f"{bits} bit")
        beyond = here & (time > top)
        axes.plot(steps["step"][beyond], [0.97 * top] * int(beyond.sum()), "^", markersize=3, color=colour)
    bits = steps["weight_bits"].to_numpy()
    switches = [place for place in range(1, len(bits)) if bits[place] != bits[place - 1]]
    for place in switches:
        step = int(steps["step"].iloc[place])
        axes.axvline(step - 0.5, color=GREY, linestyle="--", linewidth=0.8)
        if len(switches) <= MOST_SWITCHES:
            axes.annotate(
                f"{bits[place - 1]} → {bits[place]} bit",
                (step, 0.05),
                xycoords=("data", "axes fraction"),
                xytext=(2, 0),
                textcoords="offset points",
                fontsize=6.5,
            )
    axes.set_ylim(0, top)
    axes.set_ylabel(f"{unit} per step")
    axes.set_title(title, loc="left", fontsize="medium")
