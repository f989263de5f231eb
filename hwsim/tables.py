"""Results as files: one JSON for the totals and one table each for steps, operations, switches and stalls."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.intensity import RooflinePosition
from hwsim.metrics import SimulationResult
from hwsim.plan import PHASES
from hwsim.trace import InputError, atomic_writer, unknown_name, write_json

if TYPE_CHECKING:
    import pandas as pd

TABLE_FORMATS = ("csv", "parquet")
TABLES = ("steps", "operations", "switches", "stalls")
RESULT_FILE = "result.json"


def stall_table(result: SimulationResult) -> pd.DataFrame:
    """One row per phase, weight bits, operation, unit and reason: cycles the unit waited.

    Empty where the engine knows no reasons. Reasons are those of :class:`hwsim.events.Stall`; a unit's busy cycles,
    its stalls and the cycles in which it had nothing left to do fill the run.
    """
    import pandas as pd  # noqa: PLC0415 - heavy, and most callers want the totals only

    names = ["phase", "weight_bits", "operation", "unit", "reason", "cycles"]
    rows = [
        (PHASES[part.kind.phase], part.kind.weight_bits, *key, cycles)
        for part in result.parts
        for key, cycles in (part.stalls or {}).items()
        if cycles
    ]
    table = pd.DataFrame(rows, columns=names)
    return table.groupby(names[:-1], sort=False, as_index=False).sum() if rows else table


def check_destination(folder: Path | str, table_format: str) -> None:
    """Refuse what :func:`write_tables` could not write, before anything long runs.

    Raises:
        InputError: If ``folder`` is a file or would lie in one, the format is unknown, or Parquet is asked for without
            pyarrow.
    """
    there = next((path for path in (Path(folder), *Path(folder).parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(f"{there}: is a file; name a folder for the result")
    if table_format not in TABLE_FORMATS:
        raise unknown_name("table format", table_format, TABLE_FORMATS)
    if table_format == "parquet" and find_spec("pyarrow") is None:
        raise InputError(
            "table format 'parquet' needs the package 'pyarrow', which comes with pip install 'bittaper[accuracy]'; "
            "install it, or take 'csv'"
        )


def write_table(table: pd.DataFrame, folder: Path | str, name: str, table_format: str = "csv") -> Path:
    """Write one table atomically as ``folder/name.csv`` or ``.parquet``."""
    path = Path(folder) / f"{name}.{table_format}"
    if table_format == "parquet":
        with atomic_writer(path, "wb") as file:
            table.to_parquet(file, engine="pyarrow", index=False)
    else:
        with atomic_writer(path) as file:
            table.to_csv(file, index=False)
    return path


def read_table(folder: Path | str, name: str) -> pd.DataFrame | None:
    """Read a table that :func:`write_tables` wrote; None if it is not there."""
    import pandas as pd  # noqa: PLC0415

    for table_format in TABLE_FORMATS:
        path = Path(folder) / f"{name}.{table_format}"
        if path.is_file():
            check_destination(folder, table_format)
            return pd.read_csv(path) if table_format == "csv" else pd.read_parquet(path, engine="pyarrow")
    return None


def write_tables(
    result: SimulationResult,
    folder: Path | str,
    *,
    table_format: str = "csv",
    roofline: RooflinePosition | None = None,
) -> list[Path]:
    """Write a result into ``folder``: ``result.json``, and steps, operations, switches and stalls as tables.

    Stalls are left out where the engine knows no reasons. Tables of an earlier result are replaced or removed.

    Args:
        result: From :func:`hwsim.simulate`.
        folder: Made if need be.
        table_format: ``csv``, or ``parquet``, which needs pyarrow.
        roofline: From :func:`hwsim.roofline_position`; goes into ``result.json``.

    Raises:
        InputError: If the folder is a file, or the format cannot be written.
    """
    check_destination(folder, table_format)
    tables = {"steps": result.steps, "operations": result.operations, "switches": result.switches}
    if result.stall_cycles is not None:
        tables["stalls"] = stall_table(result)
    for name in TABLES:
        for suffix in TABLE_FORMATS:
            if name not in tables or suffix != table_format:
                (Path(folder) / f"{name}.{suffix}").unlink(missing_ok=True)
    numbers = result.to_json_dict()
    if roofline is not None:
        numbers["roofline"] = roofline.to_json_dict()
    write_json(Path(folder) / RESULT_FILE, numbers)
    written = [write_table(table, folder, name, table_format) for name, table in tables.items()]
    return [Path(folder) / RESULT_FILE, *written]
