"""The figure of the study; reads what the run wrote."""

from __future__ import annotations

import json
from pathlib import Path

from studies.common.style import BLUE, GREY, VERMILION, figure_style, save_figure


def write_figure(folder: Path) -> list[Path]:
    """Draw how far every number is from its goal, into the folder of a finished run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    goals = json.loads((folder / "simulator_speed.json").read_text(encoding="utf-8"))["goals"]
    with figure_style():
        figure, axes = plt.subplots(figsize=(6.8, 2.4))
        for place, goal in enumerate(reversed(goals)):
            ratio = goal["bound"] / goal["median"] if goal["relation"] == "<=" else goal["median"] / goal["bound"]
            axes.plot([1, ratio], [place, place], color=GREY, linewidth=1)
            axes.plot(ratio, place, "o", color=BLUE if goal["met"] else VERMILION)
            axes.annotate(f"{ratio:.2g} x", (ratio, place), xytext=(6, -3), textcoords="offset points", fontsize=8.5)
        axes.axvline(1, color="black", linewidth=1, linestyle="--")
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
        axes.set_yticks(range(len(goals)), [goal["what"] for goal in reversed(goals)])
        axes.set_ylim(-0.6, len(goals) - 0.4)
        axes.margins(x=0.12)
        axes.set_xlabel("times better than asked (median; right of the line the goal is met)")
        paths = save_figure(figure, folder / "goals")
        plt.close(figure)
    return paths
