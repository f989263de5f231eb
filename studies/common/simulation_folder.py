"""What ``bittaper simulate --out`` leaves, and how ``bittaper compare`` reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError, ModelShape, Trace, collect_provenance, file_sha256, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from hwsim import NpuConfig, RooflinePosition, SimulationOptions, SimulationResult

MANIFEST_FILE = "manifest.json"
TIMELINE_FILE = "timeline.json"
NEEDED = {"mode", "engine", "cycles"}


@dataclass(frozen=True)
class Simulation:
    """One simulation with everything that went into it."""

    npu: NpuConfig
    shape: ModelShape
    trace: Trace
    options: SimulationOptions
    result: SimulationResult
    position: RooflinePosition

    def numbers(self) -> dict[str, Any]:
        """What ``--json`` prints: totals, place under the roofline, and one record per operation."""
        operations = json.loads(self.result.operations.to_json(orient="records"))
        return {
            **self.result.to_json_dict(),
            "roofline": self.position.to_json_dict(),
            "operations": operations,
        }


def figures_of(simulation: Simulation) -> dict[str, Figure]:
    """Every figure that the result has numbers for, by file name.

    Left out: in ``pmpd-analytic``, all but the latency; without the event engine, the stall breakdown; without a decode
    step of the first sequence, latency and timeline strip.
    """
    from hwsim import profile_row
    from studies.figures.roofline import roofline
    from studies.figures.stall_breakdown import stall_breakdown
    from studies.figures.step_latency import step_latency
    from studies.figures.timeline_strip import timeline_strip

    npu, result, columns = simulation.npu, simulation.result, simulation.result.columns
    title = f"{result.model} on {result.npu}"
    figures: dict[str, Figure] = {}
    decode = (columns.step >= 0) & (columns.sequence == 0)
    if decode.any():
        figures["step_latency"] = step_latency(result, npu.clock_hz, title=title)
    if result.mode != "realistic":
        return figures
    figures["roofline"] = roofline(result, simulation.position, title=title)
    if result.stall_cycles is not None:
        figures["stall_breakdown"] = stall_breakdown(result, title=title)
    if decode.any():
        row = int(decode.argmax())
        step, bits, context = columns.step[row], columns.weight_bits[row], columns.context[row]
        strip_title = f"{title}: a block of decode step {step}, {bits} bit, {context} cached tokens"
        figures["timeline_strip"] = timeline_strip(profile_row(result, row), npu.clock_hz, title=strip_title)
    return figures


def write_figures(simulation: Simulation, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write :func:`figures_of` into ``folder``."""
    from studies.common.style import save_figure

    paths: list[Path] = []
    for name, figure in figures_of(simulation).items():
        paths += save_figure(figure, folder / name, formats, column=True)
    return paths


def write_manifest(simulation: Simulation, folder: Path, files: Sequence[Path]) -> Path:
    """Write what the numbers came from, and the hashes of ``files``."""
    path = folder / MANIFEST_FILE
    write_json(
        path,
        {
            "schema_version": "1.0",
            "provenance": collect_provenance(folder),
            "options": asdict(simulation.options),
            "npu": simulation.npu.model_dump(mode="json"),
            "model": simulation.shape.model_dump(mode="json"),
            "trace": simulation.trace.header.model_dump(mode="json"),
            "files_sha256": {file.name: file_sha256(file) for file in files},
        },
    )
    return path


@dataclass(frozen=True)
class Saved:
    """A simulation read back.

    Attributes:
        source: Where from.
        numbers: The totals.
        operations: One row per phase, width and operation; None where an older result has none.
    """

    source: str
    numbers: dict[str, Any]
    operations: pd.DataFrame | None


def read_simulation(path: str) -> Saved:
    """Read a folder of ``bittaper simulate --out`` or a file of ``--json``.

    Raises:
        InputError: If it is neither.
    """
    from hwsim import read_table

    folder = Path(path).is_dir()
    numbers = read_json(Path(path) / "result.json" if folder else path)
    if not isinstance(numbers, dict) or not numbers.keys() >= NEEDED:
        raise InputError(
            f"{path}: mode, engine or cycles is missing; give what bittaper simulate --out wrote, or --json printed"
        )
    if folder:
        return Saved(path, numbers, read_table(path, "operations"))
    import pandas as pd

    operations = numbers.pop("operations", None)
    return Saved(path, numbers, None if operations is None else pd.DataFrame(operations))
