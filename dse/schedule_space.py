"""The schedules a study explores, told by widths and switch points instead of one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, pairwise, permutations, product
from typing import Annotated, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from dse.parameters import as_tuple
from hwsim.trace import DecodeSegment, InputError, Record, Schedule, WeightBits, switch_steps

STATIC = "static"
"""Scheduler whose plan is the same for every prompt; any other is explored as a trace recorded it."""

MAX_SCHEDULES = 200_000
"""Most schedules a space may hold: some seconds and 1 GB, where a finer grid of steps changes no answer."""


class SwitchPoints(Record):
    """Switch steps spread evenly over a response, as the paper places them (its Section 4.3)."""

    points: int = Field(ge=2, le=1000, description="Candidates N; the first and the last mean no switch at all.")
    response_tokens: int = Field(ge=2, description="Tokens M of the response; step k is round(k (M - 1)/(N - 1)).")


Widths = Annotated[tuple[WeightBits, ...], BeforeValidator(as_tuple)]


def _form(value: object) -> str:
    return "spread" if isinstance(value, Mapping | SwitchPoints) else "list"


Steps = Annotated[
    Annotated[tuple[Annotated[int, Field(ge=1)], ...], Tag("list")] | Annotated[SwitchPoints, Tag("spread")],
    Discriminator(_form),
]


class ScheduleSpace(Record):
    """Every schedule over some widths with up to so many switches at some steps."""

    prefill_weight_bits: Widths = Field((), description="Widths of the prefill.")
    decode_weight_bits: Widths = Field((), description="Widths of the decode steps.")
    max_switches: int = Field(1, ge=0, le=3, description="Changes of width within a response, at most.")
    switch_steps: Steps = Field(
        (), description="Decode steps at which the width may change: a list, or {points: N, response_tokens: M}."
    )
    falling_only: bool = Field(
        True, description="Widths never rise, from the prefill on; false: any two neighbouring widths may differ."
    )
    schedulers: tuple[str, ...] = Field(
        (STATIC,),
        min_length=1,
        description="static: the schedules told here. Any other name, for example learned: what a quality file and a "
        "trace recorded under that scheduler, explored as it was.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("prefill_weight_bits", "decode_weight_bits", "schedulers"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} = {list(values)}: each may appear once")
        widths = bool(self.prefill_weight_bits), bool(self.decode_weight_bits)
        if (STATIC in self.schedulers) != all(widths) or (any(widths) and not all(widths)):
            raise ValueError(
                f"prefill_weight_bits and decode_weight_bits say what the scheduler {STATIC} may do: give both with "
                "it, or neither without it"
            )
        steps = self.steps()
        if any(after <= before for before, after in pairwise(steps)):
            raise ValueError(f"switch_steps = {steps}: must increase")
        if (count := self.count()) > MAX_SCHEDULES:
            raise ValueError(
                f"holds {count} schedules, at most {MAX_SCHEDULES} are explored; give fewer switch_steps or switches"
            )
        if STATIC in self.schedulers and count == 0:
            raise ValueError(
                f"prefill_weight_bits = {list(self.prefill_weight_bits)} is below every decode width and falling_only "
                "is true: no schedule is left; raise it"
            )
        return self

    def steps(self) -> list[int]:
        """Steps at which a width may change."""
        if isinstance(self.switch_steps, SwitchPoints):
            inner = switch_steps(self.switch_steps.response_tokens, self.switch_steps.points)[1:-1]
            return sorted({step for step in inner if step > 0})
        return list(self.switch_steps)

    def _sequences(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Every prefill with every sequence of decode widths that may follow it."""
        rising = sorted(self.decode_weight_bits)
        most = min(self.max_switches, len(self.steps()))
        for length in range(1, most + 2):
            if self.falling_only:
                orders: Iterator[tuple[int, ...]] = combinations(rising[::-1], length)
            elif length <= 2:
                orders = permutations(rising, length)
            else:
                sequences = product(rising, repeat=length)
                orders = (widths for widths in sequences if all(a != b for a, b in pairwise(widths)))
            for widths in orders:
                for prefill in self.prefill_weight_bits:
                    if not self.falling_only or prefill >= widths[0]:
                        yield prefill, widths

    def count(self) -> int:
        """Number of schedules, without making them."""
        steps = len(self.steps())
        return sum(math.comb(steps, len(widths) - 1) for _, widths in self._sequences())

    def schedules(self) -> list[Schedule]:
        """Every schedule, each once, fewest switches first.

        >>> space = ScheduleSpace(prefill_weight_bits=(4,), decode_weight_bits=(4, 3), switch_steps=(20, 40))
        >>> [schedule.label() for schedule in space.schedules()]
        ['p4:4', 'p4:3', 'p4:4>3@20', 'p4:4>3@40']
        """
        steps = self.steps()
        segments = {
            (step, bits): DecodeSegment(start_step=step, weight_bits=bits)
            for step, bits in product([0, *steps], self.decode_weight_bits)
        }
        return [
            Schedule(
                prefill_weight_bits=prefill,
                decode=tuple(segments[switch] for switch in zip((0, *starts), widths, strict=True)),
            )
            for prefill, widths in self._sequences()
            for starts in combinations(steps, len(widths) - 1)
        ]


def parse_schedule(value: object) -> object:
    """Read a label such as ``p4:4>3@40`` (prefill 4; decode 4, from step 40 on 3)."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return Schedule.from_label(value) if isinstance(value, str) else value


def merged(schedule: Schedule) -> Schedule:
    """The same precision per step with equal neighbours merged, so that equal schedules have equal labels."""
    if all(before.weight_bits != after.weight_bits for before, after in pairwise(schedule.decode)):
        return schedule
    pairs = [(segment.start_step, segment.weight_bits) for segment in schedule.decode]
    return Schedule.from_pairs(schedule.prefill_weight_bits, pairs)


def unique(schedules: Iterable[Schedule]) -> tuple[Schedule, ...]:
    """Schedules with equal neighbours merged.

    Raises:
        InputError: If two of them read the same widths at every step.
    """
    found: dict[str, Schedule] = {}
    for schedule in schedules:
        label = merged(schedule).label()
        if label in found:
            raise InputError(f"{label} appears twice; leave one out")
        found[label] = merged(schedule)
    return tuple(found.values())
