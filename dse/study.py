"""The study file: what is explored, judged by what, within which limits (the Study contract)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BeforeValidator, Field, FiniteFloat, JsonValue, ValidationError, field_validator, model_validator

from dse.objective import QUALITY_METRICS, check_metric_name, unit_factor
from dse.parameters import Parameter, as_tuple, number
from dse.schedule_space import ScheduleSpace, parse_schedule, unique
from hwsim.trace import InputError, Record, Schedule, from_validation, read_text, unknown_name

__all__ = [
    "Constraint",
    "LiveQuality",
    "Objective",
    "Parameter",
    "ScheduleSpace",
    "StudyConfig",
    "WantedInterpolation",
    "Workload",
    "parse_study",
    "read_study",
]

Paths = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Value = Annotated[JsonValue, BeforeValidator(number)]

PUBLISHED_PREFIX = "published:"
"""Before the name of a quality file that is shipped in ``dse/published``."""

COMMAND_PLACES = ("schedule", "schedule_file", "out", "model", "task", "here")
"""What ``{...}`` may name in the command of :class:`LiveQuality`."""


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


class Objective(Record):
    """One quantity to optimise."""

    name: str = Field(description="A metric, or the path of a numeric parameter.")
    direction: Literal["maximize", "minimize"] = Field(description="Which way is better.")


class Constraint(Record):
    """One limit a design must keep."""

    name: str = Field(description="A metric, or the path of a numeric parameter.")
    op: Literal[">=", "<="] = Field(description="On which side of the bound; equality keeps it.")
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


class WantedInterpolation(Record):
    """What a study wants of schedules between measured ones. How they are found is for each quality file to say."""

    method: Literal["linear-in-bits", "none"] = Field(
        description="A method: every quality file must say this one. none, also written interpolation: none: such "
        "schedules are left out, whatever the files say."
    )


def _in_words(value: object) -> object:
    return {"method": value} if value == "none" else value


class LiveQuality(Record):
    """A command that measures a schedule when a design first needs it; runs only with ``--allow-command``."""

    command: tuple[str, ...] = Field(
        min_length=1,
        description="Program and arguments, no shell. {schedule} becomes a label such as p4:4>3@40, {schedule_file} a "
        "schedule file, {out} a folder in which the command leaves quality.json, {model} and {task} the workload's, "
        "{here} the study file's folder.",
    )
    timeout_s: FiniteFloat = Field(3600, gt=0, description="After which the command counts as failed.")

    @field_validator("command")
    @classmethod
    def _check_places(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        named = [name for part in command for name in re.findall(r"{(\w*)}", part)]
        for name in named:
            if name not in COMMAND_PLACES:
                raise ValueError(str(unknown_name("place in the command", name, COMMAND_PLACES)))
        if not {"schedule", "schedule_file"} & set(named):
            raise ValueError("needs {schedule} or {schedule_file}, or every schedule would be measured as the same")
        if "out" not in named:
            raise ValueError("needs {out}, the folder in which it leaves quality.json")
        return command


ScheduleLabel = Annotated[Schedule, BeforeValidator(parse_schedule)]


class StudyConfig(Record):
    """A study: designs are an NPU configuration together with a precision schedule."""

    schema_version: Literal["1.0"] = Field("1.0", description="Form of the file.")
    name: str = Field("study", min_length=1, description="For titles and progress bars.")
    workloads: tuple[Workload, ...] = Field(min_length=1, description="What runs.")
    aggregate: Literal["weighted", "worst"] = Field(
        "weighted", description="Several workloads count by weight, or by the worst of them for each metric."
    )
    npu: str = Field(description="NPU by name, or the path of its YAML file; parameters change it.")
    mode: Literal["realistic", "pmpd-analytic"] = Field("realistic", description="Modelling mode.")
    engine: Literal["events", "fast"] = Field(
        "fast", description="Simulation engine; both give the same cycles, and events confirms what fast found."
    )
    confirmations: int | None = Field(
        None,
        ge=0,
        description="How many designs of an exact front, and how many pruned ones, the other engine simulates again; "
        "null: 20 of each.",
    )
    quality: Paths = Field(
        (), description="Quality files, or published:NAME for a shipped table of published numbers (quoted, labelled)."
    )
    quality_metric: str | None = Field(None, description="Which metric, where the files hold several.")
    quality_reference: Literal["full-precision", "high-precision"] = Field(
        "full-precision",
        description="What relative quality relates to: unquantised weights, or the widest uniform schedule that the "
        "files hold (a published table may print no other); rows say which.",
    )
    interpolation: Annotated[WantedInterpolation | None, BeforeValidator(_in_words)] = Field(
        None,
        description="Quality of schedules that no file measured, between those that one did; null: as the quality "
        "files say, if they do.",
    )
    live_quality: LiveQuality | None = Field(
        None, description="Command that measures the schedules which no file does, when a design needs them."
    )
    schedules: tuple[ScheduleLabel, ...] | None = Field(
        None,
        min_length=1,
        description="Schedules to explore, written like p4:4>3@40; without these and schedule_space: all that the "
        "quality files measured, and the plans that traces recorded.",
    )
    schedule_space: ScheduleSpace | None = Field(
        None, description="Schedules to explore, told by widths and switch points, besides those listed."
    )
    parameters: dict[str, Parameter] = Field(
        default_factory=dict, description="NPU fields by dotted path, for example memory.bandwidth_bytes_per_s."
    )
    objectives: tuple[Objective, ...] = Field(min_length=1, description="What makes one design better than another.")
    constraints: tuple[Constraint, ...] = Field((), description="Limits that a design must keep.")
    budget: int | None = Field(
        None,
        ge=1,
        description="Designs to simulate; may be raised when a run is resumed. null: 100 where the space is sampled, "
        "no limit where it is enumerated.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Designs suggested together before any of them is known; null: as the sampler works best.",
    )
    seed: int = Field(0, ge=0, description="Same seed, same trials.")
    sampler: Literal["auto", "exact", "random", "tpe", "nsga2", "nsga3", "gp", "screened"] = Field(
        "auto",
        description="auto: every design where the budget covers them; without a budget exact (every design is bounded, "
        "pruned or simulated) where the space can be enumerated; else screened (bounds, then short traces choose what "
        "is simulated in full), or gp where quality is measured live. gp needs torch and scipy.",
    )
    start: tuple[dict[str, Value], ...] = Field(
        (),
        description="Designs to simulate first, each with a value for every parameter that acts in it and the label of "
        "its schedule, for example {memory.bandwidth_bytes_per_s: 16e9, schedule: p4:4>3@40}.",
    )
    reference_point: dict[str, FiniteFloat] | None = Field(
        None, description="Worst acceptable value of every objective, for the hypervolume; null: worst found."
    )

    @field_validator("schedules")
    @classmethod
    def _check_schedules(cls, schedules: tuple[Schedule, ...] | None) -> tuple[Schedule, ...] | None:
        return None if schedules is None else unique(schedules)

    @field_validator("constraints")
    @classmethod
    def _check_constraints(cls, constraints: tuple[Constraint, ...]) -> tuple[Constraint, ...]:
        for index, limit in enumerate(constraints):
            for other in constraints[:index]:
                if (limit.name, limit.op) == (other.name, other.op):
                    raise ValueError(f"{other} and {limit} bound the same side of one quantity: keep the tighter one")
                low, high = sorted((limit, other), key=lambda item: item.op, reverse=True)
                if limit.name == other.name and low.limit > high.limit:
                    raise ValueError(f"{low} and {high} exclude each other: no value keeps both; swap the bounds")
        return constraints

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
        told = self.schedules or self.schedule_space
        if not self.quality and not told and any(load.trace is None for load in self.workloads):
            raise ValueError(
                "needs quality files, schedules or schedule_space: a workload without a trace has no precision"
            )
        named = {item.name for item in self.named()}
        if self.live_quality is not None and not told:
            raise ValueError("live_quality needs schedules or schedule_space: what it is to measure")
        if self.live_quality is not None and named.isdisjoint(QUALITY_METRICS):
            raise ValueError("live_quality: no objective or constraint asks for quality; leave it out")
        if self.interpolation is not None and self.interpolation.method != "none" and not (self.quality and told):
            raise ValueError(
                "interpolation needs quality files to interpolate between, and schedules or schedule_space for which"
            )
        return self

    def named(self) -> tuple[Objective | Constraint, ...]:
        """Objectives and constraints: what names a metric or a parameter."""
        return (*self.objectives, *self.constraints)

    def numeric_parameters(self) -> list[str]:
        """Parameters whose values are numbers: usable as objective or constraint.

        Where one is inactive, the NPU file's value counts.
        """
        return [path for path, parameter in self.parameters.items() if parameter.numeric]

    def resolve_paths(self, folder: Path) -> StudyConfig:
        """Make relative paths that exist below ``folder`` (the study file's) absolute; names stay names."""

        def resolve(text: str) -> str:
            path = folder / text
            return str(path.resolve()) if path.exists() and ("/" in text or path.suffix) else text

        def missing_ok(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(
                path if path.startswith(PUBLISHED_PREFIX) else str((folder / path).resolve()) for path in paths
            )

        workloads = tuple(
            load.model_copy(
                update={
                    "model": None if load.model is None else resolve(load.model),
                    "trace": None if load.trace is None else missing_ok(load.trace),
                }
            )
            for load in self.workloads
        )
        update: dict[str, Any] = {
            "workloads": workloads,
            "npu": resolve(self.npu),
            "quality": missing_ok(self.quality),
        }
        if self.live_quality is not None:
            command = tuple(part.replace("{here}", str(folder.resolve())) for part in self.live_quality.command)
            update["live_quality"] = self.live_quality.model_copy(update={"command": command})
        return self.model_copy(update=update)


def _record_at(place: tuple[int | str, ...]) -> tuple[type[Record], str]:
    """The record class at a place of the file, and the place as the file's author sees it."""
    record: type[Record] = StudyConfig
    shown: list[str] = []
    in_mapping = False
    for part in place:
        field = record.model_fields.get(str(part))
        if field is None:
            # An index, a name in a mapping of records, or pydantic's name for a branch of a union.
            shown += [str(part)] if isinstance(part, int) or in_mapping else []
            in_mapping = False
            continue
        shown.append(str(part))
        found = _records_in(field.annotation)
        record = found[0] if found else record
        in_mapping = getattr(field.annotation, "__origin__", None) is dict
    return record, ".".join(shown)


def _records_in(annotation: Any) -> list[type[Record]]:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records_in(part)]


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
        # An unknown name comes first: it may explain what is missing.
        for problem in error.errors(include_url=False):
            if problem["type"] == "extra_forbidden":
                *place, name = problem["loc"]
                record, where = _record_at(tuple(place))
                kind = f"field in {source}" + (f" below {where}" if where else "")
                raise unknown_name(kind, str(name), record.model_fields) from None
        raise from_validation(error, source) from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping holds twice; YAML itself would forget the first value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key.value}' appears twice in one mapping; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_study(path: Path | str) -> StudyConfig:
    """Read and check a study file; its relative paths start at its own folder.

    Raises:
        InputError: If the file is missing, not YAML, or breaks the contract.
    """
    source = Path(path)
    try:
        value = yaml.load(read_text(source), _UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{source}{line}: not YAML ({getattr(error, 'problem', 'unreadable')})") from None
    return parse_study(value, str(source)).resolve_paths(source.parent)
