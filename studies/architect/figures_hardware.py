"""Figures about the NPU: templates, MACs and bandwidth, buffers, batches, sensitivity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from studies.common.style import (
    BLACK,
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS_IN,
    VERMILION,
    figure_style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Read = Callable[[str], "pd.DataFrame"]

GB = 1e9
HALF = 0.5
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, BLACK, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LABEL_MACS, LABEL_GB_PER_S = 0.72, 0.9  # shares of the axes at which lines are labelled, where they run straight
SPEEDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
TTFTS = (0.1, 0.3, 1, 3, 10, 30)
MOST_FACTORS = 6


def templates(read: Read) -> Figure:
    """Decoding speed and time to the first token over bandwidth, a point per NPU."""
    from matplotlib.figure import Figure

    table = read("templates")
    table = table[table["cannot_run"].isna()].sort_values("bandwidth_bytes_per_s")
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 2.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        panels: tuple[tuple[Axes, str, str], ...] = (
            (left, "decode_tokens_per_s", "decoding (tokens/s)"),
            (right, "ttft_s", "time to the first token (s)"),
        )
        for axes, column, label in panels:
            for number, row in enumerate(table.to_dict("records")):
                axes.plot(
                    row["bandwidth_bytes_per_s"] / GB,
                    row[column],
                    MARKERS[number % len(MARKERS)],
                    color=COLOURS[number % len(COLOURS)],
                    label=f"{row['npu']} ({row['macs']:,} MACs)",
                )
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("peak bandwidth (GB/s)")
            axes.set_ylabel(label)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def speed_map(read: Read) -> Figure:
    """A panel per width: lines of equal decoding speed and time to the first token, and where memory binds each."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    table = read("speed_map")
    widths = sorted(set(table["weight_bits"]))
    columns = min(2, len(widths))
    rows = -(-len(widths) // columns)
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 0.6 + 2.3 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for index, axes in enumerate(panels.flat):
            if index < len(widths):
                _draw_map(axes, table[table["weight_bits"] == widths[index]])
                axes.set_title(f"{widths[index]} bits", fontsize="medium")
            else:
                axes.set_axis_off()
        for axes in panels[-1]:
            axes.set_xlabel("off-chip bandwidth (GB/s)")
        for axes in panels[:, 0]:
            axes.set_ylabel("MACs")
        looks: tuple[tuple[str, Literal["-", ":", "--"], float, str], ...] = (
            (BLACK, "-", 0.8, "equal decoding speed (tokens/s)"),
            (PURPLE, ":", 1.2, "equal time to the first token (s)"),
            (BLUE, "-", 2.0, "decoding: memory-bound on the left"),
            (VERMILION, "--", 2.0, "prefill: memory-bound on the left"),
        )
        handles = [Line2D([], [], color=colour, linestyle=style, linewidth=width) for colour, style, width, _ in looks]
        figure.legend(handles, [look[-1] for look in looks], loc="outside lower center", ncols=2)
    return figure


def _draw_map(axes: Axes, grid: pd.DataFrame) -> None:
    import numpy as np

    def surface(column: str) -> Any:
        return grid.pivot_table(index="macs", columns="bandwidth_bytes_per_s", values=column).sort_index()

    speed, ttft = surface("decode_tokens_per_s"), surface("ttft_s")
    bandwidth, macs = speed.columns.to_numpy() / GB, speed.index.to_numpy()
    axes.grid(visible=False)
    row, column_at = int(LABEL_MACS * (len(macs) - 1)), int(LABEL_GB_PER_S * (len(bandwidth) - 1))
    for values, levels, colour, style, width in ((speed, SPEEDS, BLACK, "-", 0.8), (ttft, TTFTS, PURPLE, ":", 1.2)):
        surface_values = values.to_numpy()
        low, high = surface_values.min(), surface_values.max()
        chosen = [level for level in levels if low < level < high]
        lines = axes.contour(bandwidth, macs, values, levels=chosen, colors=colour, linestyles=style, linewidths=width)
        along = np.log(surface_values[row] if values is speed else surface_values[::-1, column_at])
        places = [
            (np.exp(np.interp(np.log(level), along, np.log(bandwidth))), macs[row])
            if values is speed
            else (bandwidth[column_at], np.exp(np.interp(np.log(level), along, np.log(macs[::-1]))))
            for level in chosen
        ]
        axes.clabel(lines, fmt="%g", fontsize=6, manual=places)
    for column, colour, style in (("decode_elasticity", BLUE, "-"), ("prefill_elasticity", VERMILION, "--")):
        elasticity = surface(column)
        if elasticity.to_numpy().min() < HALF < elasticity.to_numpy().max():
            axes.contour(bandwidth, macs, elasticity, levels=[HALF], colors=colour, linestyles=style, linewidths=2.0)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(macs[::2], [f"{int(count):,}" for count in macs[::2]])
    axes.minorticks_off()


def buffer_sizes(read: Read) -> Figure:
    """A panel per buffer: share of the best decoding (solid) and prefill speed (dashed) over its size."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sizes, knees = read("buffer_sizes"), read("buffer_knees")
    names = list(dict.fromkeys(sizes["buffer"]))
    widths = sorted(set(sizes["weight_bits"]))
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 4.2), layout="constrained")
        panels = figure.subplots(2, 3, sharey=True).flatten()
        for axes, name in zip(panels, names, strict=False):
            mine = sizes[sizes["buffer"] == name]
            for colour, bits in zip(COLOURS, widths, strict=False):
                one = mine[mine["weight_bits"] == bits]
                for column, style in (("decode_tokens_per_s", "-"), ("prompts_per_s", "--")):
                    axes.plot(one["kib"], 100 * one[column] / one[column].max(), style, color=colour)
            given = knees[knees["buffer"] == name]["given_kib"].iloc[0]
            axes.axvline(given, color=GREY, linewidth=1.0, linestyle=":")
            axes.set_title(f"{name} buffer", fontsize="medium")
            axes.set_xscale("log", base=2)
            axes.set_xlim(sizes["kib"].min(), sizes["kib"].max())
            axes.set_xticks([0.25, 4, 64, 1024, 16384], ["0.25", "4", "64", "1,024", "16,384"])
            axes.set_xlabel("KiB")
        for axes in panels[::3]:
            axes.set_ylabel("% of the best speed")
        handles = [Line2D([], [], color=colour) for colour, _ in zip(COLOURS, widths, strict=False)]
        handles += [Line2D([], [], color=BLACK), Line2D([], [], color=BLACK, linestyle="--")]
        handles.append(Line2D([], [], color=GREY, linestyle=":"))
        labels = [*(f"{bits} bits" for bits in widths), "decoding", "prefill", "size as given"]
        panels[len(names)].set_axis_off()
        panels[len(names)].legend(handles, labels, loc="center", ncols=1)
    return figure


def memory_bound(read: Read) -> Figure:
    """A panel per NPU and width: share of a faster memory that turns into speed, over the batch, a line per context."""
    from matplotlib.figure import Figure

    table = read("memory_bound")
    npus, widths = list(dict.fromkeys(table["npu"])), sorted(set(table["weight_bits"]))
    contexts = sorted(set(table["context"]))
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 0.5 + 1.8 * len(npus)), layout="constrained")
        panels = figure.subplots(len(npus), len(widths), sharex=True, sharey=True, squeeze=False)
        for row, npu in enumerate(npus):
            for column, bits in enumerate(widths):
                axes = panels[row, column]
                mine = table[(table["npu"] == npu) & (table["weight_bits"] == bits)]
                for colour, marker, context in zip(COLOURS, MARKERS, contexts, strict=False):
                    one = mine[mine["context"] == context]
                    fits = one["fits_memory"]
                    axes.plot(one["batch"], one["memory_elasticity"], color=colour, linewidth=0.9)
                    for shown, face in ((fits, colour), (~fits, "white")):
                        axes.plot(
                            one["batch"][shown],
                            one["memory_elasticity"][shown],
                            marker,
                            color=colour,
                            markerfacecolor=face,
                            markersize=3,
                            label=f"{context:,} tokens" if face == colour else None,
                        )
                axes.axhline(HALF, color=GREY, linewidth=0.9, linestyle="--")
                axes.set_xscale("log", base=2)
                axes.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
                axes.set_ylim(-0.05, 1.1)
                axes.set_title(f"{npu}, {bits} bits", fontsize="small")
        for axes in panels[-1]:
            axes.set_xlabel("batch")
        for axes in panels[:, 0]:
            axes.set_ylabel("elasticity to memory")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(handles),
            title="context (open: too much for the memory)",
        )
    return figure


def sensitivity(read: Read) -> Figure:
    """A panel per metric: share of its variance by number, assumed ones marked."""
    from matplotlib.figure import Figure

    table = read("sensitivity")
    metrics = list(dict.fromkeys(table["metric"]))
    with figure_style(column=True):
        figure = Figure(figsize=(COLUMN_IN, 0.4 + 1.15 * len(metrics)), layout="constrained")
        panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
        for axes, metric in zip(panels, metrics, strict=True):
            mine = table[table["metric"] == metric].head(MOST_FACTORS).iloc[::-1]
            colours = [VERMILION if assumed else BLUE for assumed in mine["assumed"]]
            share = 100 * mine["total_order"].clip(lower=0)
            axes.barh(mine["parameter"], share, color=colours)
            errors = [
                (share - 100 * mine["total_order_ci_low"]).clip(lower=0),
                (100 * mine["total_order_ci_high"] - share).clip(lower=0),
            ]
            axes.errorbar(share, mine["parameter"], xerr=errors, fmt="none", ecolor=BLACK, elinewidth=0.7)
            axes.set_title(metric, fontsize="medium", loc="left")
            axes.tick_params(axis="y", labelsize=6)
            axes.grid(visible=False, axis="y")
        panels[-1].set_xlabel("% of the variance (total order); orange-red: assumed number")
    return figure
