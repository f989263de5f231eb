"""Repeat every measurement in fresh processes; ``plot.py`` draws what this writes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from hwsim.trace import collect_provenance, write_json
from studies.common.machine import cpu_model
from studies.common.output import write_rows
from studies.common.timing import measured_apart, spread
from studies.simulator_speed.measure import MEASUREMENTS


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of a number: at most or at least ``bound``."""

    measurement: str
    number: str
    unit: str
    relation: str
    bound: float
    what: str

    def met(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return value <= self.bound if self.relation == "<=" else value >= self.bound


# The bounds of the first goal: 5 s must be met, 1 s is aimed at.
GOALS = (
    Goal("events", "cpu_s", "CPU s", "<=", 5, "Vicuna-7B, 512 + 256 tokens, by events"),
    Goal("events", "cpu_s", "CPU s", "<=", 1, "the same, what is aimed at"),
    Goal("events", "peak_rss_bytes", "bytes", "<=", 400e6, "peak resident memory of that process"),
    Goal("points", "points_per_s", "1/s", ">=", 1_000, "designs a second on that trace, step by step"),
    Goal("grid", "pairs_per_s", "1/s", ">=", 50_000, "pairs of design and schedule a second"),
)
# For scale; none of them were run here.
QUOTED = {
    "LLM-Viewer": "20-60 ms a design point",
    "FlightLLM's event loop": "about 1 CPU-second a token",
}


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do."""

    out: Path
    repeats: int = 7
    progress: bool = True


def summarise(rows: list[dict[str, str | float]]) -> list[dict[str, str | float]]:
    """Median and 20/80 percentiles of every number of every measurement."""
    summary: list[dict[str, str | float]] = []
    for measurement, number in dict.fromkeys((str(row["measurement"]), str(row["number"])) for row in rows):
        values = [float(row["value"]) for row in rows if (row["measurement"], row["number"]) == (measurement, number)]
        p20, median, p80 = spread(values)
        summary.append(
            {
                "measurement": measurement,
                "number": number,
                "n": len(values),
                "median": median,
                "p20": p20,
                "p80": p80,
            }
        )
    return summary


def judge(summary: list[dict[str, str | float]]) -> list[dict[str, str | float | bool]]:
    """Every goal with its median and whether it is met."""
    medians = {(row["measurement"], row["number"]): float(row["median"]) for row in summary}
    return [
        {
            "what": goal.what,
            "unit": goal.unit,
            "relation": goal.relation,
            "bound": goal.bound,
            "median": medians[goal.measurement, goal.number],
            "met": goal.met(medians[goal.measurement, goal.number]),
        }
        for goal in GOALS
    ]


def run_simulator_speed(settings: Settings) -> list[dict[str, str | float | bool]]:
    """Measure, and write tables, provenance and figure; returns the goals."""
    from studies.simulator_speed.plot import write_figure

    rows: list[dict[str, str | float]] = []
    for repeat in range(settings.repeats):
        for name in MEASUREMENTS:
            if settings.progress:
                print(f"[{repeat + 1}/{settings.repeats}] {name}", file=sys.stderr, flush=True)
            found = measured_apart("studies.simulator_speed.measure", name)
            rows += [
                {"measurement": name, "repeat": repeat, "number": number, "value": value}
                for number, value in found.items()
            ]
    summary = summarise(rows)
    goals = judge(summary)
    write_rows(settings.out / "repeats.csv", rows)
    write_rows(settings.out / "summary.csv", summary)
    write_json(settings.out / "simulator_speed.json", {"schema_version": "1.0", "goals": goals, "quoted": QUOTED})
    provenance = collect_provenance(
        settings.out, cpu=cpu_model(), threads=1, repeats=settings.repeats, clock="CPU seconds"
    )
    write_json(settings.out / "manifest.json", {"schema_version": "1.0", "provenance": provenance})
    write_figure(settings.out)
    return goals
