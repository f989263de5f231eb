"""Figures of the co-design study; reads the numbers that the run wrote and computes none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import Schedule, read_json
from studies.common.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    colour_map,
    figure_style,
    plain_log_ticks,
    save_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FIGURES = ("front", "quality", "progress")


def schedule_kind(schedule: Schedule) -> str:
    """Which of the paper's ideas a schedule uses: uniform, phase-aware (prefill apart), or progressive."""
    if len(schedule.widths()) == 1:
        return "uniform"
    return "phase-aware" if len(schedule.decode) == 1 else "progressive"


MARKERS = {"uniform": ("s", VERMILION), "phase-aware": ("^", BLUE), "progressive": ("o", GREEN)}


def write_figures(folder: Path) -> list[Path]:
    """Draw every figure of a finished run into its folder, PNG and SVG."""
    import matplotlib as mpl
    import pandas as pd

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    numbers = read_json(folder / "codesign.json")
    trials, pareto, hypervolume = (pd.read_csv(folder / f"{name}.csv") for name in ("trials", "pareto", "hypervolume"))
    paths: list[Path] = []
    with figure_style():
        for name in FIGURES:
            figure, axes = plt.subplots()
            if name == "front":
                _draw_front(axes, trials, pareto, numbers)
            elif name == "quality":
                _draw_quality(axes, numbers)
            else:
                _draw_progress(axes, hypervolume)
            paths += save_figure(figure, folder / name)
            plt.close(figure)
    return paths


def _kinds(labels: pd.Series[str]) -> pd.Series[str]:
    return labels.map(lambda label: schedule_kind(Schedule.from_label(label)))


def _draw_front(axes: Axes, trials: pd.DataFrame, pareto: pd.DataFrame, numbers: dict[str, Any]) -> None:
    """Throughput against quality: every design, the front by bandwidth, the chosen points on test prompts."""
    from matplotlib.colors import LogNorm

    x, y, colour = "decode_tokens_per_s", "relative_quality", "bandwidth_bytes_per_s"
    broken = trials[~trials["feasible"]]
    kept = trials[trials["feasible"] & ~trials["on_front"]]
    if len(broken):
        axes.scatter(broken[x], broken[y], s=8, marker="x", color="#c8c8c8", linewidths=0.7, label="breaks a limit")
    if len(kept):
        axes.scatter(kept[x], kept[y], s=9, color="#b0b0b0", label="dominated")
    least, most = trials[colour].min() / 1e9, trials[colour].max() / 1e9
    kinds = _kinds(pareto["schedule"])
    points = None
    for kind, (marker, _) in MARKERS.items():
        rows = pareto[kinds == kind]
        if rows.empty:
            continue
        points = axes.scatter(
            rows[x],
            rows[y],
            c=rows[colour] / 1e9,
            cmap=colour_map(),
            norm=LogNorm(least, most),
            s=26,
            marker=marker,
            edgecolors="white",
            linewidths=0.4,
            label=f"front, {kind}",
        )
    for index, design in enumerate(numbers["chosen"]):
        test = design["test"]
        low, high = test["relative_quality"] - test["relative_quality_low"], test["relative_quality_high"]
        axes.errorbar(
            test["decode_tokens_per_s"],
            test["relative_quality"],
            yerr=[[low], [high - test["relative_quality"]]],
            fmt="*",
            markersize=11,
            color=ORANGE,
            markeredgecolor=BLACK,
            markeredgewidth=0.6,
            ecolor=BLACK,
            elinewidth=0.9,
            capsize=2,
            label=f"chosen, on test (n = {test['n']}, 95%)" if index == 0 else None,
            zorder=5,
        )
    axes.set_xscale("log")
    slowest, fastest = trials[x].min(), trials[x].max()
    if math.floor(math.log10(fastest)) <= math.ceil(math.log10(slowest)):
        # Powers of ten alone would label one place of the axis or none.
        plain_log_ticks(axes.xaxis, slowest, fastest)
    axes.set_xlabel("decoding speed (tokens/s, simulated)")
    axes.set_ylabel(f"{_metric_name(numbers)} relative to full precision")
    if points is not None:
        bar = axes.figure.colorbar(points, ax=axes, label="off-chip bandwidth (GB/s)")
        plain_log_ticks(bar.ax.yaxis, least, most)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, columnspacing=1.2, handletextpad=0.3)


def _draw_quality(axes: Axes, numbers: dict[str, Any]) -> None:
    """Quality against mean decode bits, with intervals, by kind of schedule."""
    rows = [row for row in numbers["quality"]["val"] if row["metric"] == numbers["metric"]]
    full = next(row for row in rows if row["schedule"] == "p16:16")
    rows = [row for row in rows if row is not full]
    for kind, (marker, colour) in MARKERS.items():
        mine = sorted(
            (row for row in rows if schedule_kind(Schedule.from_label(row["schedule"])) == kind),
            key=lambda row: row["mean_decode_bits"],
        )
        if not mine:
            continue
        bits, values = [row["mean_decode_bits"] for row in mine], [row["value"] for row in mine]
        errors = [[row["value"] - row["ci_low"] for row in mine], [row["ci_high"] - row["value"] for row in mine]]
        axes.errorbar(
            bits,
            values,
            yerr=errors,
            fmt=f"{marker}-" if kind == "uniform" else marker,
            color=colour,
            markersize=4.5,
            elinewidth=0.8,
            linewidth=1.0,
            capsize=1.5,
            label=kind,
        )
    axes.axhline(full["value"], color=GREY, linestyle="--", linewidth=1, label="full precision")
    axes.set_xlabel("mean weight bits over decode steps")
    axes.set_ylabel(f"{_metric_name(numbers)} (validation, n = {full['n']}, 95% intervals)")
    axes.legend(loc="lower right")


def _draw_progress(axes: Axes, hypervolume: pd.DataFrame) -> None:
    """Dominated hypervolume, as a share of the final one, against designs simulated."""
    final = hypervolume["hypervolume"].iloc[-1]
    axes.plot(hypervolume["number"] + 1, hypervolume["hypervolume"] / final, color=BLUE)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("designs simulated")
    axes.set_ylabel("dominated hypervolume (share of the final one)")


def _metric_name(numbers: dict[str, Any]) -> str:
    names = {"rouge_l": "Rouge-L", "bleu": "BLEU", "fidelity_rouge_l": "Rouge-L to full precision"}
    return names.get(numbers["metric"], str(numbers["metric"]))
