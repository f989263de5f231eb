"""The benchmark's CSV files: one row a figure, written at once, and taken up again after a kill.

A row holds everything needed to read it alone: the device, its driver, versions, date and commit, what was timed and
how. Times of a stand-in clock are refused, so that nothing measured on a CPU can stand in a GPU's table.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from kernels.bench.timing import GraphTimer
from kernels.errors import KernelError

Row = dict[str, object]

PROVENANCE = (
    "device",
    "capability",
    "driver",
    "multiprocessors",
    "memory_bytes",
    "l2_bytes",
    "sm_clock_mhz",
    "max_sm_clock_mhz",
    "memory_clock_mhz",
    "power_limit_w",
    "temperature_c",
    "torch",
    "cuda",
    "triton",
    "commit",
    "date_utc",
    "timer",
    "copy_gb_per_s",
    "read_gb_per_s",
)
_TIMES = ("p20_us", "p50_us", "p80_us", "n")
_ROTATION = ("l2_state", "rotation_bytes", "copies", "bytes_per_call", "gb_per_s")
# Column "status" is ok, or says what is wrong; a row that is not ok has no times.
TABLES: dict[str, tuple[str, ...]] = {
    "linears": (
        "item",
        "operation",
        "N",
        "K",
        "M",
        "weight_bits",
        "decoder",
        "config",
        *_TIMES,
        *_ROTATION,
        "share_of_copy",
        "times_fp16",
        "error",
        "tolerance",
        "status",
        "used_by",
        *PROVENANCE,
    ),
    "prefill": (
        "item",
        "N",
        "K",
        "M",
        "weight_bits",
        "method",
        *_TIMES,
        *_ROTATION,
        "tflop_per_s",
        "times_fp16",
        "error",
        "tolerance",
        "status",
        *PROVENANCE,
    ),
    "decode": (
        "item",
        "model",
        "run",
        "prompt_tokens",
        "decode_steps",
        "mean_decode_bits",
        "prefill_weight_bits",
        "prefill_ms",
        "decode_tokens_per_s",
        *_TIMES,
        "times_fp16",
        "weight_bytes_per_step",
        "gb_per_s",
        "share_of_copy",
        "switch_us",
        "status",
        *PROVENANCE,
    ),
}


class Table:
    """One CSV file that is always complete up to its last row."""

    def __init__(self, path: Path, columns: tuple[str, ...], keep_items: Iterable[str] = ()) -> None:
        """Open the file anew, or with those rows of an earlier run whose ``item`` was finished.

        Args:
            path: The file; its folder is created.
            columns: Its columns; rows must have no others.
            keep_items: Finished items of an earlier run.

        Raises:
            KernelError: If rows are to be kept of a file with other columns.
        """
        self._path, self._columns = path, columns
        finished = frozenset(keep_items)
        self.rows: list[Row] = [row for row in self._stored() if row["item"] in finished] if finished else []
        path.parent.mkdir(parents=True, exist_ok=True)
        header: Row = dict(zip(columns, columns, strict=True))
        text = "".join(self._line(row) for row in (header, *self.rows))
        # The old rows stay until the new file is whole.
        partial = path.with_suffix(".csv.part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    def add(self, row: Row) -> None:
        """Append one row and put it on the disk.

        Raises:
            KernelError: If it was timed by anything but a CUDA graph's events.
        """
        if row["timer"] != GraphTimer.name:
            raise KernelError(f"timer = {row['timer']}: {self._path.name} takes only figures of '{GraphTimer.name}'")
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._line(row))
            file.flush()
            os.fsync(file.fileno())

    def _stored(self) -> list[Row]:
        if not self._path.is_file():
            return []
        with self._path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != self._columns:
                raise KernelError(f"{self._path}: has other columns than this version writes; choose another --out")
            return [dict(row) for row in reader]

    def _line(self, row: Row) -> str:
        line = io.StringIO()
        writer = csv.DictWriter(line, self._columns, restval="", lineterminator="\n")
        writer.writerow({name: _cell(value) for name, value in row.items()})
        return line.getvalue()


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a written table, as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _cell(value: object) -> object:
    """Six digits are more than any clock here gives; None is an empty cell."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
