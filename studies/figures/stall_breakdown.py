"""Stall breakdown: how each unit spends the cycles of each phase and width, by reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from hwsim.trace import InputError
from studies.common.style import (
    BLUE,
    COLUMN_IN,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS_IN,
    VERMILION,
    figure_style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hwsim import SimulationResult

UNITS = {"dram": "memory", "second": "2nd memory", "matrix": "matrix", "sfu": "SFU"}
PARTS = {
    "busy": ("busy", BLUE),
    "tile": ("waits for a load", ORANGE),
    "slot": ("buffer full", VERMILION),
    "product": ("waits for a product", SKY),
    "input": ("waits for earlier results", GREEN),
    "mark": ("waits for new keys and values", PURPLE),
    "drained": ("nothing left in the step", "#d8d8d8"),
}
COLUMNS = 3


def stall_shares(result: SimulationResult) -> pd.DataFrame:
    """Share of the cycles of each phase and width by unit: ``busy``, each reason, and ``drained``; rows sum to 1.

    Raises:
        InputError: If the result's engine knows no reasons.
    """
    import pandas as pd

    from hwsim import stall_table
    from hwsim.plan import DECODE, PHASES

    if result.stall_cycles is None:
        raise InputError(f"engine = '{result.engine}': knows no reasons for stalls; simulate with 'events'")
    columns = result.columns
    total: Counter[tuple[str, int]] = Counter()
    for step, bits, cycles in zip(columns.step.tolist(), columns.weight_bits.tolist(), columns.cycles, strict=True):
        total[PHASES[min(step, DECODE)], bits] += int(cycles)
    spent: defaultdict[tuple[str, int, str], Counter[str]] = defaultdict(Counter)
    for row in result.operations.to_dict("records"):
        for unit in result.stall_cycles:
            spent[row["phase"], row["weight_bits"], unit]["busy"] += row[f"{unit}_busy_cycles"]
    for row in stall_table(result).to_dict("records"):
        spent[row["phase"], row["weight_bits"], row["unit"]][row["reason"]] += row["cycles"]
    rows = []
    for (phase, bits), cycles in total.items():
        for unit in result.stall_cycles:
            mine = spent[phase, bits, unit]
            mine["drained"] = cycles - mine.total()
            shares = {part: mine[part] / cycles if cycles else 0.0 for part in PARTS}
            rows.append({"phase": phase, "weight_bits": bits, "unit": unit, **shares})
    return pd.DataFrame(rows)


def stall_breakdown(result: SimulationResult, *, title: str = "") -> Figure:
    """Draw stacked bars, one a unit, a panel per phase and width.

    Raises:
        InputError: If the result's engine knows no reasons.
    """
    from matplotlib.figure import Figure

    shares = stall_shares(result)
    groups = [group for _, group in shares.groupby(["phase", "weight_bits"], sort=False)]
    columns = min(COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    width = COLUMN_IN if columns == 1 else TWO_COLUMNS_IN
    with figure_style(column=True):
        figure = Figure(figsize=(width, 0.7 + 1.05 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, group in zip(panels.flat, groups, strict=False):
            _draw(axes, group)
        for axes in list(panels.flat)[len(groups) :]:
            axes.set_axis_off()
        for axes in panels[-1]:
            axes.set_xlabel("share of cycles")
        used = [name for name in PARTS if (shares[name] > 0).any()]
        handles, labels = panels[0, 0].get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        wanted = [PARTS[name][0] for name in used]
        figure.legend([shown[label] for label in wanted], wanted, loc="outside lower center", ncols=4)
        figure.suptitle(title, fontsize="medium")
    return figure


def _draw(axes: Axes, group: pd.DataFrame) -> None:
    names = [UNITS[unit] for unit in group["unit"]]
    left = 0 * group["busy"]
    for part, (label, colour) in PARTS.items():
        axes.barh(names, group[part], left=left, color=colour, height=0.68, label=label, linewidth=0)
        left = left + group[part]
    for row, busy in enumerate(group["busy"]):
        inside = busy > 0.15
        axes.text(
            busy - 0.015 if inside else busy + 0.015,
            row,
            f"{busy:.1%}",
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else "black",
            fontsize=6.5,
        )
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{group['phase'].iloc[0]}, {group['weight_bits'].iloc[0]} bit", fontsize="medium")
