"""Figures about the NPU: templates, MACs and bandwidth, buffers, batches, sensitivity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from studies.architect.looks import COLOURS, GB, HALF, MARKERS, Read
from studies.common.style import (
    BLACK,
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    PURPLE,
    TWO_COLUMNS_IN,
    VERMILION,
    figure_style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_MACS, LABEL_GB_PER_S = 0.72, 0.9  # shares of the axes at which lines are labelled, where they run straight
LABEL_WIDE, LABEL_HIGH, LABEL_MOST = 0.07, 0.06, 0.98  # shares of the axes: what a label takes, and where it may end
SPEEDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
TTFTS = (0.1, 0.3, 1, 3, 10, 30)
MOST_FACTORS = 6
LONG_NAME = 20  # letters from which a name stands in a line of its own
METRICS = {
    "area_mm2": "area (mm2)",
    "energy_j_per_token": "energy (J/token)",
    "decode_tokens_per_s": "decoding speed (tokens/s)",
    "ttft_s": "time to the first token (s)",
}


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
                    MARKERS[number],
                    color=COLOURS[number],
                )
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter("{x:,g}")
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.set_xlabel("peak bandwidth (GB/s)")
            axes.set_ylabel(label)
        names = [f"{row['npu']} ({row['macs']:,} MACs)" for row in table.to_dict("records")]
        # By its lines: a name may begin with an underscore, which hides it from a legend made from labels.
        figure.legend(left.lines, names, loc="outside lower center", ncols=4)
    return figure


def speed_map(read: Read) -> Figure:
    """A panel per width: lines of equal decoding speed and time to the first token, and where memory binds each."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    table, own = read("speed_map"), read("speed_map_npu").iloc[0]
    widths = sorted(set(table["weight_bits"]))
    columns = min(2, len(widths))
    rows = -(-len(widths) // columns)
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 0.6 + 2.3 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for index, axes in enumerate(panels.flat):
            if index < len(widths):
                _draw_map(axes, table[table["weight_bits"] == widths[index]], own)
                axes.set_title(f"{widths[index]} bits", fontsize="medium")
            else:
                axes.set_axis_off()
        for axes in panels.flat[max(0, len(widths) - columns) : len(widths)]:  # the lowest of each column
            axes.tick_params(labelbottom=True)
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
        handles.append(Line2D([], [], color=GREEN, marker="*", markersize=9, linestyle="none"))
        labels = [*(look[-1] for look in looks), own["npu"]]
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _draw_map(axes: Axes, grid: pd.DataFrame, own: pd.Series[Any]) -> None:
    import numpy as np

    def surface(column: str) -> Any:
        return grid.pivot_table(index="macs", columns="bandwidth_bytes_per_s", values=column).sort_index()

    speed, ttft = surface("decode_tokens_per_s"), surface("ttft_s")
    bandwidth, macs = speed.columns.to_numpy() / GB, speed.index.to_numpy()
    axes.grid(visible=False)
    axes.plot(own["bandwidth_bytes_per_s"] / GB, own["macs"], "*", color=GREEN, markersize=9, zorder=4)

    def shares(x: float, y: float) -> tuple[float, float]:
        """A place in shares of the axes."""
        share_x, share_y = (
            np.log(one / ends[0]) / np.log(ends[-1] / ends[0]) for one, ends in ((x, bandwidth), (y, macs))
        )
        return float(share_x), float(share_y)

    taken = [shares(own["bandwidth_bytes_per_s"] / GB, own["macs"])]
    row, column_at = int(LABEL_MACS * (len(macs) - 1)), int(LABEL_GB_PER_S * (len(bandwidth) - 1))
    for values, levels, colour, style, width in ((ttft, TTFTS, PURPLE, ":", 1.2), (speed, SPEEDS, BLACK, "-", 0.8)):
        surface_values = values.to_numpy()
        low, high = surface_values.min(), surface_values.max()
        chosen = [level for level in levels if low < level < high]
        axes.contour(bandwidth, macs, values, levels=chosen, colors=colour, linestyles=style, linewidths=width)
        for level in chosen:
            # A label that would cover another one goes to the next place along its line, or is left out.
            for place in (
                (row, row + 1, row + 2, row - 1) if values is speed else (column_at, column_at - 3, column_at - 6)
            ):
                across, along = (
                    (surface_values[place], bandwidth) if values is speed else (surface_values[::-1, place], macs[::-1])
                )
                if not across[0] < level < across[-1]:
                    continue
                at = float(np.exp(np.interp(np.log(level), np.log(across), np.log(along))))
                x, y = (at, macs[place]) if values is speed else (bandwidth[place], at)
                here = shares(x, y)
                if max(here) > LABEL_MOST or any(
                    abs(here[0] - one[0]) < LABEL_WIDE and abs(here[1] - one[1]) < LABEL_HIGH for one in taken
                ):
                    continue
                taken.append(here)
                ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                axes.text(
                    x, y, f"{level:,g}", color=colour, fontsize=6, ha="center", va="center", bbox=ground, zorder=3
                )
                break
    for column, colour, style in (("decode_elasticity", BLUE, "-"), ("prefill_elasticity", VERMILION, "--")):
        elasticity = surface(column)
        if elasticity.to_numpy().min() < HALF < elasticity.to_numpy().max():
            axes.contour(bandwidth, macs, elasticity, levels=[HALF], colors=colour, linestyles=style, linewidths=2.0)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_ylim(macs[0], macs[-1])
    axes.set_yticks(macs[::2], [f"{int(count):,}" for count in macs[::2]])
    axes.minorticks_off()


def buffer_sizes(read: Read) -> Figure:
    """A row per phase, a column per buffer: share of the best speed over its size, the knees marked."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sizes, knees, combined = read("buffer_sizes"), read("buffer_knees"), read("buffer_combined")
    names, widths = list(dict.fromkeys(sizes["buffer"])), sorted(set(sizes["weight_bits"]))
    rows = (("decode", "decode_tokens_per_s", "decoding"), ("prefill", "prompts_per_s", "prefill"))
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 3.9), layout="constrained")
        panels = figure.subplots(len(rows), len(names), sharex=True, sharey="row")
        for (phase, column, word), line in zip(rows, panels, strict=True):
            for axes, name in zip(line, names, strict=True):
                mine = sizes[sizes["buffer"] == name]
                knee = knees[(knees["buffer"] == name) & (knees["phase"] == phase)].set_index("weight_bits")
                for colour, bits in zip(COLOURS, widths, strict=False):
                    one = mine[mine["weight_bits"] == bits].set_index("kib")[column]
                    share = 100 * one / one.max()
                    axes.plot(share.index, share, color=colour)
                    at = float(knee["knee_kib"][bits])
                    axes.plot(
                        at, share[at], "o", color=colour, markersize=3.5, markeredgecolor=BLACK, markeredgewidth=0.4
                    )
                axes.axvline(float(knee["given_kib"].iloc[0]), color=GREY, linewidth=1.0, linestyle=":")
                axes.set_xscale("log", base=2)
                axes.set_xlim(sizes["kib"].min(), sizes["kib"].max())
                axes.set_xticks([1, 32, 1024, 32768], ["1Ki", "32Ki", "1Mi", "32Mi"])
                axes.minorticks_off()
            line[0].set_ylabel(f"{word}: % of the best")
        for axes, name in zip(panels[0], names, strict=True):
            axes.set_title(f"{name} buffer", fontsize="medium")
        for axes in panels[-1]:
            axes.set_xlabel("bytes")
        handles = [Line2D([], [], color=colour) for colour, _ in zip(COLOURS, widths, strict=False)]
        handles.append(Line2D([], [], color="white", marker="o", markeredgecolor=BLACK, markersize=3.5))
        handles.append(Line2D([], [], color=GREY, linestyle=":"))
        labels = [*(f"{bits} bits" for bits in widths), "least size for 99%", "size as given"]
        given = combined[combined["buffers"] == "as given"].iloc[0]
        area = 1024 * given["sram_mm2"] / given["total_kib"]
        title = f"1 MiB of SRAM takes {area:.2f} mm2 (one constant for all sizes)"
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), title=title)
    return figure


def memory_bound(read: Read) -> Figure:
    """A panel per NPU and width: share of a faster memory that turns into speed, over the batch, a line per context."""
    from matplotlib.figure import Figure

    table = read("memory_bound")
    npus, widths = list(dict.fromkeys(table["npu"])), sorted(set(table["weight_bits"]))
    contexts, batches = sorted(set(table["context"])), sorted(set(table["batch"]))
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
                axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
                axes.minorticks_off()
                axes.set_ylim(-0.05, 1.1)
                axes.set_title(
                    f"{npu}\n{bits} bits" if len(npu) > LONG_NAME else f"{npu}, {bits} bits", fontsize="small"
                )
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
            # A share is within 0..100%; an estimate beyond is an error of the sample.
            share, low, high = (
                100 * mine[f"total_order{end}"].clip(lower=0, upper=1) for end in ("", "_ci_low", "_ci_high")
            )
            axes.barh(mine["parameter"], share, color=colours)
            errors = [(share - low).clip(lower=0), (high - share).clip(lower=0)]
            axes.errorbar(share, mine["parameter"], xerr=errors, fmt="none", ecolor=BLACK, elinewidth=0.7)
            axes.set_title(METRICS[metric], fontsize="medium", loc="left")
            axes.set_xlim(0, 102)
            axes.tick_params(axis="y", labelsize=6)
            axes.grid(visible=False, axis="y")
        panels[-1].set_xlabel("% of the variance (total order); orange-red: assumed number")
    return figure
