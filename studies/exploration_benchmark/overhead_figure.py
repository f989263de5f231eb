"""The figure of what a trial costs besides its simulation; reads ``overhead.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

from studies.common.style import BLUE, GREEN, ORANGE, VERMILION, save_figure

COLOURS = {"random": BLUE, "nsga2": ORANGE, "exhaustive": GREEN, "tpe": VERMILION}
GOAL_MS = 1.0
"""Most that a trial may cost besides its sampler."""


def draw(folder: Path) -> list[Path]:
    """Draw CPU milliseconds a trial against the number of trials, our own beside the sampler's."""
    import matplotlib.pyplot as plt

    with (folder / "overhead.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, (ours, samplers) = plt.subplots(1, 2, figsize=(6.8, 3.0), sharey=True, layout="constrained")
    for sampler, colour in COLOURS.items():
        own = [row for row in rows if row["sampler"] == sampler]
        trials = [int(row["trials"]) for row in own]
        cost = [float(row["log_ms"]) + float(row["bookkeeping_ms"]) for row in own]
        ours.plot(trials, cost, "o-", color=colour, label=sampler)
        samplers.plot(trials, [float(row["suggestion_ms"]) for row in own], "o-", color=colour)
    ours.axhline(GOAL_MS, color="black", linewidth=1, linestyle="--")
    ours.annotate("goal", (1, GOAL_MS), (-3, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=8)
    ours.set_title("log and bookkeeping", fontsize=9)
    samplers.set_title("sampler", fontsize=9)
    for axes in (ours, samplers):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("trials")
    ours.set_ylabel("CPU ms a trial")
    figure.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS))
    paths = save_figure(figure, folder / "overhead")
    plt.close(figure)
    return paths
