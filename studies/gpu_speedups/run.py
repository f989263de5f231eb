"""Derive and predict, and write tables, provenance and figure; ``plot.py`` draws what this writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from hwsim.trace import atomic_writer, collect_provenance, write_json
from studies.gpu_speedups.derive import derive_layers, predict_end_to_end
from studies.gpu_speedups.paper import latencies_us, mixtures, published

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        measured: Folders of ``bittaper kernels bench``, one a device; none shows the paper alone.
    """

    out: Path
    measured: tuple[Path, ...] = ()


def run_gpu_speedups(settings: Settings) -> Tables:
    """Write and return the tables: ``mixtures``, ``table3``, ``table6``, and per device ``device``.

    Raises:
        InputError: If a folder holds no results of ``bittaper kernels bench``.
    """
    from studies.gpu_speedups.plot import write_figure

    entries, latencies, mixed = published(), latencies_us(), mixtures()
    tables = {
        "mixtures": pd.DataFrame(asdict(one) | {"high_share": one.high_share} for one in mixed.values()),
        "table3": pd.DataFrame(asdict(one) for one in derive_layers(entries, latencies, mixed)),
        "table6": pd.DataFrame(asdict(one) for one in predict_end_to_end(entries, latencies, mixed)),
    }
    if settings.measured:
        from studies.gpu_speedups.device import device_tables

        tables |= device_tables(settings.measured, mixed)
    for name, table in tables.items():
        with atomic_writer(settings.out / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.6g")
    measured = [str(folder.name) for folder in settings.measured]
    manifest = {"schema_version": "1.0", "provenance": collect_provenance(settings.out), "measured": measured}
    write_json(settings.out / "manifest.json", manifest)
    write_figure(settings.out)
    return tables
