"""Many designs of a space as arrays, one entry a design: no object is made for any of them.

A design is the number of its schedule and, for each parameter, the number of its value. Whatever depends on few of
these is computed once for each combination that occurs and gathered by index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dse.plans import Plan
from dse.space import SCHEDULE_PREFIX, Design, Space

Codes = NDArray[np.int32]

INACTIVE = -1
"""Number of the value of a parameter whose condition fails, and of the schedule where there is none to choose."""


@dataclass(frozen=True)
class Candidates:
    """Designs of one space.

    Attributes:
        schedules: Schedules by label; a design has one of them.
        values: Values of each parameter.
        codes: For each parameter, which value each design has, ``[designs]``; ``INACTIVE`` where it does not act.
        schedule_index: Which of ``labels`` each design runs, ``[designs]``; ``INACTIVE`` without schedules.
    """

    schedules: Mapping[str, Plan]
    values: Mapping[str, tuple[Any, ...]]
    codes: Mapping[str, Codes]
    schedule_index: Codes

    @classmethod
    def enumerate(cls, space: Space) -> Candidates:
        """Every design of a finite space, in the order of :meth:`dse.space.Space.enumerate`."""
        values = {path: space.axis(path).all_values() for path in space.parameters}
        tables: dict[tuple[bool, ...], dict[str, Codes]] = {}
        parts: list[dict[str, Codes]] = []
        sizes: list[int] = []
        schedules: list[Plan | None] = list(space.schedules.values()) or [None]
        for schedule in schedules:
            parents = space.schedule_values(schedule)
            allowed = tuple(_schedule_allows(space, path, parents) for path in space.parameters)
            if allowed not in tables:
                tables[allowed] = _expand(space, values, dict(zip(space.parameters, allowed, strict=True)))
            parts.append(tables[allowed])
            sizes.append(len(next(iter(tables[allowed].values()))) if space.parameters else 1)
        codes = {path: np.concatenate([part[path] for part in parts]) for path in space.parameters}
        numbers = np.arange(len(schedules), dtype=np.int32) if space.schedules else np.array([INACTIVE], np.int32)
        return cls(space.schedules, values, codes, np.repeat(numbers, sizes))

    @classmethod
    def of(cls, space: Space | None, designs: Iterable[Design]) -> Candidates:
        """Given designs, in their order; without a space its parameters and schedules are those of the designs."""
        chosen = list(designs)
        schedules = {one.schedule.label(): one.schedule for one in chosen if one.schedule is not None}
        known_paths = () if space is None else space.parameters
        paths = list(dict.fromkeys([*known_paths, *(path for design in chosen for path in design.npu)]))
        values: dict[str, tuple[Any, ...]] = {}
        codes: dict[str, Codes] = {}
        for path in paths:
            known: dict[str, tuple[int, Any]] = {}
            column = np.full(len(chosen), INACTIVE, dtype=np.int32)
            for row, design in enumerate(chosen):
                if path in design.npu:
                    value = design.npu[path]
                    column[row], _ = known.setdefault(json.dumps(value), (len(known), value))
            values[path], codes[path] = tuple(value for _, value in known.values()), column
        schedules = schedules if space is None else space.schedules
        numbers = {label: number for number, label in enumerate(schedules)}
        labels = [INACTIVE if one.schedule is None else numbers[one.schedule.label()] for one in chosen]
        return cls(schedules, values, codes, np.array(labels, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.schedule_index)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of the schedules."""
        return tuple(self.schedules)

    def column(self, path: str) -> NDArray[Any]:
        """Values of one parameter, ``[designs]``: numbers, NaN where it does not act, or objects and None."""
        if path not in self.values:
            return np.full(len(self), np.nan)
        values = self.values[path]
        if all(isinstance(value, int | float) for value in values):
            return np.array([*values, np.nan], dtype=float)[self.codes[path]]
        table = np.empty(len(values) + 1, dtype=object)
        table[:-1] = [*values] if values else []
        return np.asarray(table[self.codes[path]])

    def schedule_column(self, by_label: Mapping[str, float]) -> NDArray[np.float64]:
        """A quantity of each design's schedule, ``[designs]``; NaN where it is not known."""
        table = [by_label.get(label, np.nan) for label in self.labels]
        return np.array([*table, np.nan], dtype=float)[self.schedule_index]

    def code(self, path: str, value: Any) -> int:
        """Number of a parameter's value."""
        return self.values[path].index(value)

    def npu_values(self, index: int) -> dict[str, Any]:
        """Active parameters of one design."""
        found = {path: int(column[index]) for path, column in self.codes.items()}
        return {path: self.values[path][code] for path, code in found.items() if code != INACTIVE}

    def design(self, index: int) -> Design:
        """One design as an object."""
        number = int(self.schedule_index[index])
        return Design(self.npu_values(index), None if number == INACTIVE else self.schedules[self.labels[number]])

    def indices(self, designs: Sequence[Design]) -> NDArray[np.intp]:
        """For each of ``designs`` the first one here that equals it.

        Raises:
            ValueError: If one is not among them.
        """
        numbers = {label: number for number, label in enumerate(self.labels)}
        wanted = np.full((1 + len(self.codes), len(designs)), INACTIVE, dtype=np.int32)
        for place, design in enumerate(designs):
            if design.schedule is not None:
                wanted[0, place] = numbers[design.schedule.label()]
            for row, path in enumerate(self.codes, start=1):
                if path in design.npu:
                    wanted[row, place] = self.code(path, design.npu[path])
        order, marks = self._by_mark
        wanted_marks = _marks(wanted)
        places = np.searchsorted(marks, wanted_marks)
        found = np.empty(len(designs), dtype=np.intp)
        left = np.arange(len(designs))
        while len(left):
            if (gone := (places[left] == len(self)) | (marks[places[left] % len(self)] != wanted_marks[left])).any():
                strange = designs[int(left[gone][0])].canonical()
                raise ValueError(f"{strange} is none of these {len(self)} designs")
            found[left] = order[places[left]]
            equal = np.all(
                [column[found[left]] == wanted[row, left] for row, column in enumerate(self._columns)], axis=0
            )
            left = left[~equal]
            places[left] += 1
        return found

    @property
    def _columns(self) -> list[Codes]:
        return [self.schedule_index, *self.codes.values()]

    @cached_property
    def _by_mark(self) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
        """Designs by their marks, those of one mark in order, and the marks: a lookup need not read every design."""
        marks = _marks(self._columns)
        order = np.argsort(marks, kind="stable")
        return order, marks[order]

    def take(self, indices: ArrayLike) -> Candidates:
        """Some designs, in the order of ``indices``."""
        rows = np.asarray(indices)
        codes = {path: column[rows] for path, column in self.codes.items()}
        return Candidates(self.schedules, self.values, codes, self.schedule_index[rows])

    def distinct(self, paths: Sequence[str] | None = None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Combinations of values of some parameters (all, unless given).

        Returns:
            For each combination a design that has it, ``[combinations]``, and for each design its combination.
        """
        key = np.zeros(len(self), dtype=np.int64)
        largest = 1
        for path in self.codes if paths is None else paths:
            radix = len(self.values[path]) + 1
            if largest * radix > np.iinfo(np.int64).max:
                found, key = np.unique(key, return_inverse=True)
                largest = len(found)
            key = key * radix + (self.codes[path] + 1)
            largest *= radix
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        return first, inverse


def _marks(columns: Iterable[Codes]) -> NDArray[np.uint64]:
    """A number for each design that is seldom that of another one, ``[designs]``; ``columns`` are its codes."""
    marks = np.zeros(1, dtype=np.uint64)
    for column in columns:
        marks = (marks + column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        marks ^= marks >> np.uint64(32)
    return marks


def _schedule_allows(space: Space, path: str, parents: Mapping[str, Any]) -> bool:
    """Whether a schedule of parts ``parents`` keeps a parameter's conditions on the schedule."""
    conditions = (space.parameters[path].when or {}).items()
    return all(parents.get(name) in allowed for name, allowed in conditions if name.startswith(SCHEDULE_PREFIX))


def _expand(space: Space, values: Mapping[str, tuple[Any, ...]], allowed: Mapping[str, bool]) -> dict[str, Codes]:
    """Every combination of parameters under the schedules that keep the ``allowed`` ones' conditions."""
    codes: dict[str, Codes] = {}
    rows = 1
    for path, parameter in space.parameters.items():
        active = np.full(rows, allowed[path])
        for parent, accepted in (parameter.when or {}).items():
            if not parent.startswith(SCHEDULE_PREFIX):
                # The last entry is of INACTIVE: a condition may accept null, which a missing value is.
                accepts = np.array([*(value in accepted for value in values[parent]), None in accepted])
                active &= accepts[codes[parent]]
        repeats = np.where(active, len(values[path]), 1)
        rows = int(repeats.sum())
        first = np.repeat(np.cumsum(repeats) - repeats, repeats)
        codes = {name: np.repeat(column, repeats) for name, column in codes.items()}
        codes[path] = np.where(np.repeat(active, repeats), np.arange(rows) - first, INACTIVE).astype(np.int32)
    return codes
