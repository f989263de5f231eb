"""Repeat every measurement in fresh processes; ``plot.py`` draws what this writes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from hwsim.trace import atomic_writer, collect_provenance, write_json
from studies.common.machine import cpu_model
from studies.simulator_speed.measure import MEASUREMENTS, Numbers

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


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


def measure_once(name: str) -> Numbers:
    """Run one measurement in a fresh process on one thread."""
    done = subprocess.run(
        [sys.executable, "-m", "studies.simulator_speed.measure", name],
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=True,
    )
    found: Numbers = json.loads(done.stdout)
    return found


def summarise(rows: list[dict[str, str | float]]) -> list[dict[str, str | float]]:
    """Median and 20/80 percentiles of every number of every measurement."""
    summary: list[dict[str, str | float]] = []
    for measurement, number in dict.fromkeys((str(row["measurement"]), str(row["number"])) for row in rows):
        values = [float(row["value"]) for row in rows if (row["measurement"], row["number"]) == (measurement, number)]
        fifths = quantiles(values, n=5, method="inclusive") if len(values) > 1 else values * 4
        summary.append(
            {
                "measurement": measurement,
                "number": number,
                "n": len(values),
                "median": median(values),
                "p20": fifths[0],
                "p80": fifths[3],
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


def _write_csv(path: Path, rows: list[dict[str, str | float]]) -> None:
    with atomic_writer(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def run_simulator_speed(settings: Settings) -> list[dict[str, str | float | bool]]:
    """Measure, and write tables, provenance and figure; returns the goals."""
    from studies.simulator_speed.plot import write_figure

    rows: list[dict[str, str | float]] = []
    for repeat in range(settings.repeats):
        for name in MEASUREMENTS:
            if settings.progress:
                print(f"[{repeat + 1}/{settings.repeats}] {name}", file=sys.stderr, flush=True)
            found = measure_once(name)
            rows += [
                {"measurement": name, "repeat": repeat, "number": number, "value": value}
                for number, value in found.items()
            ]
    summary = summarise(rows)
    goals = judge(summary)
    _write_csv(settings.out / "repeats.csv", rows)
    _write_csv(settings.out / "summary.csv", summary)
    write_json(settings.out / "simulator_speed.json", {"schema_version": "1.0", "goals": goals, "quoted": QUOTED})
    provenance = collect_provenance(
        settings.out, cpu=cpu_model(), threads=1, repeats=settings.repeats, clock="CPU seconds"
    )
    write_json(settings.out / "manifest.json", {"schema_version": "1.0", "provenance": provenance})
    write_figure(settings.out)
    return goals
