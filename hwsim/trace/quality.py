"""Measured or quoted quality of a model's text under a precision scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from hwsim.trace.errors import from_validation
from hwsim.trace.files import write_json
from hwsim.trace.schedule import Record, Schedule, read_json


class Quality(Record):
    """One number with its interval, the prompts behind it, and where it came from (design decision 7).

    Version 1.1 tells of the scheduler. A record of version 1.0, or one that names a schedule only, is read as the
    static scheduler's.
    """

    schema_version: Literal["1.1"] = Field("1.1", description="Form of the record.")
    model_name: str = Field(description="Which model answered.")
    model_sha256: str | None = Field(description="Hash of the model's weights; null where quoted.")
    store_sha256: str | None = Field(description="Hash of the nested store; null for full precision or quoted.")
    quantizer: str = Field(description="How the store was made; none for full precision.")
    task: str = Field(description="Where the prompts come from.")
    task_version: str = Field(description="Another one has other prompts, references or splits.")
    split: Literal["calib", "val", "test"] = Field(
        description="Only the last may be reported, only the others tuned on."
    )
    metric: str = Field(description="What was measured.")
    direction: Literal["maximize", "minimize"] = Field(description="Which way is better.")
    reference: Literal["gold", "full-precision"] = Field(description="What responses were compared with.")
    scheduler: str = Field(min_length=1, description="Registered name of the scheduler.")
    scheduler_label: str = Field(min_length=1, description="Tells it from others of its kind; a schedule's label.")
    scheduler_sha256: str | None = Field(None, description="Hash of what decides its plans; null where not recorded.")
    schedule: Schedule | None = Field(description="Null where the plan differs by prompt.")
    schedule_sha256: str | None = Field(description="Null where schedule is.")
    decoding: str = Field("greedy", description="How tokens were chosen, and whether lengths were forced.")
    mean_decode_bits: float = Field(gt=0, description="Over all decode steps that really ran.")
    value: FiniteFloat = Field(description="The score over all prompts.")
    ci_low: FiniteFloat | None = Field(description="95% bootstrap interval over prompts; null where quoted.")
    ci_high: FiniteFloat | None = Field(description="Its upper end.")
    n: int | None = Field(
        ge=1,
        description="Number of prompts; the turns of one conversation count once. Null where quoted and not printed.",
    )
    seed: int = Field(description="Of the bootstrap.")
    per_prompt_path: str | None = Field(None, description="File with one value per prompt, beside this one.")
    source: Literal["measured", "quoted"] = Field(description="By a run of ours, or printed by others.")
    citation: str | None = Field(None, description="Where it is printed; required where quoted.")

    @model_validator(mode="before")
    @classmethod
    def _static_unless_told(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = dict(value)
        if known.get("schema_version") == "1.0":
            known["schema_version"] = "1.1"
        if known.get("schedule") is not None and "scheduler" not in known:
            try:
                label = Schedule.model_validate(known["schedule"]).label()
            except ValidationError:
                return known  # the field's own error says what is wrong
            known = {"scheduler": "static", "scheduler_label": label, **known}
        return known

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule_sha256 != (None if self.schedule is None else self.schedule.sha256()):
            raise ValueError("schedule_sha256 does not match schedule")
        if self.source == "quoted" and not self.citation:
            raise ValueError("citation is required where source is 'quoted'")
        if self.source == "measured" and self.n is None:
            raise ValueError("n is required where source is 'measured'")
        if self.ci_low is not None and self.ci_high is not None and self.ci_low > self.ci_high:
            raise ValueError(f"ci_low = {self.ci_low} exceeds ci_high = {self.ci_high}")
        return self


class Interpolation(Record):
    """How quality is found for schedules between measured ones."""

    method: Literal["linear-in-bits"] = Field(
        description="Linear in the shares of decode steps at each width, between measured schedules of the same "
        "prefill width that fall through the same widths; never beyond them."
    )


class QualityTable(Record):
    """A quality file: one record per scheduler and metric.

    Version 1.1 may say how to interpolate; a file of version 1.0 does not.
    """

    schema_version: Literal["1.1"] = Field("1.1", description="Form of the file.")
    interpolation: Interpolation | None = Field(
        None,
        description="How numbers of schedules between its own may be found, as whoever measured it says; null: not.",
    )
    records: tuple[Quality, ...] = Field(description="One for each scheduler and metric.")

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("schema_version") == "1.0" and "interpolation" not in value:
            return {**value, "schema_version": "1.1"}
        return value


def read_quality_table(path: Path | str) -> QualityTable:
    """Read a quality file with what it says of all its records.

    Raises:
        InputError: If the file is missing, not JSON, or breaks the contract.
    """
    value = read_json(path)
    try:
        return QualityTable.model_validate(value)
    except ValidationError as error:
        raise from_validation(error, str(path)) from None


def read_quality(path: Path | str) -> tuple[Quality, ...]:
    """Read the records of a quality file.

    Raises:
        InputError: If the file is missing, not JSON, or breaks the contract.
    """
    return read_quality_table(path).records


def write_quality(path: Path | str, records: Iterable[Quality], interpolation: Interpolation | None = None) -> None:
    """Write a quality file atomically."""
    table = QualityTable(interpolation=interpolation, records=tuple(records))
    write_json(path, table.model_dump(mode="json"))
