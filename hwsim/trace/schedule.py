"""The schedule: which weight precision each phase and each decode step reads."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from hwsim.trace.errors import InputError, from_validation
from hwsim.trace.files import canonical_sha256, read_text, write_json

MAX_PLANES = 8
"""Most bit-planes of nested weights."""

FULL_PRECISION_BITS = 16
"""Width that stands for the unquantised weights."""


def _check_weight_bits(bits: int) -> int:
    if not (1 <= bits <= MAX_PLANES or bits == FULL_PRECISION_BITS):
        raise ValueError(f"must be 1..{MAX_PLANES} (nested planes) or {FULL_PRECISION_BITS} (unquantised weights)")
    return bits


_LEGAL_WEIGHT_BITS = [*range(1, MAX_PLANES + 1), FULL_PRECISION_BITS]

WeightBits = Annotated[
    int, AfterValidator(_check_weight_bits), WithJsonSchema({"type": "integer", "enum": _LEGAL_WEIGHT_BITS})
]
"""A legal weight width: a number of nested planes, or 16 for the unquantised weights (design decision 5)."""


class Record(BaseModel):
    """Base of everything read from disk: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DecodeSegment(Record):
    """From ``start_step`` on, decode steps read ``weight_bits`` bits per weight."""

    start_step: int = Field(ge=0, description="First decode step (0-based) of this segment.")
    weight_bits: WeightBits = Field(description="Bits read per weight: 1..8 planes, or 16.")


class Schedule(Record):
    """Weight precision of the prefill and of every decode step.

    Attributes:
        schema_version: Version of this record's form.
        prefill_weight_bits: Bits per weight during the prefill.
        decode: Segments by increasing ``start_step``, the first at 0; the last one never ends.
    """

    schema_version: Literal["1.0"] = Field("1.0", description="Form of the file.")
    prefill_weight_bits: WeightBits = Field(description="Bits read per weight in the prefill.")
    decode: tuple[DecodeSegment, ...] = Field(min_length=1, description="First start 0, starts increasing.")

    @model_validator(mode="after")
    def _check_starts(self) -> Self:
        starts = [segment.start_step for segment in self.decode]
        if starts[0] != 0:
            raise ValueError(f"decode.0.start_step = {starts[0]}: the first segment must start at step 0")
        for before, after in pairwise(starts):
            if after <= before:
                raise ValueError(f"start_step {after} follows {before}: starts must increase")
        return self

    @classmethod
    def uniform(cls, weight_bits: int, prefill_weight_bits: int | None = None) -> Schedule:
        """Use one width for all decode steps, and for the prefill too unless it is given.

        >>> Schedule.uniform(3, prefill_weight_bits=4).label()
        'p4:3'
        """
        prefill = weight_bits if prefill_weight_bits is None else prefill_weight_bits
        return cls.from_pairs(prefill, [(0, weight_bits)])

    @classmethod
    def from_pairs(cls, prefill_weight_bits: int, pairs: list[tuple[int, int]]) -> Schedule:
        """Build from ``(start_step, weight_bits)`` pairs; repeated starts keep the last, equal widths merge.

        That is what a solver wants: a switch at step 0 means the first width never runs.

        >>> Schedule.from_pairs(4, [(0, 4), (0, 3), (9, 3)]).label()
        'p4:3'
        """
        by_start = dict(pairs)
        segments: list[DecodeSegment] = []
        for start in sorted(by_start):
            if not segments or segments[-1].weight_bits != by_start[start]:
                segments.append(DecodeSegment(start_step=start, weight_bits=by_start[start]))
        return cls(prefill_weight_bits=prefill_weight_bits, decode=tuple(segments))

    @classmethod
    def from_label(cls, label: str) -> Schedule:
        """Read what :meth:`label` writes; a bare width is a uniform schedule.

        >>> Schedule.from_label("p8:4>3@40>2@60").runs(70)
        [(4, 40), (3, 20), (2, 10)]

        Raises:
            InputError: If the text has another form or a width or step is out of bounds.
        """
        match = re.fullmatch(r"(?:p(\d+):)?(\d+)((?:>\d+@\d+)*)", label.strip())
        if match is None:
            raise InputError(
                f"schedule '{label}': must look like p4:4>3@40 (prefill bits : decode bits > next bits @ first step)"
            )
        prefill, first, rest = match.groups()
        pairs = [(0, int(first))]
        for switch in rest.split(">")[1:]:
            bits, _, step = switch.partition("@")
            pairs.append((int(step), int(bits)))
        try:
            return cls.model_validate(
                {
                    "prefill_weight_bits": int(prefill or first),
                    "decode": [{"start_step": step, "weight_bits": bits} for step, bits in pairs],
                }
            )
        except ValidationError as error:
            raise from_validation(error, f"schedule '{label}'") from None

    def runs(self, steps: int) -> list[tuple[int, int]]:
        """Run-length form ``[(weight_bits, count), ...]`` over the first ``steps`` decode steps.

        >>> Schedule.from_pairs(4, [(0, 4), (5, 3)]).runs(8)
        [(4, 5), (3, 3)]
        """
        starts = [segment.start_step for segment in self.decode]
        ends = [*starts[1:], steps]
        return [
            (segment.weight_bits, min(end, steps) - segment.start_step)
            for segment, end in zip(self.decode, ends, strict=True)
            if segment.start_step < steps
        ]

    def expand(self, steps: int) -> list[int]:
        """Weight bits of each of the first ``steps`` decode steps."""
        return [bits for bits, count in self.runs(steps) for _ in range(count)]

    def bits_at(self, step: int) -> int:
        """Weight bits of decode step ``step`` (0-based)."""
        return [segment.weight_bits for segment in self.decode if segment.start_step <= step][-1]

    def mean_bits(self, steps: int) -> float:
        """Mean decode weight bits over the first ``steps`` steps (design decision 12); ``steps`` >= 1."""
        if steps < 1:
            raise InputError(f"steps = {steps}: mean bits need at least 1 decode step")
        return sum(bits * count for bits, count in self.runs(steps)) / steps

    def widths(self) -> set[int]:
        """Every width that appears, prefill included."""
        return {self.prefill_weight_bits, *(segment.weight_bits for segment in self.decode)}

    def label(self) -> str:
        """Short name for plots and tables, for example ``p4:4>3@40``: prefill 4, decode 4, 3 from step 40."""
        first, *rest = self.decode
        switches = "".join(f">{segment.weight_bits}@{segment.start_step}" for segment in rest)
        return f"p{self.prefill_weight_bits}:{first.weight_bits}{switches}"

    def sha256(self) -> str:
        """Hash of the canonical form; equal for equal schedules."""
        return canonical_sha256(self.model_dump(mode="json"))


def read_json(path: Path | str) -> Any:
    """Read a JSON file or raise an :class:`InputError` that names the file and the place."""
    source = Path(path)
    try:
        return json.loads(read_text(source))
    except json.JSONDecodeError as error:
        raise InputError(f"{source}:{error.lineno}: not JSON ({error.msg})") from None


def read_schedule(path: Path | str) -> Schedule:
    """Read a schedule file (JSON).

    Raises:
        InputError: If the file is missing, not JSON, or breaks the contract; the message names the field.
    """
    value = read_json(path)
    try:
        return Schedule.model_validate(value)
    except ValidationError as error:
        raise from_validation(error, str(path)) from None


def write_schedule(path: Path | str, schedule: Schedule) -> None:
    """Write a schedule file atomically."""
    write_json(path, schedule.model_dump(mode="json"))
