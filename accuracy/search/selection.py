"""Which schedule to take: the quality asked for, the order between those that keep it, and the record of a choice.

Shared by :mod:`accuracy.search.allocation` (Alg. 1 line 2) and :mod:`accuracy.search.solver` (Alg. 1 line 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat, ValidationError

from accuracy.statistics import LOSSLESS_TOLERANCE
from hwsim.trace import FULL_PRECISION_BITS, InputError, Record, Schedule, from_validation, read_json, unknown_name

Criterion = Literal["point", "lossless"]
DropReason = Literal["cost", "quality", "interval"]
CRITERIA: tuple[Criterion, ...] = ("point", "lossless")
FULL_PRECISION = Schedule.uniform(FULL_PRECISION_BITS)


@dataclass(frozen=True)
class Target:
    """The quality a schedule must keep, q >= q_ref - epsilon (Eq. 2).

    Attributes:
        reference: Whose score q_ref is: a schedule, by default full precision, or a given number.
        tolerance: Epsilon as a share of ``|q_ref|``.
        criterion: ``point`` compares the scores, as the paper does. ``lossless`` asks more: the lower end of the
            paired 95% interval of the relative change must lie above -tolerance (design decision 13 with 1%).
    """

    reference: Schedule | float = FULL_PRECISION
    tolerance: float = LOSSLESS_TOLERANCE
    criterion: Criterion = "point"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise unknown_name("criterion", self.criterion, CRITERIA)
        if not 0 <= self.tolerance < 1:
            raise InputError(f"tolerance = {self.tolerance}: must be 0..1, a share of the reference's score")
        if isinstance(self.reference, Schedule):
            return
        if not 0 < abs(self.reference) < float("inf"):
            raise InputError(f"reference = {self.reference}: must be a schedule, or a score that is finite and not 0")
        if self.criterion == "lossless":
            raise InputError(
                f"reference = {self.reference}: criterion 'lossless' compares prompt by prompt and needs a schedule"
            )


class RelativeChange(Record):
    """Change of the score against the reference's on the same prompts, as a share of it; negative is worse."""

    value: FiniteFloat
    ci_low: FiniteFloat = Field(description="Paired 95% bootstrap interval over prompts.")
    ci_high: FiniteFloat


class Candidate(Record):
    """One schedule that was considered.

    Attributes:
        schedule: The schedule.
        label: Its label.
        feasible: Whether it is known to keep the quality; one dropped for its cost or by an interval might.
        n: Prompts it was decoded on; fewer than all where it was dropped.
        dropped: Why it was not decoded on all prompts: ``cost``, it could only take more bits than one that is
            feasible; ``quality``, it could no longer keep the quality; ``interval``, it was unlikely to (approximate
            searches only).
        best_possible: Where dropped, the best score it could still have reached; null if that is not known.
        mean_decode_bits: Over all decode steps that ran; null where dropped, as everything below.
        value: Score.
        ci_low: 95% bootstrap interval over prompts.
        ci_high: Its upper end.
        change: Against the reference; null too where that is a number, or scores 0 on resampled prompts.
    """

    schedule: Schedule
    label: str
    feasible: bool
    n: int
    dropped: DropReason | None = None
    best_possible: FiniteFloat | None = None
    mean_decode_bits: float | None = None
    value: FiniteFloat | None = None
    ci_low: FiniteFloat | None = None
    ci_high: FiniteFloat | None = None
    change: RelativeChange | None = None


class Selection(Record):
    """What was searched, what it cost and what came out, as written to disk.

    Attributes:
        chosen: The first feasible schedule in order; null where none is.
        nearest: The schedule with the best score, where none is feasible.
        required_value: q_ref - epsilon.
        approximate: Whether candidates may have been dropped that were feasible.
        responses: Responses decoded, the reference's and full precision's included.
        decode_steps: Their decode steps, as if each response had been decoded alone.
        decode_steps_run: Those that ran, shared prefixes once.
        steps_saved: The fraction that sharing saved.
        responses_dropped: Responses that dropping candidates early saved on top.
        candidates: Feasible ones first, then the others, each part in the order of choice; dropped ones last.
    """

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["allocation", "solution"]
    model_name: str
    model_sha256: str
    store_sha256: str | None
    task: str
    task_version: str
    split: Literal["calib", "val"]
    n: int = Field(ge=1, description="Number of prompts.")
    max_new_tokens: int
    widths: tuple[int, ...]
    points: int | None = Field(description="Candidate switch points; null for an allocation.")
    metric: str
    metric_description: str
    direction: Literal["maximize", "minimize"]
    reference: Schedule | None = Field(description="Null where q_ref is a given number.")
    reference_value: FiniteFloat
    tolerance: float
    criterion: Criterion
    required_value: FiniteFloat
    seed: int
    batch_size: int
    approximate: bool
    chosen: Schedule | None
    nearest: Schedule | None
    responses: int
    responses_dropped: int
    decode_steps: int
    decode_steps_run: int
    steps_saved: float
    candidates: tuple[Candidate, ...]
    provenance: dict[str, str]


OrderKey = tuple[Fraction, int, int, str]


def order_key(schedule: Schedule, decode_bits: int, decode_steps: int) -> OrderKey:
    """Place of a schedule in the order of choice: least mean bits, then prefill bits, then switches, then label.

    Args:
        schedule: The schedule.
        decode_bits: Sum of the widths of all decode steps that ran, over all prompts.
        decode_steps: Their number. Where no response went beyond token 0, the schedule's first width counts.
    """
    mean = Fraction(decode_bits, decode_steps) if decode_steps else Fraction(schedule.bits_at(0))
    return mean, schedule.prefill_weight_bits, len(schedule.decode) - 1, schedule.label()


def read_selection(path: Path | str) -> Selection:
    """Read what an allocation or a solver wrote.

    Raises:
        InputError: If the file is missing, not JSON, or breaks the contract.
    """
    try:
        return Selection.model_validate(read_json(path))
    except ValidationError as error:
        raise from_validation(error, str(path)) from None
