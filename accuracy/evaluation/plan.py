"""What an evaluation will measure, checked before anything runs, and the settings that a run's folder belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from accuracy.decoding import Prompt
from accuracy.metrics import Metric, get_metric
from accuracy.tasks import Example, Task
from hwsim.trace import FULL_PRECISION_BITS, InputError, Schedule, canonical_sha256, read_json, write_json

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

SETTINGS_FILE = "evaluation.json"
FULL_PRECISION = Schedule.uniform(FULL_PRECISION_BITS)


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that is fixed before the first prompt is decoded.

    Attributes:
        lm: The model.
        task: Where the prompts come from.
        split: Which split of it.
        examples: The examples, in the task's order.
        prompts: The same as tokens.
        reported: The schedules asked for, each once.
        decoded: The same, and full precision where a metric compares with it.
        metrics: What is measured.
        seed: Of the bootstrap.
        batch_size: Prompts decoded together.
    """

    lm: LanguageModel
    task: Task
    split: Literal["calib", "val", "test"]
    examples: list[Example]
    prompts: list[Prompt]
    reported: list[Schedule]
    decoded: list[Schedule]
    metrics: list[Metric]
    seed: int
    batch_size: int


def make_plan(
    lm: LanguageModel,
    task: Task,
    schedules: Iterable[Schedule],
    split: str,
    limit: int | None,
    metric_names: Sequence[str] | None,
    seed: int,
    batch_size: int,
) -> EvaluationPlan:
    """Check what was asked for and encode the prompts; see :func:`accuracy.evaluation.evaluate`."""
    reported = list({schedule.sha256(): schedule for schedule in schedules}.values())
    if not reported:
        raise InputError("schedules: none given; an evaluation needs at least 1")
    metrics = [get_metric(name) for name in dict.fromkeys(metric_names or task.metrics)]
    for metric in metrics:
        if metric.reference == "gold" and not task.has_references:
            raise InputError(
                f"metric '{metric.name}': task '{task.name}' has no references; use {', '.join(task.metrics)}"
            )
    decoded = list(reported)
    if any(metric.reference == "full-precision" for metric in metrics) and FULL_PRECISION not in decoded:
        decoded.append(FULL_PRECISION)
    examples = task.examples(split, limit)
    prompts = [
        Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), task.max_new_tokens)
        for example in examples
    ]
    checked = cast("Literal['calib', 'val', 'test']", split)
    return EvaluationPlan(lm, task, checked, examples, prompts, reported, decoded, metrics, seed, batch_size)


def plan_settings(plan: EvaluationPlan) -> dict[str, Any]:
    """What decides the result; a folder belongs to one such set."""
    return {
        "schema_version": "1.0",
        "model": plan.lm.name,
        "model_sha256": plan.lm.model_sha256,
        "store_sha256": plan.lm.store_sha256,
        "dtype": str(plan.lm.model.dtype),
        "task": plan.task.name,
        "task_version": plan.task.version,
        "split": plan.split,
        "prompts": len(plan.prompts),
        "prompts_sha256": canonical_sha256([prompt.token_ids for prompt in plan.prompts]),
        "max_new_tokens": plan.task.max_new_tokens,
        "metrics": [metric.name for metric in plan.metrics],
        "schedules": [schedule.label() for schedule in plan.reported],
        "seed": plan.seed,
        "batch_size": plan.batch_size,
    }


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Begin a run in ``folder``, or make sure that the run in it has the same settings."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        write_json(path, settings)
        return
    found = read_json(path)
    for key, value in settings.items():
        if not isinstance(found, dict) or found.get(key) != value:
            was = found.get(key) if isinstance(found, dict) else found
            raise InputError(
                f"{folder}: holds a run with {key} = {_short(was)}, now {_short(value)}; "
                "use the same settings, choose another folder, or remove this one"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
