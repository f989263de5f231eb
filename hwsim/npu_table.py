"""Many NPUs as combinations of the sections of their files, so that nothing is made or checked once for each of them.

An exploration of 10^5 NPUs changes a few sections in a few ways. What depends on one section, or on two, is computed
for each combination of those that occurs and gathered by index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from hwsim.config import MAX_FILL_S, Buffers, NpuConfig
from hwsim.load import change_npu, load_npu
from hwsim.trace import InputError
from hwsim.units import KIB, IntArray

Key = TypeVar("Key", bound=Hashable)

FIELDS = tuple(NpuConfig.model_fields)


@dataclass(frozen=True)
class NpuTable:
    """NPUs, one row each.

    Attributes:
        parts: For each field of an NPU the values that occur.
        numbers: For each field which of them a row has, ``[NPUs]``.
    """

    parts: Mapping[str, tuple[Any, ...]]
    numbers: Mapping[str, IntArray]

    @classmethod
    def of(cls, npus: Sequence[NpuConfig]) -> NpuTable:
        """NPUs that were made one by one."""
        rows = np.arange(len(npus))
        return cls({name: tuple(getattr(npu, name) for npu in npus) for name in FIELDS}, dict.fromkeys(FIELDS, rows))

    def __len__(self) -> int:
        return len(self.numbers["name"])

    def npu(self, row: int) -> NpuConfig:
        """One NPU; its sections were checked already."""
        return NpuConfig.model_construct(**{name: self.parts[name][self.numbers[name][row]] for name in FIELDS})

    def take(self, rows: NDArray[np.intp]) -> NpuTable:
        """Some of the NPUs, in the order of ``rows``."""
        return NpuTable(self.parts, {name: numbers[rows] for name, numbers in self.numbers.items()})

    def combinations(self, *names: str) -> tuple[list[NpuConfig], NDArray[np.intp]]:
        """An NPU for each combination of some fields, and for each row which one it has, ``[NPUs]``."""
        first, inverse = combine_codes([(self.numbers[name], len(self.parts[name])) for name in names], len(self))
        return [self.npu(row) for row in first.tolist()], inverse

    def gather(self, value: Callable[[NpuConfig], float], *names: str) -> NDArray[Any]:
        """A number that depends on some fields only, ``[NPUs]``."""
        npus, inverse = self.combinations(*names)
        return np.array([value(npu) for npu in npus])[inverse]

    def classify(self, key: Callable[[NpuConfig], Key], *names: str) -> tuple[list[Key], NDArray[np.intp]]:
        """Number the NPUs by a key that depends on some fields only.

        Returns:
            The keys that occur, and which one each row has, ``[NPUs]``.
        """
        npus, inverse = self.combinations(*names)
        known: dict[Key, int] = {}
        numbers = [known.setdefault(key(npu), len(known)) for npu in npus]
        return list(known), np.array(numbers, dtype=np.intp)[inverse]


def combine_codes(columns: Sequence[tuple[IntArray, int]], rows: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number the combinations of columns of small integers.

    Args:
        columns: Integers ``[rows]`` within ``0..count - 1``, and ``count``.
        rows: Length of the columns.

    Returns:
        A row that has each combination, ``[combinations]``, and for each row its combination, ``[rows]``.
    """
    key = np.zeros(rows, dtype=np.int64)
    largest = 1
    for numbers, count in columns:
        if largest * count > np.iinfo(np.int64).max:
            found, key = np.unique(key, return_inverse=True)
            largest = len(found)
        key = key * count + numbers
        largest *= count
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first, inverse


def load_npus(
    name_or_path: str | Path, values: Mapping[str, Sequence[Any]], codes: Mapping[str, IntArray], rows: int
) -> tuple[NpuTable, NDArray[np.bool_]]:
    """Load many variants of an NPU at once.

    Args:
        name_or_path: As for :func:`hwsim.load_npu`.
        values: By dotted path, the values that it may be given.
        codes: By dotted path, which value each variant has, ``[rows]``; -1 leaves the file's.
        rows: Number of variants.

    Returns:
        The NPUs, and which of them keep the contract; :func:`hwsim.load_npu` says what is wrong with the others.

    Raises:
        InputError: If the NPU without any change is not usable.
    """
    base = load_npu(name_or_path)
    config = base.model_dump()
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for path in codes:
        paths[path.partition(".")[0]].append(path)
    parts: dict[str, tuple[Any, ...]] = {}
    numbers: dict[str, IntArray] = {}
    valid = np.full(rows, paths.keys() <= set(FIELDS))
    for name in FIELDS:
        changed = paths[name]
        first, inverse = combine_codes([(codes[path] + 1, len(values[path]) + 1) for path in changed], rows)
        found = []
        for row in first.tolist():
            chosen = {path: int(codes[path][row]) for path in changed}
            changes = {path: values[path][code] for path, code in chosen.items() if code >= 0}
            found.append(_changed_field(config, name, changes) if changes else (getattr(base, name),))
        valid &= np.array([one is not None for one in found], dtype=bool)[inverse]
        parts[name], numbers[name] = tuple(one[0] if one else getattr(base, name) for one in found), inverse
    table = NpuTable(parts, numbers)
    return table, valid & _fits_together(table)


def _changed_field(config: Mapping[str, Any], name: str, changes: Mapping[str, Any]) -> tuple[Any] | None:
    """The field's value after changes to it alone, in a tuple since it may be null; None where it is not valid."""
    changed = {name: deepcopy(config[name])}
    try:
        change_npu(changed, changes)
        if isinstance(config[name], dict) or config[name] is None:
            section: Any = NpuConfig.model_fields[name].annotation
            return (TypeAdapter(section).validate_python(changed[name]),)
        return (getattr(NpuConfig.model_validate({**config, **changed}), name),)
    except (ValidationError, InputError):
        return None


def _fits_together(table: NpuTable) -> NDArray[np.bool_]:
    """What :class:`hwsim.config.NpuConfig` checks across sections, ``[NPUs]``."""
    largest = table.gather(lambda npu: max(getattr(npu.buffers, name) for name in Buffers.model_fields), "buffers")
    good = np.ones(len(table), dtype=bool)
    for path in ("memory", "second_memory"):

        def bandwidth(npu: NpuConfig, path: str = path) -> float:
            memory = getattr(npu, path)
            return np.inf if memory is None else memory.bandwidth_bytes_per_s

        def holds_bursts(npu: NpuConfig, path: str = path) -> bool:
            memory = getattr(npu, path)
            return memory is None or memory.timing.row_bytes >= memory.burst_bytes

        good &= table.gather(holds_bursts, path)
        good &= largest * KIB / table.gather(bandwidth, path) <= MAX_FILL_S
    return good
