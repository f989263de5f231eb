"""Runs the parts of the benchmark and keeps what each found; ``plot.py`` draws what they wrote."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from hwsim.trace import collect_provenance, read_json, write_json
from studies.common.machine import cpu_model, usable_cores

PARTS = {
    "efficiency": "share of the exhaustive hypervolume against full simulations",
    "exact-speed": "the exact search against brute force",
    "overhead": "what a trial costs besides its simulation",
    "kills": "what is lost when processes are killed",
    "sensitivity": "points that Sobol's indices need",
}
"""Parts by name; ``exact-speed`` is the module ``exact_speed``, and so on."""

NUMBERS_FILE, MANIFEST_FILE = "exploration_benchmark.json", "manifest.json"


class Part(Protocol):
    """What a part's module offers."""

    def run(self, folder: Path, *, progress: bool) -> dict[str, Any]:
        """Write the part's CSV files into ``folder``; returns its summary."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        parts: Names out of :data:`PARTS`; all where there are none.
        progress: Show progress bars.
    """

    out: Path
    parts: tuple[str, ...] = ()
    progress: bool = True


def _load(name: str) -> Part:
    return cast("Part", importlib.import_module(f"studies.exploration_benchmark.{name.replace('-', '_')}"))


def _kept(path: Path) -> dict[str, Any]:
    """What earlier runs left of the parts that are not run now."""
    found: dict[str, Any] = read_json(path)["parts"] if path.is_file() else {}
    return found


def run_exploration_benchmark(settings: Settings) -> list[Path]:
    """Run the parts one after another; each one's numbers and provenance replace those of its earlier run.

    Returns:
        The figures, drawn from everything the folder holds.
    """
    from studies.exploration_benchmark.plot import write_figures

    settings.out.mkdir(parents=True, exist_ok=True)
    for name in settings.parts or PARTS:
        if settings.progress:
            print(f"{name}: {PARTS[name]}", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        summary = _load(name).run(settings.out, progress=settings.progress)
        seconds = round(time.perf_counter() - begin, 1)
        provenance = collect_provenance(settings.out, cpu=cpu_model(), cores=usable_cores())
        for file, value in ((NUMBERS_FILE, summary), (MANIFEST_FILE, {"provenance": provenance, "seconds": seconds})):
            parts = {**_kept(settings.out / file), name: value}
            ordered = {key: parts[key] for key in PARTS if key in parts}
            write_json(settings.out / file, {"schema_version": "1.0", "parts": ordered})
    return write_figures(settings.out)
