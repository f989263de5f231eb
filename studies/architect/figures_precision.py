"""Figures about bits: what one is worth, which widths, energy, the KV cache, switching, co-design."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studies.architect.looks import COLOURS, GB, MARKERS, Read
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
    YELLOW,
    figure_style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTEXT_TICKS = (1, 8, 32, 128, 512, 2048, 8192, 32768, 131072)
COMPONENTS = {
    "dram": (BLUE, ""),
    "second_dram": (SKY, "//"),
    "static": (GREY, ""),
    "sram": (ORANGE, "\\\\"),
    "matrix": (GREEN, "xx"),
    "codebook_lookup": (VERMILION, ".."),
    "sparse_select": (YELLOW, "--"),
    "sfu": (PURPLE, "++"),
}


def bit_value(read: Read) -> Figure:
    """GB/s per bit of every model, a panel per target, a bar per pair of widths; a dash for the plane alone."""
    import numpy as np
    from matplotlib.lines import Line2D

    table = read("bit_value")
    targets, models = sorted(set(table["target_tokens_per_s"])), list(dict.fromkeys(table["model"]))
    pairs = list(dict.fromkeys(zip(table["from_bits"], table["to_bits"], strict=True)))
    size = 0.8 / len(pairs)
    with figure_style(column=True):
        figure, panels = _panels(len(targets), 2, 2.1)
        for axes, target in zip(panels, targets, strict=True):
            mine = table[table["target_tokens_per_s"] == target].set_index(["model", "from_bits", "to_bits"])
            for number, (low, high) in enumerate(pairs):
                values = [mine["bytes_per_s_per_bit"].get((model, low, high), np.nan) / GB for model in models]
                places = np.arange(len(models)) + (number - (len(pairs) - 1) / 2) * size
                axes.bar(places, values, size, color=COLOURS[number % len(COLOURS)], label=f"{low} to {high} bits")
            reached = set(table[table["target_tokens_per_s"] == target]["model"])
            for place, model in enumerate(models):
                if model not in reached:
                    axes.annotate("out of reach", (place, 0), rotation=90, ha="center", va="bottom", fontsize=6)
            plane = table.drop_duplicates("model").set_index("model")["plane_bytes"] * target / GB
            axes.hlines(
                [plane[model] for model in models],
                np.arange(len(models)) - 0.45,
                np.arange(len(models)) + 0.45,
                color=BLACK,
                linewidth=0.9,
            )
            axes.set_xticks(range(len(models)), models, rotation=30, ha="right", fontsize=6.5)
            axes.set_title(f"{target:g} tokens/s", fontsize="medium")
            axes.grid(visible=False, axis="x")
            axes.set_ylabel("GB/s per weight bit")
        handles, labels = panels[0].get_legend_handles_labels()
        handles.append(Line2D([], [], color=BLACK, linewidth=0.9))
        figure.legend(handles, [*labels, "one plane, read once a token"], loc="outside lower center", ncols=4)
    return figure


def widths(read: Read) -> Figure:
    """Area of the least NPU by set of widths and task, a panel per target; energy of array and look-ups by unit."""
    sets, energy = read("widths"), read("widths_energy")
    targets = sorted(set(sets["target_tokens_per_s"]))
    tasks, loss = list(dict.fromkeys(sets["task"])), sets["loss"].min()
    with figure_style(column=True):
        figure, panels = _panels(len(targets) + 1, 3 if len(targets) == 2 else 2, 2.2)
        for axes, target in zip(panels, targets, strict=False):
            mine = sets[(sets["loss"] == loss) & (sets["target_tokens_per_s"] == target)]
            _draw_sets(axes, mine.dropna(subset=["area_mm2"]), tasks)
            axes.set_title(f"{target:g} tokens/s, {100 * loss:g}% of quality lost", fontsize="medium")
        handles, labels = panels[0].get_legend_handles_labels()
        last = panels[-1]
        for colour, (unit, one) in zip((BLACK, GREY), energy.groupby("unit", sort=False), strict=False):
            joules = 1e6 * (one["array_j"] + one["lookup_j"])
            last.plot(one["weight_bits"], joules, "o-", color=colour, markersize=3, label=unit)
        last.set_ylim(bottom=0)
        last.set_xlabel("weight bits")
        last.set_ylabel("array and look-ups (uJ/token)")
        last.legend(loc="lower right")
        figure.legend(handles, labels, loc="outside lower center", ncols=len(tasks))
    return figure


def _panels(count: int, columns: int, height_in: float) -> tuple[Figure, list[Axes]]:
    """A figure of two columns of print with so many panels in rows; places that are left stay empty."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(TWO_COLUMNS_IN, 0.4 + height_in * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _draw_sets(axes: Axes, mine: pd.DataFrame, tasks: list[str]) -> None:
    """Bars of the least area, by set of widths and task."""
    import numpy as np

    names = list(dict.fromkeys(mine["widths"]))
    size = 0.8 / len(tasks)
    for number, task in enumerate(tasks):
        rows = mine[mine["task"] == task].set_index("widths")["area_mm2"]
        places = np.arange(len(names)) + (number - (len(tasks) - 1) / 2) * size
        axes.bar(places, [rows.get(name, np.nan) for name in names], size, color=COLOURS[number], label=task)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("least NPU (mm2; axis cut)")
    axes.set_xlabel("widths supported")
    shown = [name.replace("2+3+4+5+6+7+8", "2 to 8") for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=30, ha="right", fontsize=6.5)
    if names:
        low, high = mine["area_mm2"].min(), mine["area_mm2"].max()
        axes.set_ylim(max(0.0, low - (high - low)), high + 0.1 * (high - low))
    else:
        axes.set_yticks([])
        axes.annotate("out of reach", (0.5, 0.5), xycoords="axes fraction", ha="center")


def energy(read: Read) -> Figure:
    """Energy of a token: stacked by component over weight bits, and in total over context."""
    from matplotlib.figure import Figure

    table = read("energy")
    widths_shown, contexts = sorted(set(table["weight_bits"])), sorted(set(table["context"]))
    near = contexts[min(1, len(contexts) - 1)]
    mine = table[table["context"] == near]
    here = mine.pivot_table(index="weight_bits", columns="component", values="j_per_token", fill_value=0.0)
    totals = table.pivot_table(index="context", columns="weight_bits", values="j_per_token", aggfunc="sum")
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 2.5), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for axes, small in ((left, False), (middle, True)):
            below = 0.0 * here.iloc[:, 0]
            for name, (colour, hatch) in COMPONENTS.items():
                if name not in here or (small and name in {"dram", "second_dram", "static"}):
                    continue
                values = 1e3 * here[name]
                axes.bar(
                    [str(bits) for bits in here.index],
                    values,
                    bottom=below,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0.3,
                    label=name.replace("_", " "),
                )
                below = below + values
            axes.set_xlabel("weight bits")
            axes.grid(visible=False, axis="x")
        left.set_ylabel("mJ per token")
        left.set_title(f"{near:,} tokens of context", fontsize="medium")
        middle.set_title("without DRAM and static", fontsize="medium")
        for colour, marker, bits in zip(COLOURS, MARKERS, widths_shown, strict=False):
            right.plot(contexts, 1e3 * totals[bits], color=colour, marker=marker, markersize=3, label=f"{bits} bits")
        right.set_ylim(bottom=0)
        right.xaxis.set_major_formatter("{x:,.0f}")
        right.set_xlabel("tokens of context")
        right.set_title("in total", fontsize="medium")
        right.legend(loc="center right", bbox_to_anchor=(1.0, 0.6), fontsize=6, ncols=2)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def kv_bits(read: Read) -> Figure:
    """A panel per model: value of a KV bit over that of a weight bit, over context, a line per batch."""
    from matplotlib.figure import Figure

    table = read("kv_bits")
    models, batches = list(dict.fromkeys(table["model"])), sorted(set(table["batch"]))
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 2.4), layout="constrained")
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for axes, model in zip(panels, models, strict=True):
            for colour, marker, batch in zip(COLOURS, MARKERS, batches, strict=False):
                one = table[(table["model"] == model) & (table["batch"] == batch)]
                ratio = one["kv_bit_over_weight_bit"]
                axes.plot(
                    one["context"],
                    ratio.where(ratio > 0),  # nothing has no place on a logarithmic axis
                    color=colour,
                    marker=marker,
                    markersize=3,
                    label=f"batch {batch}",
                )
            axes.axhline(1.0, color=GREY, linewidth=0.9, linestyle="--")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            contexts = sorted(set(table["context"]))
            ticks = [tokens for tokens in CONTEXT_TICKS if contexts[0] <= tokens <= contexts[-1]] or contexts
            axes.set_xticks(ticks, [f"{tokens:,}" for tokens in ticks])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_title(model, fontsize="medium")
            axes.set_xlabel("tokens of context")
            mine = table[table["model"] == model].set_index("batch")
            free = [str(batch) for batch in batches if (mine.loc[[batch], "weight_bit_s"] <= 0).all()]
            if free:
                text = f"batch {', '.join(free)}:\na weight bit saves no time"
                axes.annotate(text, (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=6)
        panels[0].set_ylabel("KV bit / weight bit (time saved)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def switching(read: Read) -> Figure:
    """Share of decoding that switches cost over the tokens between two, a line per NPU variant that pays at all."""
    from matplotlib.figure import Figure

    table = read("switching")
    paying = table[table["share_of_decoding"] > 0]
    free = [name for name in dict.fromkeys(table["variant"]) if name not in set(paying["variant"])]
    with figure_style(column=True):
        figure = Figure(figsize=(COLUMN_IN, 2.7), layout="constrained")
        axes = figure.subplots()
        for colour, marker, (name, mine) in zip(COLOURS, MARKERS, paying.groupby("variant", sort=False), strict=False):
            axes.plot(
                mine["period_tokens"],
                100 * mine["share_of_decoding"],
                color=colour,
                marker=marker,
                markersize=3,
                label=name,
            )
        axes.axhline(1.0, color=GREY, linewidth=0.9, linestyle="--")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("tokens between two switches")
        axes.set_ylabel("% of decoding time")
        if free:
            axes.set_title(f"no cost: {'; '.join(free)}", fontsize=6)
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def codesign(read: Read) -> Figure:
    """Least area and its energy per token with uniform widths and with PMPD, by task; a row per target."""
    import numpy as np

    table = read("codesign_savings")
    targets = sorted(set(table["target_tokens_per_s"]))
    quantities = (
        ("area_mm2", 1.0, "least area (mm2)"),
        ("energy_j_per_token", 1e3, "energy (mJ/token)"),
        ("memory.bandwidth_bytes_per_s", 1 / GB, "bandwidth (GB/s)"),
    )
    looks = (("uniform", -0.2, BLUE, "", "uniform width"), ("pmpd", 0.2, ORANGE, "//", "PMPD, static"))
    with figure_style(column=True):
        figure, panels = _panels(3 * len(targets), 3, 2.0)
        for place, axes in enumerate(panels):
            target, (column, factor, label) = targets[place // 3], quantities[place % 3]
            mine = table[table["target_tokens_per_s"] == target]
            for family, shift, colour, hatch, name in looks:
                values = mine[f"{column}_{family}"].to_numpy(float) * factor
                places = np.arange(len(mine)) + shift
                axes.bar(places, values, 0.38, color=colour, hatch=hatch, edgecolor="white", label=name)
                for x, value in zip(places, values, strict=True):
                    if np.isnan(value):
                        axes.annotate("none", (x, 0), rotation=90, ha="center", va="bottom", fontsize=6)
            tasks = [task.replace("-", "-\n", 1) if len(mine) > 4 else task for task in mine["task"]]
            rows = zip(tasks, mine["loss"], strict=True)
            axes.set_xlim(-0.55, len(mine) - 0.45)  # a place without a bar is one too
            axes.set_ylim(bottom=0)
            axes.set_xticks(range(len(mine)), [f"{task}\n{100 * loss:g}% lost" for task, loss in rows], fontsize=5.5)
            axes.set_ylabel(label)
            axes.grid(visible=False, axis="x")
            if place % 3 == 1:
                axes.set_title(f"{target:g} tokens/s", fontsize="medium")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure
