"""Latency over the step index of one response, with the switches of precision marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studies.common.style import BLUE, COLUMN_IN, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hwsim import SimulationResult

COLOURS = {2: BLUE, 3: ORANGE, 4: GREEN, 5: PURPLE, 6: SKY, 7: GREY, 8: VERMILION, 16: "#000000"}
MS_PER_S = 1e3
MOST_LABELS = 4


def step_latency(result: SimulationResult, clock_hz: float, *, sequence: int = 0, title: str = "") -> Figure:
    """Draw milliseconds per decode step, a colour per width, a dashed line per switch.

    Args:
        result: With at least one decode step.
        clock_hz: The NPU's clock.
        sequence: Which sequence of the trace; for a batch, its first one.
        title: Of the figure.

    Raises:
        ValueError: If the sequence has no decode step.
    """
    from matplotlib.figure import Figure

    steps = result.steps
    steps = steps[(steps["sequence"] == sequence) & (steps["step"] >= 0)]
    if steps.empty:
        raise ValueError(f"sequence {sequence} has no decode step to draw")
    milliseconds = steps["cycles"] / clock_hz * MS_PER_S
    switches = result.switches
    switches = switches[(switches["sequence"] == sequence) & (switches["step"] > 0)]
    with figure_style(column=True):
        figure = Figure(figsize=(COLUMN_IN, 2.2), layout="constrained")
        axes = figure.subplots()
        for bits in sorted(set(steps["weight_bits"]), reverse=True):
            shown = milliseconds.where(steps["weight_bits"] == bits)
            colour = COLOURS.get(int(bits), GREY)
            axes.plot(steps["step"], shown, ".", markersize=2.5, color=colour, label=f"{bits} bit")
        for switch in switches.to_dict("records"):
            axes.axvline(switch["step"] - 0.5, color=GREY, linestyle="--", linewidth=0.8)
            if len(switches) <= MOST_LABELS:
                axes.annotate(
                    f"{switch['from_bits']} → {switch['to_bits']} bit, step {switch['step']}",
                    (switch["step"], 0.04),
                    xycoords=("data", "axes fraction"),
                    xytext=(2, 0),
                    textcoords="offset points",
                    fontsize=6.5,
                )
        axes.set_ylim(0, 1.12 * milliseconds.max())
        axes.set_xlabel("decode step")
        axes.set_ylabel("ms per step")
        axes.set_title(title, fontsize="medium")
        axes.legend(ncols=4, loc="upper right", handletextpad=0.2, markerscale=3)
    return figure
