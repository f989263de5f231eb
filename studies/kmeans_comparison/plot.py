"""The figure of the study; reads what the run wrote."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.common.style import BLUE, GREEN, GREY, ORANGE, SKY, TWO_COLUMNS_IN, VERMILION, figure_style, save_figure

if TYPE_CHECKING:
    import pandas as pd

SEED_COLOURS = {2: BLUE, 3: ORANGE, 4: GREEN}
LINES = {"unweighted": "--", "Fisher": "-"}
METHOD_COLOURS = {"ours": BLUE, "ours, jointly": SKY, "original": VERMILION, "original, sorted by numpy": GREY}


def write_figure(folder: Path) -> list[Path]:
    """Draw errors over the widths and times, into the folder of a finished run."""
    import matplotlib as mpl
    import pandas as pd

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    nested, times = pd.read_csv(folder / "nested.csv"), pd.read_csv(folder / "times.csv")
    with figure_style(column=True):
        figure, ((error, price), (joint, time)) = plt.subplots(
            2, 2, figsize=(TWO_COLUMNS_IN, 4.4), layout="constrained"
        )
        _draw_ratio(error, nested, "original_over_ours", "error of the original / ours")
        _draw_ratio(price, nested, "ours_over_direct", "error of ours / not nested")
        _draw_ratio(joint, nested, "jointly_over_ours", "error of clusters chosen jointly / ours")
        # Rows no longer than 2**8 are held exactly without nesting, and no multiple of nothing is worth drawing.
        price.set_yscale("log")
        price.set_ylim(0.95, 10)
        price.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
        error.legend(handlelength=3.2)
        _draw_times(time, times)
        paths = save_figure(figure, folder / "kmeans_comparison", column=True)
        plt.close(figure)
    return paths


def _draw_ratio(axes: Any, nested: pd.DataFrame, column: str, label: str) -> None:
    """Median over the models, with their range, of a ratio of sums over rows."""
    for seed, weighting in product(SEED_COLOURS, LINES):
        chosen = (nested["seed_bits"] == seed) & (nested["weighting"] == weighting)
        by_bits = nested[chosen].groupby("bits")[column]
        colour, line = SEED_COLOURS[seed], LINES[weighting]
        median = by_bits.median()
        axes.plot(median.index, median, line, color=colour, marker="o", markersize=2, label=f"seed {seed}, {weighting}")
        axes.fill_between(median.index, by_bits.min(), by_bits.max(), color=colour, alpha=0.12, linewidth=0)
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xlabel("width (bits)")
    axes.set_ylabel(label)


def _draw_times(axes: Any, times: pd.DataFrame) -> None:
    """Seconds per million weights on one core, of the first (generated, long) rows."""
    times = times[(times["cores"] == 1) & (times["rows"] == times["rows"].iloc[0])]
    ranges = times[times["seed_bits"] < times["parent_bits"]][["seed_bits", "parent_bits"]].drop_duplicates()
    height = 0.8 / len(METHOD_COLOURS)
    for place, (low, high) in enumerate(ranges.itertuples(index=False)):
        for line, (method, colour) in enumerate(METHOD_COLOURS.items()):
            chosen = (times["seed_bits"] == low) & (times["parent_bits"] == high) & (times["method"] == method)
            row = times[chosen].iloc[0]
            spread = [[row["p50"] - row["p20"]], [row["p80"] - row["p50"]]]
            label = method if place == 0 else None
            axes.barh(
                -place - line * height, row["p50"], height, xerr=spread, color=colour, label=label, ecolor="black"
            )
    axes.set_yticks(
        [-place - height for place in range(len(ranges))],
        [f"{low} to {high}" for low, high in ranges.itertuples(index=False)],
    )
    axes.set_ylabel("seed to parent width (bits)")
    axes.set_xlabel("CPU s per million weights, one core")
    axes.set_title(times["rows"].iloc[0], fontsize=7)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    axes.grid(visible=False, axis="y")
