"""Figures of the study; reads the tables that the run wrote and computes nothing but their layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.common.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS_IN,
    VERMILION,
    figure_style,
    save_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FULL = "full precision"
FP16_BITS = 16
# Colour, marker and line of every quantiser; a store with groups has the open marker of the one without.
LOOKS: dict[str, tuple[str, str, str]] = {
    "nested": (BLUE, "o", "-"),
    "nested-fisher": (GREEN, "s", "-"),
    "nested-hessian": (PURPLE, "D", "-"),
    "direct": (SKY, "x", "none"),
    "rtn": (GREY, "v", "--"),
    "gptq": (VERMILION, "^", "--"),
    "nested-g": (BLUE, "o", "none"),
    "nested-fisher-g": (GREEN, "s", "none"),
    "nested-hessian-g": (PURPLE, "D", "none"),
    "rtn-g": (GREY, "v", "none"),
    "gptq-g": (VERMILION, "^", "none"),
    "dns": (ORANGE, "P", "none"),
    "dns-fisher": (ORANGE, "X", "none"),
    "dns-fisher-magnitude": (ORANGE, "d", "none"),
    "dns-hessian": (ORANGE, "*", "none"),
}
NAMES = {
    "nested": "nested, unweighted",
    "nested-fisher": "nested, Fisher",
    "nested-hessian": "nested, Hessian",
    "direct": "one width, unweighted",
    "rtn": "RTN",
    "gptq": "GPTQ",
    "nested-g": "nested, groups",
    "nested-fisher-g": "nested, Fisher, groups",
    "nested-hessian-g": "nested, Hessian, groups",
    "rtn-g": "RTN, groups",
    "gptq-g": "GPTQ, groups",
    "dns": "dense-and-sparse",
    "dns-fisher": "dense-and-sparse, Fisher",
    "dns-fisher-magnitude": "the same, outliers by magnitude",
    "dns-hessian": "dense-and-sparse, Hessian",
}


def write_figures(folder: Path) -> list[Path]:
    """Draw every figure into the folder of a finished run, as PNG and SVG."""
    import matplotlib as mpl
    import pandas as pd

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    quality = pd.read_csv(folder / "quality.csv")
    quality["matched_to"] = quality["matched_to"].astype(object).where(quality["matched_to"].notna(), "")
    _pair_perplexities(quality)
    sizes, stores = pd.read_csv(folder / "bytes.csv"), pd.read_csv(folder / "nested_store.csv")
    paths: list[Path] = []
    with figure_style(column=True):
        for name, draw, tables in (
            ("perplexity", _draw_perplexity, (quality,)),
            ("fidelity", _draw_fidelity, (quality,)),
            ("two_bits", _draw_two_bits, (quality,)),
            ("bytes", _draw_bytes, (sizes, stores)),
        ):
            figure = plt.figure()
            draw(figure, *tables)
            paths += save_figure(figure, folder / name, column=True)
            plt.close(figure)
    return paths


def _pair_perplexities(rows: pd.DataFrame) -> None:
    """Replace the bounds of each perplexity by those of its paired ratio to full precision.

    How much perplexity varies between answers, which is the same for every quantiser, would hide what differs.
    """
    full = rows["model"].map(rows[rows["quantizer"] == FULL].set_index("model")["perplexity"])
    for bound in ("low", "high"):
        rows[f"perplexity_{bound}"] = full * np.exp(rows[f"log_perplexity_minus_full_{bound}"])


def _draw_perplexity(figure: Figure, rows: pd.DataFrame) -> None:
    """Perplexity over bits read and over width, a column a model."""
    _draw_curves(figure, rows, "perplexity", "perplexity per token", log=True)


def _draw_fidelity(figure: Figure, rows: pd.DataFrame) -> None:
    """Rouge-L against the full-precision response, likewise."""
    _draw_curves(figure, rows, "rouge_l", "Rouge-L with full precision", log=False)


def _draw_curves(figure: Figure, rows: pd.DataFrame, score: str, label: str, *, log: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    models = list(dict.fromkeys(rows["model"]))
    figure.set_size_inches(TWO_COLUMNS_IN if len(models) > 1 else TWO_COLUMNS_IN / 2, 3.7)
    grid = figure.subplots(2, len(models), squeeze=False, sharey="col")
    for column, model in enumerate(models):
        of_model = rows[rows["model"] == model]
        full = of_model[of_model["quantizer"] == FULL].iloc[0]
        for line, place in enumerate(("bits_per_weight", "bits")):
            axes = grid[line][column]
            axes.axhline(full[score], color=BLACK, linewidth=0.7, linestyle=":")
            for kind in LOOKS:
                mine = of_model[(of_model["quantizer"].map(_kind) == kind) & (of_model[place] <= FP16_BITS)]
                if line == 1:
                    # At a nominal width what a method spends besides its planes is left out: planes alone compare.
                    mine = mine[~mine["quantizer"].str.contains("-g|dns")]
                _errorbar(axes, mine.sort_values(place), place, score, kind)
            if log:
                axes.set_yscale("log")
                wide = of_model[score].max() > 3 * of_model[score].min()
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("bits read per weight" if line == 0 else "width (bits)")
            if column == 0:
                axes.set_ylabel(label)
        grid[0][column].set_title(model, fontsize=7.5)
        grid[1][column].set_xticks(range(2, 9))
    figure.tight_layout()
    _legend(figure)


def _errorbar(axes: Any, rows: pd.DataFrame, place: str, score: str, kind: str) -> None:
    if rows.empty:
        return
    colour, marker, line = LOOKS[kind]
    below, above = rows[score] - rows[f"{score}_low"], rows[f"{score}_high"] - rows[score]
    axes.errorbar(
        rows[place],
        rows[score],
        [below.clip(lower=0), above.clip(lower=0)],
        color=colour,
        marker=marker,
        linestyle=line,
        linewidth=0.9,
        elinewidth=0.6,
        markersize=3.4,
        markerfacecolor="white" if kind.endswith("-g") else colour,
        label=NAMES[kind],
    )


def _legend(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = [name for name in NAMES.values() if name in handles]
    columns = min(len(order), 5)
    chosen = [handles[name] for name in order]
    figure.legend(chosen, order, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns)


def _draw_two_bits(figure: Figure, rows: pd.DataFrame) -> None:
    """What 2-bit codes cost and what helps: log-perplexity above full precision, bits per weight beside the name."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    models = list(dict.fromkeys(rows["model"]))
    two = rows[rows["bits"] == 2]
    most = max(len(two[two["model"] == model]) for model in models)
    columns = min(len(models), 2)
    lines = -(-len(models) // columns)
    figure.set_size_inches(TWO_COLUMNS_IN if columns > 1 else TWO_COLUMNS_IN / 2, lines * (0.6 + 0.15 * most))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(models) :]:
        axes.set_visible(False)
    for axes, model in zip(panels, models, strict=False):
        mine = two[two["model"] == model].sort_values("log_perplexity_minus_full", ascending=False, na_position="first")
        names = []
        for place, (_, row) in enumerate(mine.iterrows()):
            score = row["log_perplexity_minus_full"]
            colour, marker, _ = LOOKS[_kind(row["quantizer"])]
            bounds = [[score - row["log_perplexity_minus_full_low"]], [row["log_perplexity_minus_full_high"] - score]]
            face = "white" if _kind(row["quantizer"]).endswith("-g") else colour
            axes.errorbar(score, place, xerr=bounds, color=colour, marker=marker, markerfacecolor=face, markersize=3.6)
            matched = f" = {row['matched_to']}" if row["matched_to"] else ""
            names.append(f"{row['quantizer']}{matched} ({row['bits_per_weight']:.2f})")
        axes.set_yticks(range(len(names)), names, fontsize=5.5)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(model, fontsize=7.5)
        axes.grid(axis="y", visible=False)
    for axes in panels[max(len(models) - columns, 0) : len(models)]:
        axes.set_xlabel("log-perplexity above full precision (nats)")
    figure.tight_layout()


def _draw_bytes(figure: Figure, sizes: pd.DataFrame, stores: pd.DataFrame) -> None:
    """Bytes of the quantised layers against fp16, by what they are."""
    models = list(dict.fromkeys(sizes["model"]))
    figure.set_size_inches(TWO_COLUMNS_IN, 2.3)
    panels = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    parts = (("planes", BLUE), ("codebook", ORANGE), ("fp16", GREY))
    for axes, model in zip(panels, models, strict=True):
        mine = sizes[sizes["model"] == model]
        fp16 = mine[mine["quantizer"] == "fp16 model"]["fp16_bytes"].iloc[0]
        nested = mine[mine["quantizer"] == "nested"]
        bars = [
            ("fp16", mine[mine["quantizer"] == "fp16 model"]),
            ("nested\n2..8", nested[nested["fp16_bytes"] == 0]),
            ("nested\n+ fp16", nested[nested["fp16_bytes"] > 0]),
            ("each\nwidth", mine[mine["quantizer"] == "direct"]),
        ]
        for place, (_, chosen) in enumerate(bars):
            bottom = 0.0
            for part, colour in parts:
                height = chosen[f"{part}_bytes"].sum() / fp16
                axes.bar(place, height, bottom=bottom, width=0.7, color=colour)
                bottom += height
            axes.text(place, bottom, f"{bottom:.2f}", ha="center", va="bottom", fontsize=6.5)
        uniform = stores[(stores["model"] == model) & (stores["source"] == "computed")]["layer_bytes"].iloc[0]
        axes.bar(len(bars), uniform / fp16, width=0.7, facecolor="none", edgecolor=GREY, hatch="///", linewidth=0.6)
        axes.text(len(bars), uniform / fp16, f"{uniform / fp16:.2f}", ha="center", va="bottom", fontsize=6.5)
        axes.axhline(1, color=BLACK, linewidth=0.7, linestyle=":")
        axes.set_xticks(range(len(bars) + 1), [name for name, _ in bars] + ["each\nRTN"], fontsize=5.5)
        axes.set_title(model, fontsize=7.5)
        axes.grid(axis="x", visible=False)
    # Room for the number on the highest bar.
    panels[0].set_ylim(top=1.08 * panels[0].get_ylim()[1])
    panels[0].set_ylabel("bytes of the layers / fp16")
    names = {"planes": "planes", "codebook": "codebooks", "fp16": "fp16 weights"}
    handles = [panels[0].bar(0, 0, color=colour, label=names[part]) for part, colour in parts]
    handles.append(panels[0].bar(0, 0, facecolor="none", edgecolor=GREY, hatch="///", label="computed, not stored"))
    figure.tight_layout()
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)


def _kind(quantizer: str) -> str:
    """The look of a quantiser, whatever the size of its groups."""
    name, dash, _ = quantizer.rpartition("-g")
    return f"{name}-g" if dash else quantizer
