"""Bandwidth budget: the least off-chip bandwidth for a decoding speed, over weight bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from studies.common.style import (
    BLACK,
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    TWO_COLUMNS_IN,
    VERMILION,
    figure_style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, BLACK, GREY)
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
BIT_TICKS = (1, 2, 3, 4, 5, 6, 8, 16)
GB = 1e9


def bandwidth_budget(budget: pd.DataFrame) -> Figure:
    """Draw GB/s over mean decode bits: a colour per target speed, a line style per context, a panel per model.

    Lines join uniform widths and break at one that is out of reach; stars are schedules that change width.

    Args:
        budget: Table of ``bittaper study bandwidth-budget`` (``budget.csv``).
    """
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(budget["model"]))
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    width = COLUMN_IN if columns == 1 else TWO_COLUMNS_IN
    with figure_style(column=True):
        figure = Figure(figsize=(width, 0.45 + 2.25 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for index, axes in enumerate(panels.flat):
            if index < len(models):
                _draw_model(axes, budget[budget["model"] == models[index]])
                axes.set_title(models[index], fontsize="medium")
            else:
                axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("least bandwidth (GB/s)")
        handles, labels = _legend(budget)
        figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1.0, handlelength=1.8)
    return figure


def _draw_model(axes: Axes, table: pd.DataFrame) -> None:
    targets, contexts = sorted(set(table["target_tokens_per_s"])), sorted(set(table["prompt_tokens"]))
    for colour, target in zip(COLOURS, targets, strict=False):
        for line, context in zip(LINES, contexts, strict=False):
            mine = table[(table["target_tokens_per_s"] == target) & (table["prompt_tokens"] == context)]
            uniform = mine[mine["kind"] == "uniform"].sort_values("mean_decode_bits")
            mixed = mine[mine["kind"] != "uniform"]
            bits, bandwidth = uniform["mean_decode_bits"], uniform["bandwidth_bytes_per_s"] / GB
            axes.plot(bits, bandwidth, line, color=colour, marker="o", markersize=2.2)
            axes.plot(
                mixed["mean_decode_bits"],
                mixed["bandwidth_bytes_per_s"] / GB,
                "*",
                color=colour,
                markersize=5.5,
                markeredgecolor=BLACK,
                markeredgewidth=0.3,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    low, high = table["mean_decode_bits"].min(), table["mean_decode_bits"].max()
    ticks = [bits for bits in BIT_TICKS if low <= bits <= high]
    axes.set_xticks(ticks, [str(bits) for bits in ticks])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("mean weight bits in decode")


def _legend(budget: pd.DataFrame) -> tuple[list[Artist], list[str]]:
    from matplotlib.lines import Line2D

    targets, contexts = sorted(set(budget["target_tokens_per_s"])), sorted(set(budget["prompt_tokens"]))
    handles: list[Artist] = [Line2D([], [], color=colour) for colour, _ in zip(COLOURS, targets, strict=False)]
    labels = [f"{target:g} tokens/s" for target in targets[: len(handles)]]
    for line, context in zip(LINES, contexts, strict=False):
        handles.append(Line2D([], [], color=BLACK, linestyle=line))
        labels.append(f"prompt of {context}")
    if (budget["kind"] != "uniform").any():
        handles.append(Line2D([], [], color="white", marker="*", markeredgecolor=BLACK, linestyle=""))
        labels.append("schedule that switches")
    return handles, labels
