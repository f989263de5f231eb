"""Tables of what was measured to be fastest on a device, and the choice made from them.

A table is one JSON file per device name, written by ``python -m kernels tune``; its format is described in
``kernels/tuning/README.md``. :func:`choose` looks, in this order, at the table given to :func:`use_table`, the one
that the environment variable ``BITTAPER_TUNING`` names, and the packaged one of the device. Without any, or where the
table holds nothing near, it falls back to :data:`FUSED_MAX_M` and each kernel's own heuristic. Files are read once for
each device; ``use_table(None)`` looks again.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kernels.config import GEMV_MAX_M, GemmConfig, GemvConfig
from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
ENVIRONMENT_VARIABLE = "BITTAPER_TUNING"
PACKAGED = Path(__file__).parent / "tuning"
OPERATIONS = ("linear", "swiglu")
DECODERS = ("permute", "grid", "lookup")
# By the name of a path, the configuration its kernel takes; cuBLAS chooses its own.
CONFIGS: dict[str, type[GemvConfig] | type[GemmConfig] | None] = {
    "gemv": GemvConfig,
    "gemm": GemmConfig,
    "dequantize": None,
}
# A shape at most this many doublings away, in N and K together, stands for another.
MAX_DOUBLINGS = 1.0
# Assumed until a device is tuned: up to how many vectors the weight is decoded on the way instead of being dequantised
# for cuBLAS. A thousand 4-bit weights take 0.5 kB to read, but 4.5 kB to dequantise and use (0.5 read, 2 written, 2
# read again): 0.17 and 1.5 ns at 3 TB/s. Fused, each tile of up to 32 vectors decodes every weight, in 5 instructions
# (counted in the loop compiled for sm_90), and multiplies it 32 times: 0.17 and 0.13 ns on an H100 (30e12 instructions
# a second; half of its 990e12 operations). Two tiles double both and still lead; with more the lead shrinks, and 64
# stays on the safe side of where it may vanish.
FUSED_MAX_M = 64

Config = GemvConfig | GemmConfig


@dataclass(frozen=True)
class Choice:
    """How to compute one product.

    Attributes:
        path: ``gemv``, ``gemm`` or ``dequantize`` (and cuBLAS).
        config: Of the path's kernel; None for its own heuristic.
    """

    path: str
    config: Config | None = None


@dataclass(frozen=True)
class Entry:
    """The fastest way measured for one product.

    Attributes:
        operation: ``linear`` or ``swiglu``.
        N: Rows of the weight; gate and up together for ``swiglu``.
        K: Columns of the weight.
        weight_bits: Bit-planes read.
        decoder: How the kernels decode the weight: ``permute``, ``grid`` or ``lookup``.
        M: Activation vectors.
        path: What was fastest.
        config: Its configuration; None for ``dequantize``.
        p50_us: Its median time in microseconds, cold L2.
        failed: Candidates that could not be timed, each with the reason.
    """

    operation: str
    N: int
    K: int
    weight_bits: int
    decoder: str
    M: int
    path: str
    config: Config | None
    p50_us: float
    failed: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int, int, int, str, int]:
        """What was measured."""
        return self.operation, self.N, self.K, self.weight_bits, self.decoder, self.M


@dataclass(frozen=True)
class TuningTable:
    """What was measured on one device.

    Attributes:
        device: Its name, as ``torch.cuda.get_device_name`` gives it.
        compute_capability: Such as ``9.0``.
        driver: Version of the driver.
        torch: Version of torch.
        triton: Version of triton.
        date: Day of the measurement, ISO 8601.
        entries: One per product.
    """

    device: str
    compute_capability: str
    driver: str
    torch: str
    triton: str
    date: str
    entries: tuple[Entry, ...] = ()

    def nearest(self, operation: str, N: int, K: int, weight_bits: int, decoder: str, M: int) -> Entry | None:
        """The entry that stands for a product.

        Of the shapes measured for the operation, width and decoder the nearest counts: the fewest doublings of N and K
        together, at most one in all, the smaller shape among equals. Of its entries, that of the fewest vectors that
        are at least M, on the same side of the GEMV's limit. None where there is no such entry.
        """
        shapes: dict[tuple[int, int], list[Entry]] = defaultdict(list)
        for entry in self.entries:
            if (entry.operation, entry.weight_bits, entry.decoder) == (operation, weight_bits, decoder):
                shapes[entry.N, entry.K].append(entry)
        near = [(abs(math.log2(n / N)) + abs(math.log2(k / K)), n, k) for n, k in shapes]
        if not near or min(near)[0] > MAX_DOUBLINGS:
            return None
        _, *shape = min(near)
        enough = (entry for entry in shapes[shape[0], shape[1]] if entry.M >= M)
        same_side = (entry for entry in enough if (entry.M <= GEMV_MAX_M) == (M <= GEMV_MAX_M))
        return min(same_side, key=lambda entry: entry.M, default=None)


def default_choice(M: int) -> Choice:
    """The choice where nothing was measured: see :data:`FUSED_MAX_M`."""
    if M <= GEMV_MAX_M:
        return Choice("gemv")
    return Choice("gemm" if M <= FUSED_MAX_M else "dequantize")


@lru_cache(maxsize=4096)
def choose(device: torch.device, operation: str, N: int, K: int, weight_bits: int, decoder: str, M: int) -> Choice:
    """How to compute a product on a device.

    Args:
        device: Where the weight lies; another than CUDA has no table.
        operation: ``linear`` or ``swiglu``.
        N: Rows of the weight.
        K: Columns of the weight.
        weight_bits: Bit-planes read.
        decoder: How the kernels decode the weight.
        M: Activation vectors.

    Raises:
        KernelError: If the table that applies is damaged or of another device.
    """
    table = table_of(device)
    entry = table.nearest(operation, N, K, weight_bits, decoder, M) if table else None
    return default_choice(M) if entry is None else Choice(entry.path, entry.config)


@cache
def table_of(device: torch.device) -> TuningTable | None:
    """The table that applies to a device; None without one.

    Raises:
        KernelError: If it is damaged or of another device.
    """
    import torch

    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    named = _used[-1] if _used else os.environ.get(ENVIRONMENT_VARIABLE)
    path = Path(named) if named else PACKAGED / file_name(name)
    if not named and not path.exists():
        return None
    table = load_table(path)
    if table.device != name:
        raise KernelError(
            f"{path}: device = {table.device!r}, this GPU is {name!r}; tune here with 'python -m kernels tune' or "
            f"leave {ENVIRONMENT_VARIABLE} unset"
        )
    return table


# The path given last to use_table.
_used: list[Path] = []


def use_table(path: Path | None) -> None:
    """Choose by the table in a file from now on; None goes back to the environment variable and packaged tables.

    Raises:
        KernelError: If the file is damaged. That it is of another device shows when it is first used.
    """
    if path is not None:
        load_table(path)
    _used[:] = [] if path is None else [path]
    table_of.cache_clear()
    choose.cache_clear()


def note(device: torch.device) -> str | None:
    """What a user should hear once: that nothing was measured on this device. None where a table applies."""
    import torch

    if device.type != "cuda" or table_of(device) is not None:
        return None
    return (
        f"no tuning table for {torch.cuda.get_device_name(device)}: the kernels use default configurations that were "
        "not measured on it; 'python -m kernels tune' writes a table"
    )


def file_name(device: str) -> str:
    """The packaged file of a device.

    >>> file_name("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3.json'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split()) + ".json"


def save_table(table: TuningTable, path: Path) -> None:
    """Write a table, one entry a line; the file is replaced as a whole."""
    head = {"schema_version": SCHEMA_VERSION} | {
        field.name: getattr(table, field.name) for field in fields(table) if field.name != "entries"
    }
    entries = ",\n".join("    " + json.dumps(asdict(entry)) for entry in sorted(table.entries, key=lambda e: e.key))
    text = json.dumps(head, indent=2)[:-2] + ',\n  "entries": [' + (f"\n{entries}\n  " if entries else "") + "]\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def load_table(path: Path) -> TuningTable:
    """Read a table.

    Raises:
        KernelError: If the file cannot be read or is not a table of this version; names the field and its value.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KernelError(f"{path}: no tuning table ({error}); write one with 'python -m kernels tune'") from error
    reader = _Reader(path)
    reader.check_keys(data, "", {"schema_version", *(field.name for field in fields(TuningTable))})
    if data["schema_version"] != SCHEMA_VERSION:
        reader.fail("schema_version", data["schema_version"], f"must be {SCHEMA_VERSION}; tune again")
    texts = {field.name: reader.text(data, field.name) for field in fields(TuningTable) if field.name != "entries"}
    if not isinstance(data["entries"], list):
        reader.fail("entries", data["entries"], "must be a list")
    entries = tuple(reader.entry(item, f"entries[{at}]") for at, item in enumerate(data["entries"]))
    seen: set[object] = set()
    for at, entry in enumerate(entries):
        if entry.key in seen:
            reader.fail(f"entries[{at}]", entry.key, "must be there once")
        seen.add(entry.key)
    return TuningTable(**texts, entries=entries)


class _Reader:
    """Takes a table apart and names what does not fit."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, field: str, value: object, bound: str) -> NoReturn:
        raise KernelError(f"{self._path}: {field} = {value!r}: {bound}")

    def check_keys(self, data: Any, where: str, wanted: set[str]) -> None:
        if not isinstance(data, dict):
            self.fail(where or "the file", data, "must be an object")
        for key in sorted(wanted ^ set(data)):
            place = f"{where}.{key}" if where else key
            if key in data:
                self.fail(place, data[key], f"unknown field; known: {', '.join(sorted(wanted))}")
            raise KernelError(f"{self._path}: {place} is missing")

    def text(self, data: dict[str, Any], key: str, where: str = "", of: tuple[str, ...] | None = None) -> str:
        value = data[key]
        if not isinstance(value, str) or (of and value not in of):
            self.fail(f"{where}{key}", value, f"must be one of {', '.join(of)}" if of else "must be text")
        return str(value)

    def count(self, data: dict[str, Any], key: str, where: str) -> int:
        value = data[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.fail(f"{where}{key}", value, "must be a whole number >= 1")
        return int(value)

    def entry(self, data: Any, where: str) -> Entry:
        self.check_keys(data, where, {field.name for field in fields(Entry)})
        at = f"{where}."
        M = self.count(data, "M", at)
        path = self.text(data, "path", at, tuple(CONFIGS))
        if (path == "gemv") != (M <= GEMV_MAX_M):
            self.fail(f"{at}path", path, f"M = {M}: gemv takes 1..{GEMV_MAX_M}, the others more")
        p50_us = data["p50_us"]
        if not isinstance(p50_us, int | float) or not 0 < p50_us < math.inf:
            self.fail(f"{at}p50_us", p50_us, "must be microseconds > 0")
        failed = data["failed"]
        if not isinstance(failed, list) or not all(isinstance(reason, str) for reason in failed):
            self.fail(f"{at}failed", failed, "must be a list of texts")
        return Entry(
            operation=self.text(data, "operation", at, OPERATIONS),
            N=self.count(data, "N", at),
            K=self.count(data, "K", at),
            weight_bits=self.count(data, "weight_bits", at),
            decoder=self.text(data, "decoder", at, DECODERS),
            M=M,
            path=path,
            config=self.config(CONFIGS[path], data["config"], f"{at}config"),
            p50_us=float(p50_us),
            failed=tuple(failed),
        )

    def config(self, kind: type[GemvConfig] | type[GemmConfig] | None, data: Any, where: str) -> Config | None:
        if kind is None:
            if data is not None:
                self.fail(where, data, "must be null where cuBLAS computes")
            return None
        names = [field.name for field in fields(kind)]
        self.check_keys(data, where, set(names))
        try:
            return kind(**{name: self.count(data, name, f"{where}.") for name in names})
        except KernelError as error:
            raise KernelError(f"{self._path}: {where}: {error}") from error
