"""Roofline: operations and phases of a run under the roof of its NPU."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from math import log10
from textwrap import fill
from typing import TYPE_CHECKING

from studies.common.style import BLACK, BLUE, COLUMN_IN, GREY, VERMILION, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hwsim import RooflinePosition, SimulationResult

COLOURS = {"prefill": VERMILION, "decode": BLUE}
NEAR_X, NEAR_Y = 0.6, 0.4  # operations closer than this, in decades, share one label
LABEL_CHARACTERS = 14
GB, TERA = 1e9, 1e12


def operation_points(result: SimulationResult, clock_hz: float) -> Iterator[tuple[str, str, float, float]]:
    """Phase, name, MACs per byte and MACs/s of every operation that multiplies and moves bytes.

    An operation's time is what passes on the matrix unit between its predecessor's last product and its own, but no
    less than it keeps a memory busy, since loads run ahead. Where the engine knows no waits, busy times are all.
    """
    waits = [] if result.stall_cycles is None else ["matrix_stall_cycles"]
    memories = [f"{unit}_busy_cycles" for unit in ("dram", "second") if unit in result.busy_cycles]
    totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in result.operations.to_dict("records"):
        if row["macs"] and row["dram_bytes"]:
            on_matrix = sum(row[name] for name in ["matrix_busy_cycles", *waits])
            cycles = max(on_matrix, *(row[name] for name in memories))
            totals[row["phase"], row["operation"]].update(
                macs=row["macs"], dram_bytes=row["dram_bytes"], cycles=int(cycles)
            )
    for (phase, name), total in totals.items():
        yield phase, name, total["macs"] / total["dram_bytes"], total["macs"] * clock_hz / total["cycles"]


def roofline(result: SimulationResult, position: RooflinePosition, *, title: str = "") -> Figure:
    """Draw attained MACs/s over MACs per byte: small points are operations, large ones phases.

    Args:
        result: In the realistic mode.
        position: Its place, from :func:`hwsim.roofline_position`.
        title: Of the figure.
    """
    from matplotlib.figure import Figure

    points = [point for point in operation_points(result, position.clock_hz) if point[0] in COLOURS]
    peak, bandwidth, ridge = position.peak_macs_per_s, position.peak_bytes_per_s, position.ridge_macs_per_byte
    intensities = [x for _, _, x, _ in points] + [phase.macs_per_byte for phase in position.phases]
    speeds = [y for *_, y in points] + [phase.macs_per_s for phase in position.phases]
    left, right = min([*intensities, ridge]) / 3, max([*intensities, ridge]) * 10
    with figure_style(column=True):
        figure = Figure(figsize=(COLUMN_IN, 2.7), layout="constrained")
        axes = figure.subplots()
        axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color=BLACK, linewidth=1.4)
        axes.plot([ridge, ridge], [min(speeds) / 4, peak], color=GREY, linestyle=":", linewidth=0.9)
        axes.text(ridge * 1.15, min(speeds) / 3, f"ridge at {ridge:.3g}", fontsize=6, rotation=90, ha="left")
        for phase, colour in COLOURS.items():
            mine = [point for point in points if point[0] == phase]
            axes.plot([p[2] for p in mine], [p[3] for p in mine], "o", color=colour, markersize=3, alpha=0.75)
        for place in position.phases:
            axes.plot(
                place.macs_per_byte,
                place.macs_per_s,
                "D",
                color=COLOURS[place.phase],
                markersize=6,
                markeredgecolor=BLACK,
                markeredgewidth=0.6,
                label=f"{place.phase}: {place.share_of_roof:.0%} of the roof",
            )
        for names, x, y in _labels(points):
            near_edge = log10(x / left) > 0.6 * log10(right / left)
            axes.annotate(
                fill(names, LABEL_CHARACTERS) if near_edge else names,
                (x, y),
                fontsize=5.5,
                xytext=(4, -4),
                textcoords="offset points",
                va="top",
                color="#404040",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        axes.set_ylim(min(speeds) / 4, peak * 6)
        axes.set_xlabel("MACs per off-chip byte")
        axes.set_ylabel("MACs/s")
        axes.set_title(title, fontsize="medium")
        roof = f"roof: {bandwidth / GB:g} GB/s, {peak / TERA:.3g} TMAC/s"
        axes.legend(loc="upper left", handletextpad=0.3, title=roof, title_fontsize=6.5, alignment="left")
    return figure


def _labels(points: list[tuple[str, str, float, float]]) -> Iterator[tuple[str, float, float]]:
    """One label for operations that lie close together, at the lowest of them."""
    clusters: list[list[tuple[str, str, float, float]]] = []
    for point in points:
        _, _, x, y = point
        for cluster in clusters:
            _, _, near_x, near_y = cluster[0]
            if abs(log10(x / near_x)) < NEAR_X and abs(log10(y / near_y)) < NEAR_Y:
                cluster.append(point)
                break
        else:
            clusters.append([point])
    for cluster in clusters:
        names = dict.fromkeys(name.removesuffix("_proj") for _, name, _, _ in cluster)
        _, _, x, y = min(cluster, key=lambda member: member[3])
        yield ", ".join(names), x, y
