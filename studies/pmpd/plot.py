"""Figures of the study; reads the tables that the run wrote and computes nothing but their layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    from matplotlib.axes import Axes

Panel = Callable[["Axes", "pd.DataFrame"], None]
METRIC_NAMES = {"bleu": "BLEU", "fidelity_rouge_l": "fidelity", "rouge_l": "Rouge-L"}
PATTERN_COLOURS = {
    "all-high": BLACK,
    "first-half": BLUE,
    "middle-half": SKY,
    "last-half": VERMILION,
    "alternate": GREEN,
    "all-low": GREY,
}
LEGEND_COLUMNS = 3
"""Of a figure of one or two models."""
MARKER_SIZE = 4
SAME_BITS, SAME_HEIGHT = 0.02, 0.03
"""Within which two markers hide each other: bits, and share of a panel's height."""
PHASE_COLOURS = (GREY, VERMILION, BLUE, BLACK)
# Colour and marker of what Table 1 and Table 9 compare.
METHOD_LOOKS = {
    "baseline-l": (GREY, "v"),
    "baseline-h": (BLACK, "^"),
    "high prefill": (SKY, "s"),
    "static": (BLUE, "o"),
    "learned": (GREEN, "D"),
    "dns": (ORANGE, "X"),
}
INPUT_LOOKS = {
    "kv-last": (BLUE, "o"),
    "kv-middle": (BLUE, "s"),
    "kv-first": (BLUE, "v"),
    "activations-last": (ORANGE, "o"),
    "activations-middle": (ORANGE, "s"),
    "activations-first": (ORANGE, "v"),
    "kv-last+positions": (GREEN, "D"),
    "random-prior": (GREY, "X"),
    "random-uniform": (GREY, "P"),
}
METHOD_NAMES = {
    "baseline-l": "low width alone",
    "baseline-h": "high width alone",
    "high prefill": "high prefill, low decoding",
    "static": "PMPD static",
    "learned": "PMPD learned",
    "dns": "dense-and-sparse",
}


def write_figures(folder: Path) -> list[Path]:
    """Draw every figure into the folder of a finished run, as PNG and SVG."""
    import pandas as pd

    scores = pd.read_csv(folder / "scores.csv")
    # The first metric of a model decides, and is what is drawn.
    first = scores.groupby("model", sort=False)["metric"].first()
    drawn = scores[scores["metric"] == scores["model"].map(first)]
    paths: list[Path] = []
    for experiment, (name, _, _) in FIGURES.items():
        part = drawn[drawn["experiment"] == experiment]
        if not part.empty:
            paths += draw_experiment(folder / name, part, experiment)
    return paths


def draw_experiment(stem: Path, rows: pd.DataFrame, experiment: str) -> list[Path]:
    """Draw one result of the paper.

    Args:
        stem: The files without their suffix.
        rows: Its scores, one metric a model.
        experiment: Which, for example ``fig3``.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    _, panel, label = FIGURES[experiment]
    with figure_style(column=True):
        return _grid(stem, rows, panel, label)


def _grid(stem: Path, rows: pd.DataFrame, panel: Panel, label: str) -> list[Path]:
    """One row of panels a pair of widths, one column a model; differences are to the high width alone."""
    import matplotlib.pyplot as plt

    models, pairs = rows["model"].unique(), rows["pair"].unique()
    figure, grid = plt.subplots(
        len(pairs), len(models), figsize=(TWO_COLUMNS_IN * max(len(models), 2) / 4, 1.75 * len(pairs)), squeeze=False
    )
    for line, pair in enumerate(pairs):
        for column, model in enumerate(models):
            axes, part = grid[line][column], rows[(rows["model"] == model) & (rows["pair"] == pair)]
            if part.empty:
                axes.set_axis_off()
                continue
            panel(axes, part)
            if line == 0:
                axes.set_title(f"{model} (n = {part['n'].iloc[0]})", fontsize=7.5)
            if column == 0 or part["metric"].iloc[0] != rows[rows["model"] == models[column - 1]]["metric"].iloc[0]:
                metric = str(part["metric"].iloc[0])
                axes.set_ylabel(
                    label.format(METRIC_NAMES.get(metric, metric)) + (f", {pair} bits" if column == 0 else "")
                )
    entries = {
        text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if entries:
        # One line under four models; no wider than the panels under fewer.
        columns = len(entries) if len(models) > 2 else LEGEND_COLUMNS
        figure.legend(entries.values(), entries.keys(), loc="upper center", ncols=columns, bbox_to_anchor=(0.5, 0.0))
    figure.tight_layout()
    paths = save_figure(figure, stem, column=True)
    plt.close(figure)
    return paths


def _phases(axes: Axes, rows: pd.DataFrame) -> None:
    low, high = sorted({int(method[0]) for method in rows["method"] if method[0].isdigit()})
    order = [(low, low), (low, high), (high, low), (high, high)]
    _zero(axes)
    for place, ((prefill, decode), colour) in enumerate(zip(order, PHASE_COLOURS, strict=True)):
        _point(axes, place, rows[rows["method"] == f"{prefill}-bit prefill, {decode}-bit decode"], colour)
    names = [f"{prefill}→{decode}" for prefill, decode in order]
    if not rows["metric"].iloc[0].startswith("fidelity"):  # full precision is what fidelity compares with
        _point(axes, 4, rows[rows["method"] == "full precision"], PURPLE)
        names.append("16")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("prefill → decode bits")


def _patterns(axes: Axes, rows: pd.DataFrame) -> None:
    _zero(axes)
    for place, (pattern, colour) in enumerate(PATTERN_COLOURS.items()):
        _point(axes, place, rows[rows["method"] == pattern], colour, pattern)
    axes.set_xticks([])


def _point(
    axes: Axes,
    place: float,
    rows: pd.DataFrame,
    colour: str,
    label: str | None = None,
    marker: str = "o",
    size: float = MARKER_SIZE,
) -> None:
    """The paired difference to the high width alone, with its interval."""
    value, low, high = (rows[f"minus_high_{end}"] for end in ("value", "ci_low", "ci_high"))
    axes.errorbar(
        [place] * len(rows), value, yerr=[value - low, high - value], fmt=marker, color=colour, markersize=size,
        capsize=2, linewidth=1, label=label,
    )  # fmt: skip


def _zero(axes: Axes) -> None:
    axes.axhline(0, color=BLACK, linewidth=0.6)


def _schedulers(axes: Axes, rows: pd.DataFrame) -> None:
    _zero(axes)
    ends = [rows[rows["method"] == method].iloc[0] for method in ("high prefill", "baseline-h")]
    columns = ("mean_bits", "minus_high_value")
    axes.plot(*([one[column] for one in ends] for column in columns), color=GREY, linestyle="--", linewidth=0.8)
    drawn = [
        (method, one) for method in METHOD_LOOKS for _, one in rows[rows["method"].str.startswith(method)].iterrows()
    ]
    height = float(rows["minus_high_ci_high"].max() - rows["minus_high_ci_low"].min()) or 1.0
    places = [(float(one["mean_bits"]), float(one["minus_high_value"]) / height) for _, one in drawn]
    for (method, one), size in zip(drawn, _ringed_sizes(places), strict=True):
        colour, marker = METHOD_LOOKS[method]
        _point(axes, one["mean_bits"], one.to_frame().T, colour, METHOD_NAMES[method], marker, size)
    axes.set_xlabel("mean decode bits")


def _ringed_sizes(places: Sequence[tuple[float, float]]) -> list[float]:
    """Sizes of markers drawn one after the other: one that others will cover is larger, and shows around them.

    Args:
        places: Of each marker, bits and share of the panel's height.
    """
    covering = [
        sum(
            abs(x - other_x) < SAME_BITS and abs(y - other_y) < SAME_HEIGHT for other_x, other_y in places[number + 1 :]
        )
        for number, (x, y) in enumerate(places)
    ]
    return [MARKER_SIZE + 2 * count for count in covering]


def _inputs(axes: Axes, rows: pd.DataFrame) -> None:
    """Normalised score over normalised bits: 1 is the high width alone, on both axes."""
    high = rows[rows["method"] == "baseline-h"].iloc[0]
    ends = rows[rows["method"].isin(["high prefill", "baseline-h"])]
    axes.plot(ends["mean_bits"], ends["value"] / high["value"], color=GREY, linestyle="--", linewidth=0.8)
    for method, (colour, marker) in INPUT_LOOKS.items():
        part = rows[rows["method"] == method]
        if part.empty:
            continue
        axes.errorbar(
            part["mean_bits"],
            part["value"] / high["value"],
            yerr=[
                (part["minus_high_value"] - part["minus_high_ci_low"]) / high["value"],
                (part["minus_high_ci_high"] - part["minus_high_value"]) / high["value"],
            ],
            fmt=marker,
            color=colour,
            markersize=4,
            capsize=2,
            linewidth=0.8,
            label=method,
        )
    axes.set_xlabel("mean decode bits")


FIGURES: dict[str, tuple[str, Panel, str]] = {
    "table4": ("phases", _phases, "Δ {}"),
    "fig3": ("patterns", _patterns, "Δ {}"),
    "table1": ("schedulers", _schedulers, "Δ {}"),
    "table9": ("gptq", _schedulers, "Δ {}"),
    "fig7": ("inputs", _inputs, "{} / high"),
}
"""By experiment: name of the figure, what draws a panel, and the label of the vertical axis."""
