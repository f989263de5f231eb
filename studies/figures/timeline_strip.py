"""Timeline strip: what every unit does, or waits for, in a window of one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hwsim import StepProfile
    from hwsim.program import Stage

Interval = tuple[int, int]

LANES = {"dram": "memory", "second": "2nd memory", "matrix": "matrix", "sfu": "SFU", "control": "control"}
COLOURS = {
    "linear layers": BLUE,
    "attention": ORANGE,
    "KV append": VERMILION,
    "lm_head": PURPLE,
    "vector functions": GREEN,
    "activations, embedding": SKY,
    "sync": BLACK,
}
STALL = "waits"
REASONS = {"slot": "buffer full", "tile": "load", "input": "input", "product": "product", "mark": "new KV"}
ZOOM = 30  # the second panel shows this part of the first
TEXT_SHARE = 0.055  # least share of the window that a bar with a text in it takes
SOLID_SHARE = 0.8  # least share of such a bar that is not broken by something else


def kind_of(stage: Stage) -> str:
    """Which colour a stage has: what it reads, or else what it computes."""
    work = stage.work
    for kind, size in (
        ("lm_head", work.lm_head_bytes),
        ("KV append", work.kv_append_bytes),
        ("activations, embedding", work.activation_bytes + work.embedding_bytes if stage.opcode in "LD ST" else 0),
        ("linear layers", work.weight_bytes + work.scheduler_bytes),
    ):
        if size:
            return kind
    if stage.opcode == "SYS":
        return "sync"
    return "vector functions" if stage.opcode == "MISC" else "attention"


def block_window(profile: StepProfile, layer: int = 1) -> tuple[int, int]:
    """First and last cycle of memory and matrix unit in one decoder block; the whole step where it has none."""
    inside = [span for span in profile.spans if profile.layers[span.stage] == layer]
    if not inside:
        return (0, profile.cycles) if layer == 0 else block_window(profile, 0)
    return min(span.start for span in inside), max(span.start + span.cycles for span in inside)


def _handover(profile: StepProfile, window: tuple[int, int]) -> int:
    """A cycle worth a closer look: where new keys and values are written, or the middle."""
    low, high = window
    appends = [
        span.start
        for span in profile.spans
        if low <= span.start < high and profile.stages[span.stage].work.kv_append_bytes
    ]
    return appends[0] if appends else (low + high) // 2


def timeline_strip(
    profile: StepProfile,
    clock_hz: float,
    *,
    window_cycles: tuple[int, int] | None = None,
    zoom_cycles: tuple[int, int] | None = None,
    title: str = "",
) -> Figure:
    """Draw units as lanes: work coloured by its kind, waiting hatched, with each unit's busy share on the right.

    Args:
        profile: From :func:`hwsim.profile_step`.
        clock_hz: The NPU's clock.
        window_cycles: First and last cycle of the upper panel; the second decoder block if left out.
        zoom_cycles: The same for the lower panel; if left out, around the write of the new keys and values.
        title: Of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    window = window_cycles or block_window(profile)
    if zoom_cycles is None:
        centre, half = _handover(profile, window), (window[1] - window[0]) // (2 * ZOOM)
        zoom_cycles = max(window[0], centre - half), min(window[1], centre + half)
    with figure_style(column=True):
        figure = Figure(figsize=(TWO_COLUMNS_IN, 3.1), layout="constrained")
        panels = figure.subplots(2, 1)
        kinds: dict[str, None] = {}
        for axes, (low, high) in zip(panels, (window, zoom_cycles), strict=True):
            kinds |= dict.fromkeys(_draw(axes, profile, clock_hz, low, high))
        us = 1e6 / clock_hz
        panels[0].axvspan(zoom_cycles[0] * us, zoom_cycles[1] * us, color=VERMILION, alpha=0.25, linewidth=0, zorder=4)
        panels[0].set_title(title, fontsize="medium")
        panels[1].set_title("the red stretch, enlarged", fontsize="medium")
        panels[1].set_xlabel("time in the step (µs)")
        handles = [Patch(color=COLOURS[kind]) for kind in COLOURS if kind in kinds]
        labels = [kind for kind in COLOURS if kind in kinds]
        handles.append(Patch(facecolor="white", edgecolor=GREY, hatch="//////"))
        figure.legend(handles, [*labels, STALL], loc="outside lower center", ncols=8, columnspacing=1.2)
    return figure


def _draw(axes: Axes, profile: StepProfile, clock_hz: float, low: int, high: int) -> Iterator[str]:
    """Draw one panel; yields the kinds that were drawn."""
    us = 1e6 / clock_hz
    units = [unit for unit in LANES if any(span.unit == unit for span in profile.spans)]
    for row, unit in enumerate(units):
        waits = [s for s in profile.stalls if s.unit == unit and s.start < high and s.start + s.cycles > low]
        for reason in dict.fromkeys(stall.reason for stall in waits):
            mine = [(max(s.start, low), min(s.start + s.cycles, high)) for s in waits if s.reason == reason]
            for first, last, waited in _merge(mine, (high - low) / 400):
                axes.barh(
                    row,
                    (last - first) * us,
                    left=first * us,
                    height=0.66,
                    color="white",
                    edgecolor=GREY,
                    hatch="//////",
                    linewidth=0,
                )
                if last - first > TEXT_SHARE * (high - low) and waited > SOLID_SHARE * (last - first):
                    _write(axes, (first + last) / 2 * us, row, REASONS.get(reason, reason), BLACK)
        busy = 0
        spans = [s for s in profile.spans if s.unit == unit and s.start < high and s.start + s.cycles > low]
        for stage in dict.fromkeys(span.stage for span in spans):
            kind = kind_of(profile.stages[stage])
            if unit == "sfu":
                kind = "vector functions"
            yield kind
            mine = [(max(s.start, low), min(s.start + s.cycles, high)) for s in spans if s.stage == stage]
            busy += sum(last - first for first, last in mine)
            bars = [(first * us, (last - first) * us) for first, last in mine]
            # Unsnapped, so that bars thinner than a dot show as a tint instead of here and there.
            axes.broken_barh(bars, (row - 0.33, 0.66), color=COLOURS[kind], linewidth=0, snap=False)
            first, last, worked = max(_merge(mine, (high - low) / 400), key=lambda run: run[2])
            wide = last - first > TEXT_SHARE * (high - low)
            if unit in {"dram", "second"} and wide and worked > SOLID_SHARE * (last - first):
                _write(axes, (first + last) / 2 * us, row, profile.stages[stage].name, "white")
        axes.text(1.005, row, f"{busy / (high - low):.1%}", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(units)), [LANES[unit] for unit in units])
    axes.set_ylim(len(units) - 0.5, -0.5)
    axes.set_xlim(low * us, high * us)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)


def _write(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6} if colour == BLACK else None
    axes.text(x, y, text, ha="center", va="center", fontsize=5.5, color=colour, bbox=box, zorder=5)


def _merge(intervals: Iterable[Interval], close: float) -> Iterator[tuple[int, int, int]]:
    """Join intervals less than ``close`` apart; yields start, end and the cycles covered."""
    start, end, covered = 0, 0, 0
    for first, last in intervals:
        if covered and first - end < close:
            end, covered = last, covered + last - first
            continue
        if covered:
            yield start, end, covered
        start, end, covered = first, last, last - first
    if covered:
        yield start, end, covered
