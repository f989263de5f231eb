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

    schema_version: Literal["1.1"] = "1.1"
    model_name: str
    model_sha256: str | None = Field(description="Hash of the model's weights; null where quoted.")
    store_sha256: str | None = Field(description="Hash of the nested store; null for full precision or quoted.")
    quantizer: str
    task: str
    task_version: str
    split: Literal["calib", "val", "test"]
    metric: str
    direction: Literal["maximize", "minimize"]
    reference: Literal["gold", "full-precision"]
    scheduler: str = Field(min_length=1, description="Registered name of the scheduler.")
    scheduler_label: str = Field(min_length=1, description="Tells it from others of its kind; a schedule's label.")
    scheduler_sha256: str | None = Field(None, description="Hash of what decides its plans; null where not recorded.")
    schedule: Schedule | None = Field(description="Null where the plan differs by prompt.")
    schedule_sha256: str | None = Field(description="Null where schedule is.")
    decoding: str = Field("greedy", description="How tokens were chosen, and whether lengths were forced.")
    mean_decode_bits: float = Field(gt=0, description="Over all decode steps that really ran.")
    value: FiniteFloat
    ci_low: FiniteFloat | None = Field(description="95% bootstrap interval over prompts; null where quoted.")
    ci_high: FiniteFloat | None
    n: int | None = Field(
        ge=1,
        description="Number of prompts; the turns of one conversation count once. Null where quoted and not printed.",
    )
    seed: int
    per_prompt_path: str | None = Field(None, description="File with one value per prompt, beside this one.")
    source: Literal["measured", "quoted"]
    citation: str | None = None

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


class QualityTable(Record):
    """A quality file: one record per scheduler and metric."""

    schema_version: Literal["1.0"] = "1.0"
    records: tuple[Quality, ...]


def read_quality(path: Path | str) -> tuple[Quality, ...]:
    """Read a quality file.

    Raises:
        InputError: If the file is missing, not JSON, or breaks the contract.
    """
    value = read_json(path)
    try:
        return QualityTable.model_validate(value).records
    except ValidationError as error:
        raise from_validation(error, str(path)) from None


def write_quality(path: Path | str, records: Iterable[Quality]) -> None:
    """Write a quality file atomically."""
    write_json(path, QualityTable(records=tuple(records)).model_dump(mode="json"))
