"""The figures beside the page: both responses over time on the NPU, and the inside of one decode step."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from studies.common.style import GREY, figure_style
from studies.figures.step_latency import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from studies.demo.npu import Replays

WIDTH_IN = 4.8
SHARE_WITH_TEXT = 0.08  # least share of the time axis that a stretch with its bits written in it takes


def response_timeline(replays: Replays) -> Figure:
    """Draw each response as a bar over time: the prefill hatched, decode steps in the colour of their width."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    lanes = [one.result for one in replays.replays]
    longest = max(result.cycles for result in lanes)
    milliseconds = longest / replays.npu.clock_hz * 1e3
    unit, per_cycle = ("s", 1) if milliseconds > 5e3 else ("ms", 1e3) if milliseconds > 5 else ("µs", 1e6)
    per_cycle /= replays.npu.clock_hz
    widths: set[int] = set()
    with figure_style(column=True):
        figure = Figure(figsize=(WIDTH_IN, 0.75 + 0.36 * len(lanes)), layout="constrained")
        axes = figure.subplots()
        for row, result in enumerate(lanes):
            columns = result.columns
            starts = np.concatenate([[0], np.cumsum(columns.cycles)])
            kinds = [(bool(step < 0), int(bits)) for step, bits in zip(columns.step, columns.weight_bits, strict=True)]
            cuts = [0, *(at for at in range(1, len(kinds)) if kinds[at] != kinds[at - 1]), len(kinds)]
            for first, last in pairwise(cuts):
                (prefill, bits), begin, end = kinds[first], int(starts[first]), int(starts[last])
                widths.add(bits)
                axes.barh(
                    row,
                    (end - begin) * per_cycle,
                    left=begin * per_cycle,
                    height=0.62,
                    color=COLOURS.get(bits, GREY),
                    alpha=0.85,
                    hatch="/////" if prefill else None,
                    edgecolor="white",
                    linewidth=0.6,
                )
                if end - begin > SHARE_WITH_TEXT * longest and not prefill:
                    middle = (begin + end) / 2 * per_cycle
                    axes.text(middle, row, f"{bits} bit", ha="center", va="center", color="white", fontweight="bold")
        axes.set_yticks(range(len(lanes)), [one.reply.title for one in replays.replays])
        axes.set_ylim(len(lanes) - 0.5, -0.5)
        axes.set_xlim(0, longest * per_cycle * 1.01)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"time on the simulated NPU ({unit})")
        handles = [Patch(color=COLOURS.get(bits, GREY), alpha=0.85) for bits in sorted(widths)]
        labels = [f"{bits} bit" for bits in sorted(widths)]
        handles.append(Patch(facecolor=GREY, edgecolor="white", hatch="/////"))
        figure.legend(handles, [*labels, "prefill"], loc="outside upper right", ncols=8)
    return figure


def step_timeline(replays: Replays) -> Figure | None:
    """Draw what every unit does in the middle decode step of the first response; None where it has no decode step."""
    from hwsim import profile_row
    from studies.figures.timeline_strip import timeline_strip

    result = replays.replays[0].result
    rows = np.flatnonzero(result.columns.step >= 0)
    if not len(rows):
        return None
    row = int(rows[len(rows) // 2])
    step, bits = int(result.columns.step[row]), int(result.columns.weight_bits[row])
    title = f"decode step {step} at {bits} bits: the second decoder block on {replays.npu.name}"
    return timeline_strip(profile_row(result, row), replays.npu.clock_hz, title=title)


def png(figure: Figure) -> bytes:
    """A figure as PNG, for a page."""
    file = BytesIO()
    with figure_style(column=True):
        figure.savefig(file, format="png", dpi=200)
    return file.getvalue()
