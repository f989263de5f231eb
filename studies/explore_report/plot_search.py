"""Figures of the search and of what matters: hypervolume, importance, exchange, sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.importance import is_biased
from studies.common.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from studies.explore_report.numbers import Numbers
from studies.explore_report.plot_designs import make_log, scaled
from studies.explore_report.quantities import limit_text, quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_FACTORS, SHOWN_SHARE = 8, 0.01
LINES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS = "os^Dv*X"
"""Of the lines, which tell them apart where colours cannot."""


def draw_hypervolume(figure: Figure, numbers: Numbers) -> bool:
    """The volume after each design; a line where the front is known to be exact."""
    found = numbers.found
    table = found.hypervolume
    if table.empty or table["hypervolume"].iloc[-1] <= 0:
        return False
    figure.set_size_inches(6.4, 3.4)
    axes = figure.add_subplot()
    last = float(table["hypervolume"].iloc[-1])
    axes.step(np.arange(1, len(table) + 1), table["hypervolume"] / last, where="post", color=BLUE)
    if found.front_is_exact:
        axes.axhline(1, color=BLACK, linewidth=1, linestyle="--")
        axes.annotate("exact front", (1, 1), xytext=(4, -4), textcoords="offset points", va="top", fontsize=8.5)
    make_log(axes, "x", np.array([1.0, len(table)]))
    axes.set_ylim(0, 1.06)
    axes.set(xlabel="designs simulated", ylabel=f"share of the {'exact' if found.front_is_exact else 'last'} volume")
    return True


def draw_importance(figure: Figure, numbers: Numbers) -> bool:
    """Bars per objective with intervals."""
    table = numbers.importance
    if table is None or table.empty:
        return False
    metrics = list(dict.fromkeys(table["metric"]))
    order = list(dict.fromkeys(table.sort_values("share", ascending=False)["parameter"]))
    figure.set_size_inches(2.1 + 2.0 * len(metrics), 0.9 + 0.3 * len(order))
    grid = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(grid, metrics, strict=True):
        rows = table[table["metric"] == metric].set_index("parameter").reindex(order)
        _bars(axes, rows["share"], rows["ci_low"], rows["ci_high"], [SKY] * len(order))
        axes.set_title(quantity(metric).name, fontsize=9)
    _share_axis(grid)
    grid[0].set_yticks(range(len(order)), order)
    grid[0].invert_yaxis()
    about = "of variance among these trials" if is_biased(numbers.found) else "of variance"
    figure.supxlabel(f"share {about} (n = {int(table['n'].iloc[0]):,})", fontsize=9)
    return True


def _bars(axes: Axes, share: pd.Series[float], low: pd.Series[float], high: pd.Series[float], fill: list[str]) -> None:
    places = np.arange(len(share))
    axes.barh(places, share, height=0.6, color=fill, edgecolor=BLUE, linewidth=1)
    ends = np.array([share - low, high - share], dtype=float).clip(min=0)
    axes.errorbar(share, places, xerr=ends, fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2)


def _share_axis(grid: Sequence[Axes]) -> None:
    """One range for all panels: every share, and estimates and intervals that reach beyond what a share can be."""
    lowest, highest = (ends(axes.dataLim.intervalx[index] for axes in grid) for index, ends in ((0, min), (1, max)))
    low, high = min(0.0, float(lowest)), max(1.0, float(highest))
    for axes in grid:
        axes.set_xlim(low - 0.02 * (high - low) * (low < 0), high + 0.02 * (high - low))
        axes.set_xticks(np.arange(np.ceil(2 * low), np.floor(2 * high) + 1) / 2)
        axes.xaxis.set_major_formatter("{x:g}")
        if high > 1:
            axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":", zorder=0)


def draw_worth(figure: Figure, numbers: Numbers) -> bool:
    """Staircases of what bandwidth buys, a panel for each quantity bought."""
    if not numbers.exchanges:
        return False
    bought = list(dict.fromkeys(one.bought for one in numbers.exchanges))
    figure.set_size_inches(3.6 * len(bought) + 0.6, 4.3)
    grid = figure.subplots(1, len(bought), squeeze=False)[0]
    for axes, name in zip(grid, bought, strict=True):
        mine = [one for one in numbers.exchanges if one.bought == name]
        paid = np.concatenate([scaled(one.steps, one.paid) for one in mine])
        gained = np.concatenate([scaled(one.steps, name) for one in mine])
        for colour, marker, one in zip(LINES, MARKERS, mine, strict=False):
            label = "all designs" if one.fixed is None else f"{quantity(one.fixed.name).name} {limit_text(one.fixed)}"
            style: dict[str, Any] = {"where": "post", "color": colour, "linewidth": 1.2, "label": label}
            axes.step(scaled(one.steps, one.paid), scaled(one.steps, name), marker=marker, markersize=3, **style)
        make_log(axes, "x", paid)
        make_log(axes, "y", gained)
        axes.set(xlabel=quantity(mine[0].paid).name, ylabel=f"most {quantity(name).name}")
        axes.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(0, -0.16))
    return True


def draw_sensitivity(figure: Figure, numbers: Numbers) -> bool:
    """Total indices of the numbers that matter most, a panel per metric; of the first table."""
    if not numbers.sensitivity:
        return False
    table = next(iter(numbers.sensitivity.values()))
    metrics = list(dict.fromkeys(table["metric"]))
    largest = table.groupby("parameter")["total_order"].max().sort_values(ascending=False)
    order = list(largest.index[: max(1, min(SHOWN_FACTORS, int((largest >= SHOWN_SHARE).sum())))])
    figure.set_size_inches(2.6 + 1.9 * len(metrics), 0.9 + 0.32 * len(order))
    grid = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(grid, metrics, strict=True):
        rows = table[table["metric"] == metric].set_index("parameter").reindex(order)
        colours = ["white" if assumed else SKY for assumed in rows["assumed"]]
        _bars(axes, rows["total_order"], rows["total_order_ci_low"], rows["total_order_ci_high"], colours)
        axes.set_title(quantity(metric).name, fontsize=9)
        axes.tick_params(color=GREY)
    _share_axis(grid)
    grid[0].set_yticks(range(len(order)), order)
    grid[0].invert_yaxis()
    figure.supxlabel(f"total Sobol' index (n = {int(table['n'].iloc[0])})", fontsize=9)
    return True
