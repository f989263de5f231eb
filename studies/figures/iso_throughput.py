"""MACs x bandwidth map: lines of equal decoding speed, and where memory stops being the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from studies.common.style import BLUE, COLUMN_IN, VERMILION, figure_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GB = 1e9
HALF = 0.5  # elasticity at which memory and computation weigh the same
SPEEDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
LEVELS = 16
SHADE = 0.45
BOUNDS: tuple[tuple[str, str, str, Literal["-", "--"]], ...] = (
    ("decode", "decode_elasticity", BLUE, "-"),
    ("prefill", "prefill_elasticity", VERMILION, "--"),
)
LABEL_ROW = 0.9  # share of the MAC axis


def iso_throughput(grid: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw tokens/s over bandwidth and MACs.

    Lines join designs of equal decoding speed. The thick lines are where half of a small gain in bandwidth turns
    into speed: on their left memory is the bound, on their right the array and what goes with it.

    Args:
        grid: Table of ``bittaper study bandwidth-budget`` (``map.csv``): a full grid of ``macs`` and
            ``bandwidth_bytes_per_s``.
        title: What was simulated.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    def surface(column: str) -> Any:
        return grid.pivot_table(index="macs", columns="bandwidth_bytes_per_s", values=column).sort_index()

    speed = surface("decode_tokens_per_s")
    bandwidth, macs = speed.columns.to_numpy() / GB, speed.index.to_numpy()
    low, high = speed.to_numpy().min(), speed.to_numpy().max()
    with figure_style(column=True):
        figure = Figure(figsize=(COLUMN_IN, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False)
        shades = colormaps["Greys"](np.linspace(0.03, SHADE, LEVELS - 1))
        axes.contourf(bandwidth, macs, speed, levels=np.geomspace(low, high, LEVELS), colors=shades)
        levels = [level for level in SPEEDS if low < level < high]
        lines = axes.contour(bandwidth, macs, speed, levels=levels, colors="black", linewidths=0.7)
        # Labels stand in a row where the lines run straight: at many MACs.
        row = int(LABEL_ROW * (len(macs) - 1))
        places = np.interp(np.log(levels), np.log(speed.to_numpy()[row]), bandwidth)
        axes.clabel(lines, fmt="%g", fontsize=6.5, manual=[(x, macs[row]) for x in places])
        handles, labels = [Line2D([], [], color="black", linewidth=0.7)], ["equal decoding speed (tokens/s)"]
        for phase, column, colour, style in BOUNDS:
            elasticity = surface(column)
            if not elasticity.to_numpy().min() < HALF < elasticity.to_numpy().max():
                continue
            axes.contour(bandwidth, macs, elasticity, levels=[HALF], colors=colour, linestyles=style, linewidths=2.0)
            handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=2.0))
            labels.append(f"{phase}: memory-bound on the left")
        axes.set_xscale("log")
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(macs, [f"{int(count):,}" for count in macs])
        axes.minorticks_off()
        axes.set_xlabel("off-chip bandwidth (GB/s)")
        axes.set_ylabel("MACs")
        axes.set_title(title, fontsize="medium")
        figure.legend(handles, labels, loc="outside lower center", ncols=1)
    return figure
