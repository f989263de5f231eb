"""The study file: what is explored, judged by what, within which limits (the Study contract)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from dse.objective import check_metric_name, unit_factor
from hwsim.trace import InputError, Record, Schedule, from_validation, read_text, unknown_name


def _number(value: object) -> object:
    """YAML 1.1 reads ``16e9`` as text; here it is the number it looks like."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        if math.isfinite(number):
            return int(number) if number.is_integer() else number
    return value


def _as_tuple(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _numbers(value: object) -> object:
    return tuple(_number(item) for item in value) if isinstance(value, list | tuple) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Choices = Annotated[tuple[JsonValue, ...], BeforeValidator(_numbers)]
Values = Annotated[tuple[JsonValue, ...], BeforeValidator(_numbers), BeforeValidator(_as_tuple)]


class Workload(Record):
    """One model at work; a study weighs several by their share of requests."""

    model: str | None = Field(
        None, description="Model shape by name, or the path of a config.json; a trace may name it instead."
    )
    trace: Paths | None = Field(
        None,
        description="Trace file or files. The one recorded under a design's schedule is replayed as it is; "
        "where none was, the sequence lengths of the first are run under the design's schedule.",
    )
    prompt_tokens: int | None = Field(None, ge=1, description="Prompt length, where no trace is given.")
    decode_tokens: int | None = Field(None, ge=1, description="Decode steps, where no trace is given.")
    kv_bits: int = Field(16, ge=1, description="Bits of a stored key or value, where no trace is given.")
    lm_head_bits: int = Field(16, ge=1, description="Bits of an lm_head weight, where no trace is given.")
    task: str | None = Field(None, description="Which task's quality counts, where the files hold several.")
    weight: FiniteFloat = Field(1.0, gt=0, description="Share of requests, relative to the other workloads.")
    allow_model_mismatch: bool = Field(
        False, description="Pair this model's timing with another model's trace or quality; rows are labelled."
    )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        tokens = (self.prompt_tokens, self.decode_tokens)
        if self.trace is None and None in tokens:
            raise ValueError("needs either trace, or both prompt_tokens and decode_tokens")
        if self.trace is not None and tokens != (None, None):
            raise ValueError("has trace and prompt_tokens or decode_tokens: give one or the other")
        if self.trace is None and self.model is None:
            raise ValueError("needs model: only a trace can name it instead")
        return self


class Parameter(Record):
    """The values one NPU field may take."""

    type: Literal["int", "float", "log", "categorical"] = Field(
        description="log is float on a logarithmic scale; numeric choices of a categorical keep their order."
    )
    low: FiniteFloat | None = Field(None, description="Smallest value.")
    high: FiniteFloat | None = Field(None, description="Largest value, included.")
    step: FiniteFloat | None = Field(None, gt=0, description="Distance of neighbouring values.")
    log: bool = Field(False, description="Sample on a logarithmic scale.")
    choices: Choices | None = Field(None, description="The values of a categorical parameter.")
    when: dict[str, Values] | None = Field(
        None,
        description="Active only where each parameter named here (listed above this one, or a part of the "
        "schedule) has one of these values; inactive, the NPU file's value stands.",
    )

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.type == "categorical":
            if not self.choices:
                raise ValueError("a categorical parameter needs choices")
            if len({repr(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError(f"choices = {list(self.choices)}: must differ")
            if (self.low, self.high, self.step, self.log) != (None, None, None, False):
                raise ValueError("a categorical parameter takes choices, not low, high, step or log")
            return self
        if self.choices is not None:
            raise ValueError(f"choices belong to type categorical, not {self.type}")
        if self.low is None or self.high is None:
            raise ValueError(f"type {self.type} needs low and high")
        if self.low > self.high:
            raise ValueError(f"low = {self.low:g} exceeds high = {self.high:g}: swap the bounds")
        if self.logarithmic:
            if self.low <= 0:
                raise ValueError(f"low = {self.low:g}: must be > 0 on a logarithmic scale")
            if self.step is not None:
                raise ValueError("step and a logarithmic scale exclude each other; use categorical choices")
        if self.type == "int":
            for name in ("low", "high", "step"):
                value = getattr(self, name)
                if value is not None and not float(value).is_integer():
                    raise ValueError(f"{name} = {value:g}: must be an integer for type int")
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
                raise ValueError(f"high = {self.high:g}: must be low + a whole number of steps of {self.step:g}")
        return self

    @property
    def logarithmic(self) -> bool:
        """Whether sampling is logarithmic."""
        return self.log or self.type == "log"


class Objective(Record):
    """One quantity to optimise."""

    name: str = Field(description="A metric, or the path of a numeric parameter.")
    direction: Literal["maximize", "minimize"]


class Constraint(Record):
    """One limit a design must keep."""

    name: str = Field(description="A metric, or the path of a numeric parameter.")
    op: Literal[">=", "<="]
    bound: FiniteFloat = Field(description="The limit, in `unit`.")
    unit: str | None = Field(None, description="Unit of the bound, for example GB/s; null: the metric's own.")

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        unit_factor(self.name, self.unit)
        return self

    @property
    def limit(self) -> float:
        """The bound in the metric's own unit."""
        return self.bound * unit_factor(self.name, self.unit)

    def __str__(self) -> str:
        return f"{self.name} {self.op} {self.bound:g}{' ' + self.unit if self.unit else ''}"


def _parse_schedule(value: object) -> object:
    """Read a label such as ``p4:4>3@40`` (prefill 4; decode 4, from step 40 on 3)."""
    return Schedule.from_label(value) if isinstance(value, str) else value


ScheduleLabel = Annotated[Schedule, BeforeValidator(_parse_schedule)]


class StudyConfig(Record):
    """A study: designs are an NPU configuration together with a precision schedule."""

    schema_version: Literal["1.0"] = "1.0"
    name: str = Field("study", min_length=1, description="For titles and progress bars.")
    workloads: tuple[Workload, ...] = Field(min_length=1)
    aggregate: Literal["weighted", "worst"] = Field(
        "weighted", description="Several workloads count by weight, or by the worst of them for each metric."
    )
    npu: str = Field(description="NPU by name, or the path of its YAML file; parameters change it.")
    mode: Literal["realistic", "pmpd-analytic"] = Field("realistic", description="Modelling mode.")
    engine: Literal["events", "fast"] = Field("events", description="Simulation engine; both give the same cycles.")
    quality: Paths = Field(
        (), description="Quality files; the schedules they measured are the ones explored (never interpolated)."
    )
    quality_metric: str | None = Field(None, description="Which metric, where the files hold several.")
    schedules: tuple[ScheduleLabel, ...] | None = Field(
        None,
        min_length=1,
        description="Schedules to explore, written like p4:4>3@40; null: all that the quality files measured.",
    )
    parameters: dict[str, Parameter] = Field(
        default_factory=dict, description="NPU fields by dotted path, for example memory.bandwidth_bytes_per_s."
    )
    objectives: tuple[Objective, ...] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = ()
    budget: int = Field(100, ge=1, description="Designs to simulate; may be raised when a run is resumed.")
    batch_size: int = Field(1, ge=1, description="Designs suggested together before any of them is known.")
    seed: int = Field(0, ge=0)
    sampler: Literal["auto", "exact", "random", "tpe", "nsga2", "gp"] = Field(
        "auto",
        description="auto: every design where the budget covers them all; else exact (bounds choose and prune) where "
        "the space is enumerable; else tpe, or nsga2 beyond a budget of 1000. gp needs torch and scipy.",
    )
    reference_point: dict[str, FiniteFloat] | None = Field(
        None, description="Worst acceptable value of every objective, for the hypervolume; null: worst found."
    )

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        names = [objective.name for objective in objectives]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"objective '{name}' appears twice")
        return objectives

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for kind, items in (("objective", self.objectives), ("constraint", self.constraints)):
            for item in items:
                check_metric_name(kind, item.name, self.numeric_parameters())
        listed: list[str] = []
        for path, parameter in self.parameters.items():
            for parent in parameter.when or {}:
                if parent not in listed and not parent.startswith("schedule."):
                    raise ValueError(f"parameters.{path}.when names '{parent}', which is not listed above it")
            listed.append(path)
        if self.reference_point is not None:
            wanted = {objective.name for objective in self.objectives}
            if set(self.reference_point) != wanted:
                raise ValueError(f"reference_point must give exactly the objectives: {', '.join(sorted(wanted))}")
        if not self.quality and not self.schedules and any(load.trace is None for load in self.workloads):
            raise ValueError("needs quality files or schedules: a workload without a trace has no precision")
        return self

    def numeric_parameters(self) -> list[str]:
        """Parameters every design has and whose values are numbers: usable as objective or constraint."""
        return [
            path
            for path, parameter in self.parameters.items()
            if parameter.when is None and all(isinstance(choice, int | float) for choice in parameter.choices or ())
        ]

    def resolve_paths(self, folder: Path) -> StudyConfig:
        """Make relative paths that exist below ``folder`` (the study file's) absolute; names stay names."""

        def resolve(text: str) -> str:
            path = folder / text
            return str(path.resolve()) if path.exists() and ("/" in text or path.suffix) else text

        def missing_ok(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(str((folder / path).resolve()) for path in paths)

        workloads = tuple(
            load.model_copy(
                update={
                    "model": None if load.model is None else resolve(load.model),
                    "trace": None if load.trace is None else missing_ok(load.trace),
                }
            )
            for load in self.workloads
        )
        update = {"workloads": workloads, "npu": resolve(self.npu), "quality": missing_ok(self.quality)}
        return self.model_copy(update=update)


_SECTIONS: dict[str, type[BaseModel]] = {
    "workloads": Workload,
    "parameters": Parameter,
    "objectives": Objective,
    "constraints": Constraint,
}


def parse_study(value: object, source: str) -> StudyConfig:
    """Check a parsed study file.

    Args:
        value: What the YAML held.
        source: Name for errors.

    Raises:
        InputError: If a field is unknown (with the nearest name), missing or out of bounds.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{source}: a study file is a mapping of fields, for example 'workloads: ...'")
    try:
        return StudyConfig.model_validate(value)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden":
            place = first["loc"]
            record = _SECTIONS.get(str(place[0]), StudyConfig) if len(place) > 1 else StudyConfig
            where = ".".join(str(part) for part in place[:-1])
            kind = f"field in {source}" + (f" below {where}" if where else "")
            raise unknown_name(kind, str(place[-1]), record.model_fields) from None
        raise from_validation(error, source) from None


def read_study(path: Path | str) -> StudyConfig:
    """Read and check a study file; its relative paths start at its own folder.

    Raises:
        InputError: If the file is missing, not YAML, or breaks the contract.
    """
    source = Path(path)
    try:
        value = yaml.safe_load(read_text(source))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{source}{line}: not YAML ({getattr(error, 'problem', 'unreadable')})") from None
    return parse_study(value, str(source)).resolve_paths(source.parent)
