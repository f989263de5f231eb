"""Figures of the designs: the front with its uncertainty, parallel coordinates, scatter matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.importance import decisions
from dse.uncertainty import INTERVALS
from dse.validation import judged_by
from studies.common.style import BLACK, BLUE, GREY, colour_map, plain_log_ticks
from studies.explore_report.numbers import Numbers
from studies.explore_report.quantities import cell, quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MAX_BARS = 40
MAX_LINES = 300
MAX_TICKS = 8
RASTERISE_ABOVE, MAX_POINTS = 1000, 4000
LIGHT = "#c4c4c4"


def scaled(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Values of a metric in the unit they are shown in."""
    return np.asarray(table[name].to_numpy(dtype=float) * quantity(name).factor)


def spread(count: int, wanted: int) -> NDArray[np.intp]:
    """At most ``wanted`` of ``count`` rows, evenly spaced."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, wanted)).round().astype(np.intp))


def repeats(one: pd.Series[Any], other: pd.Series[Any]) -> bool:
    """Whether two columns hold the same values, as a bandwidth that is chosen and one that is minimised."""
    return one.tolist() == other.tolist()


def wants_log(values: NDArray[np.float64]) -> bool:
    """Whether values span more than one decade of positive numbers."""
    return bool(len(values) and values.min() > 0 and values.max() / values.min() > 12)


def make_log(axes: Axes, axis: str, values: NDArray[np.float64]) -> None:
    """Turn an axis logarithmic where its values want it, with plain numbers at its ticks."""
    if not wants_log(values):
        return
    axes.set(**{f"{axis}scale": "log"})
    plain_log_ticks(axes.xaxis if axis == "x" else axes.yaxis, float(values.min()), float(values.max()))


def draw_front(figure: Figure, numbers: Numbers) -> bool:
    """The first two objectives, or three with the last as colour; a single objective has no front to draw."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.container import Container

    names = numbers.objectives
    if len(names) < 2:
        return False
    x, y = names[0], names[1]
    figure.set_size_inches(6.8, 4.4)
    axes = figure.add_subplot()
    found = numbers.found
    trials, front = found.trials, found.pareto
    evaluated = trials[trials["error"].isna()]
    broken = evaluated[~evaluated["feasible"]]
    kept = evaluated[evaluated["feasible"] & ~evaluated["on_front"]]
    many = len(evaluated) > RASTERISE_ABOVE
    groups: list[tuple[pd.DataFrame, str, dict[str, Any]]] = [
        (broken, "breaks a limit", {"marker": "x", "color": LIGHT, "linewidths": 0.7, "s": 9}),
        (kept, "dominated", {"color": "#a8a8a8", "linewidths": 0, "s": 9}),
    ]
    for rows, label, look in groups:
        if len(rows):
            drawn = rows.iloc[spread(len(rows), MAX_POINTS)]
            part = f", {len(drawn):,} drawn" if len(drawn) < len(rows) else ""
            text = f"{label} ({len(rows):,}{part})"
            axes.scatter(scaled(drawn, x), scaled(drawn, y), label=text, rasterized=many, **look)
    _error_bars(axes, front, x, y, found.study.mode)
    style: dict[str, Any] = {
        "s": 28,
        "edgecolors": "white",
        "linewidths": 0.5,
        "zorder": 4,
        "label": f"front ({len(front):,})",
    }
    if len(names) > 2:
        values = scaled(front, names[2])
        norm = LogNorm() if wants_log(values) else Normalize()
        points = axes.scatter(scaled(front, x), scaled(front, y), c=values, cmap=colour_map(), norm=norm, **style)
        bar = figure.colorbar(points, ax=axes, label=quantity(names[2]).name)
        if wants_log(values):
            plain_log_ticks(bar.ax.yaxis, float(values.min()), float(values.max()))
    else:
        axes.scatter(scaled(front, x), scaled(front, y), color=BLUE, **style)
    for name, axis in ((x, "x"), (y, "y")):
        make_log(axes, axis, scaled(evaluated, name))
    axes.set(xlabel=quantity(x).name, ylabel=quantity(y).name)
    # Points first, then their bars, whose labels are long: three side by side would widen the figure.
    named = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda one: isinstance(one[0], Container))
    figure.legend(*zip(*named, strict=True), loc="outside lower center", ncols=2)
    return True


def _error_bars(axes: Axes, front: pd.DataFrame, x: str, y: str, mode: str) -> None:
    rows = front.iloc[spread(len(front), MAX_BARS)]
    for name, axis in ((x, "x"), (y, "y")):
        errors = judged_by(mode, name)
        off = "" if errors is None else f"{quantity(name).name} if {errors.brief()} (validation, n = {errors.n})"
        quality = *INTERVALS.get(name, ("", "")), f"95% interval of {quantity(name).name}"
        shown = f"{name}_error_low", f"{name}_error_high", off
        for (low, high, label), colour, width in ((quality, BLACK, 0.9), (shown, GREY, 1.8)):
            if low not in rows or rows[low].isna().all():
                continue
            factor, value = quantity(name).factor, scaled(rows, name)
            ends = np.array(
                [value - rows[low].to_numpy(dtype=float) * factor, rows[high].to_numpy(dtype=float) * factor]
            )
            ends[1] -= value
            # A point estimate may lie outside a bootstrap interval by a hair.
            bars: dict[str, Any] = {f"{axis}err": np.maximum(ends, 0), "label": label}
            style: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": width, "alpha": 0.55, "zorder": 2}
            axes.errorbar(scaled(rows, x), scaled(rows, y), **bars, **style)


def _levels(values: pd.Series[Any]) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Height in 0..1 of every row on an axis, below it for what is off, and the axis's labels."""
    import pandas as pd

    off = values.isna().to_numpy(dtype=bool)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    name = str(values.name)
    heights = np.full(len(values), -0.12)
    ticks: list[tuple[float, str]] = [(-0.12, "off")] if off.any() else []
    if np.isnan(numbers[~off]).any():
        texts = values.map(str)
        known = sorted(texts[~off].unique())
        place = {text: index / max(1, len(known) - 1) for index, text in enumerate(known)}
        heights[~off] = texts[~off].map(place)
        shown = known if len(known) <= 6 else [known[0], known[-1]]
        return heights, ticks + [(place[text], text) for text in shown]
    known_numbers = numbers[~off]
    low, high = known_numbers.min(), known_numbers.max()
    bend = np.log if wants_log(known_numbers) else np.asarray

    def height(value: Any) -> Any:
        return (bend(value) - bend(low)) / (bend(high) - bend(low)) if high > low else 0.5 + 0.0 * value

    heights[~off] = height(known_numbers)
    distinct = np.unique(known_numbers)
    marks = distinct if len(distinct) <= MAX_TICKS else distinct[[0, len(distinct) // 2, -1]]
    return heights, ticks + [(float(height(value)), cell(name, float(value))) for value in marks]


def draw_parallel(figure: Figure, numbers: Numbers) -> bool:
    """One vertical axis per decision and objective, a line per design."""
    from matplotlib.collections import LineCollection

    found = numbers.found
    trials = found.trials[found.trials["error"].isna()]
    varied = list(decisions(trials, found.study))
    if "schedule" in varied and "mean_decode_bits" in trials:
        varied[varied.index("schedule")] = "mean_decode_bits"
    # A bandwidth that is varied is an objective of the same values.
    shown = [name for name in numbers.objectives if not any(repeats(trials[path], trials[name]) for path in varied)]
    columns = [*varied, *shown]
    if len(columns) < 2 or found.pareto.empty:
        return False
    figure.set_size_inches(max(6.8, 1.15 * len(columns)), 4.2)
    axes = figure.add_subplot()
    heights, labels = zip(*(_levels(trials[name]) for name in columns), strict=True)
    points = np.stack(heights, axis=1)
    front = trials["on_front"].to_numpy(dtype=bool)
    others = np.flatnonzero(~front)
    others = others[spread(len(others), MAX_LINES)]
    places = np.arange(len(columns), dtype=float)

    def lines(rows: NDArray[np.intp]) -> list[NDArray[np.float64]]:
        return [np.column_stack([places, points[row]]) for row in rows]

    axes.add_collection(LineCollection(lines(others), colors=LIGHT, linewidths=0.5, alpha=0.6))
    chosen = np.flatnonzero(front)
    chosen = chosen[spread(len(chosen), MAX_LINES)]
    first = numbers.objectives[0]
    coloured = LineCollection(lines(chosen), cmap=colour_map(), linewidths=1.0, alpha=0.85, zorder=3)
    coloured.set_array(scaled(trials, first)[chosen])
    axes.add_collection(coloured)
    figure.colorbar(coloured, ax=axes, label=f"{quantity(first).name} (front)", pad=0.02)
    for place, ticks in zip(places, labels, strict=True):
        axes.axvline(place, color=BLACK, linewidth=0.8, zorder=4)
        for height, text in ticks:
            axes.text(place + 0.04, height, text, fontsize=7, va="center", zorder=5, bbox=_LABEL_BOX)
    lowest = -0.2 if any(text == "off" for ticks in labels for _, text in ticks) else -0.06
    axes.set(xlim=(-0.15, len(columns) - 0.5), ylim=(lowest, 1.06), yticks=[])
    axes.set_xticks(places, [_short(name) for name in columns], rotation=20, ha="right", fontsize=8)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return True


_LABEL_BOX: dict[str, Any] = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}


def _short(name: str) -> str:
    text = quantity(name).name
    return text.split(".")[-1] if "." in text else text


def draw_scatter_matrix(figure: Figure, numbers: Numbers) -> bool:
    """Every pair of three or more objectives, with histograms on the diagonal."""
    names = numbers.objectives
    if len(names) < 3:
        return False
    trials = numbers.found.trials
    kept = trials[trials["feasible"]]
    front = kept["on_front"].to_numpy(dtype=bool)
    side = 2.2 * len(names)
    figure.set_size_inches(side, side * 0.9)
    grid = figure.subplots(len(names), len(names), sharex="col", squeeze=False)
    for row, y in enumerate(names):
        for column, x in enumerate(names):
            axes = grid[row][column]
            values = scaled(kept, x)
            make_log(axes, "x", values)
            if row == column:
                bins = np.geomspace(values.min(), values.max(), 21) if wants_log(values) else 20
                axes.hist([values[~front], values[front]], bins=bins, stacked=True, color=[LIGHT, BLUE])
                axes.set_yticks([])
            else:
                make_log(axes, "y", scaled(kept, y))
                many = len(kept) > RASTERISE_ABOVE
                for mask, colour, order in ((~front, LIGHT, 2), (front, BLUE, 3)):
                    rows = kept[mask]
                    rows = rows.iloc[spread(len(rows), MAX_POINTS)]
                    axes.scatter(
                        scaled(rows, x), scaled(rows, y), s=6, color=colour, linewidths=0, zorder=order, rasterized=many
                    )
            if row == len(names) - 1:
                axes.set_xlabel(quantity(x).name, fontsize=8.5)
            if column == 0:
                axes.set_ylabel(quantity(y).name, fontsize=8.5)
            axes.tick_params(labelsize=7.5, color=GREY)
            axes.tick_params(axis="x", rotation=45)
    return True
