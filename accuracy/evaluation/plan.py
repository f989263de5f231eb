"""What an evaluation will measure, checked before anything runs, and the settings that a run's folder belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from accuracy.decoding import Prompt, Sampling
from accuracy.evaluation.arithmetic import arithmetic
from accuracy.metrics import Metric, get_metric
from accuracy.schedulers import Scheduler, StaticScheduler
from accuracy.tasks import Example, Task
from accuracy.tasks.base import Split
from hwsim.trace import FULL_PRECISION_BITS, InputError, Schedule, canonical_sha256, read_json, write_json

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

SETTINGS_FILE = "evaluation.json"
FULL_PRECISION = StaticScheduler(Schedule.uniform(FULL_PRECISION_BITS))


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that is fixed before the first prompt is decoded.

    Attributes:
        lm: The model.
        task: Where the prompts come from.
        split: Which split of it.
        examples: The examples, in the task's order.
        schedulers: What is measured, labels all different.
        metrics: What is measured of it.
        seed: Of the bootstrap.
        batch_size: Prompts decoded together.
        forced_tokens: Response length by prompt id; None where EOS decides.
        sampling: How tokens are drawn; None where decoding is greedy.
        threads: Threads of one matrix product, where the model runs on a CPU.
        graphs: Whether decode steps are fused, and captured on a GPU (:mod:`accuracy.decoding.graphs`).
    """

    lm: LanguageModel
    task: Task
    split: Split
    examples: list[Example]
    schedulers: list[Scheduler]
    metrics: list[Metric]
    seed: int
    batch_size: int
    forced_tokens: Mapping[str, int] | None
    sampling: Sampling | None
    threads: int
    graphs: bool = False

    @property
    def groups(self) -> list[str] | None:
        """What is resampled together: an example's turns; None where each prompt stands for itself."""
        turns = self.task.turns
        return None if turns == 1 else [example.id for example in self.examples for _ in range(turns)]

    @property
    def arithmetic(self) -> dict[str, Any]:
        """Everything outside the weights that decides the last bits of a logit; responses are kept for it alone."""
        found = arithmetic(self.lm, self.threads)
        if self.graphs:
            on_gpu = next(self.lm.model.parameters()).is_cuda
            found["execution"] = f"fused steps, {'in CUDA graphs' if on_gpu else 'without graphs'}"
        return found

    @property
    def needs_full_precision(self) -> bool:
        """Whether a metric compares with the full-precision responses."""
        return any(metric.reference == "full-precision" for metric in self.metrics)

    @property
    def decoding(self) -> str:
        """How tokens are chosen, for records."""
        chosen = "greedy" if self.sampling is None else sampling_text(self.sampling)
        return chosen + (", lengths forced" if self.forced_tokens is not None else "")

    def prompt(self, example: Example, text: str, turn: int = 0) -> Prompt:
        """Encode the prompt of a turn, as it is measured."""
        tokens = tuple(self.task.encode(self.lm.tokenizer, text))
        name = prompt_id(self.task, example, turn)
        if self.forced_tokens is None:
            return Prompt(name, tokens, self.task.max_new_tokens)
        if name not in self.forced_tokens:
            raise InputError(f"forced_tokens: no length for prompt '{name}'; give one for every prompt of the split")
        length = self.forced_tokens[name]
        return Prompt(name, tokens, max_new_tokens=length, min_new_tokens=length)


def sampling_text(sampling: Sampling) -> str:
    """How tokens are drawn, for records.

    >>> sampling_text(Sampling(temperature=0.7, top_p=0.9))
    'sampled: temperature 0.7, top-p 0.9, seed 0'
    """
    parts = [f"temperature {sampling.temperature:g}"]
    parts += [f"top-k {sampling.top_k}"] if sampling.top_k is not None else []
    parts += [f"top-p {sampling.top_p:g}"] if sampling.top_p is not None else []
    return f"sampled: {', '.join(parts)}, seed {sampling.seed}"


def prompt_id(task: Task, example: Example, turn: int) -> str:
    """Name of one turn's prompt: the example's, with the turn where there are several."""
    return example.id if task.turns == 1 else f"{example.id}#{turn + 1}"


def scheduler_sha256(scheduler: Scheduler) -> str:
    """Hash of what decides a scheduler's plans."""
    return canonical_sha256(scheduler.identity())


def distinct_schedulers(schedulers: Iterable[Schedule | Scheduler]) -> list[Scheduler]:
    """The schedulers meant, a schedule being the static one; equal ones count once.

    Raises:
        InputError: If there is none, or two that differ have one label.
    """
    found: dict[str, Scheduler] = {}
    for given in schedulers:
        scheduler = StaticScheduler(given) if isinstance(given, Schedule) else given
        before = found.setdefault(scheduler.label, scheduler)
        if before.identity() != scheduler.identity():
            raise InputError(
                f"schedulers: two that differ are labelled '{scheduler.label}'; results are kept by label, "
                "so measure one of them, or give each its own label"
            )
    if not found:
        raise InputError("schedulers: none given; an evaluation needs at least 1")
    return list(found.values())


def make_plan(
    lm: LanguageModel,
    task: Task,
    schedulers: Iterable[Schedule | Scheduler],
    *,
    split: str,
    limit: int | None = None,
    metrics: Sequence[str | Metric] = (),
    seed: int = 0,
    batch_size: int = 1,
    forced_tokens: Mapping[str, int] | None = None,
    sampling: Sampling | None = None,
    workers: int | str | None = None,
) -> EvaluationPlan:
    """Check what was asked for; see :func:`accuracy.evaluation.evaluate`."""
    chosen = distinct_schedulers(schedulers)
    measured = chosen_metrics(metrics)
    for metric in measured:
        if metric.reference == "gold" and not task.has_references:
            raise InputError(
                f"metric '{metric.name}': task '{task.name}' has no references; use {', '.join(task.metrics)}"
            )
    return EvaluationPlan(
        lm=lm,
        task=task,
        split=cast("Split", split),
        examples=task.examples(split, limit),
        schedulers=chosen,
        metrics=measured,
        seed=seed,
        batch_size=batch_size,
        forced_tokens=forced_tokens,
        sampling=sampling,
        threads=1 if isinstance(workers, int) else torch.get_num_threads(),
    )


def chosen_metrics(metrics: Iterable[str | Metric]) -> list[Metric]:
    """The metrics meant, a name being the metric with its usual options; equal names count once.

    Raises:
        InputError: If a name is unknown, or two metrics of one name differ.
    """
    found: dict[str, Metric] = {}
    for given in metrics:
        metric = get_metric(given) if isinstance(given, str) else given
        before = found.setdefault(metric.name, metric)
        if before is not metric and before.identity() != metric.identity():
            raise InputError(f"metrics: two that differ are named '{metric.name}'; measure one of them at a time")
    return list(found.values())


def plan_settings(plan: EvaluationPlan, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What decides the result; a folder belongs to one such set.

    Args:
        plan: The plan.
        prompts: The first turn's.
    """
    return {
        "schema_version": "1.1",
        "model": plan.lm.name,
        "model_sha256": plan.lm.model_sha256,
        "store_sha256": plan.lm.store_sha256,
        "arithmetic": plan.arithmetic,
        "task": plan.task.name,
        "task_version": plan.task.version,
        "split": plan.split,
        "prompts": len(prompts),
        "prompts_sha256": canonical_sha256([prompt.token_ids for prompt in prompts]),
        "turns": plan.task.turns,
        "max_new_tokens": plan.task.max_new_tokens,
        "decoding": plan.decoding,
        "sampling": None if plan.sampling is None else asdict(plan.sampling),
        "forced_tokens_sha256": (
            None if plan.forced_tokens is None else canonical_sha256(dict(sorted(plan.forced_tokens.items())))
        ),
        "metrics": {metric.name: metric.identity() for metric in plan.metrics},
        "schedulers": {scheduler.label: scheduler_sha256(scheduler) for scheduler in plan.schedulers},
        "seed": plan.seed,
        "batch_size": plan.batch_size,
    }


def claim_folder(folder: Path, settings: dict[str, Any], name: str = SETTINGS_FILE) -> None:
    """Begin a run in ``folder``, whose file ``name`` says of what, or make sure that its run has the same settings."""
    path = folder / name
    if not path.exists():
        write_json(path, settings)
        return
    found = read_json(path)
    difference = _difference(found, settings)
    if difference:
        raise InputError(
            f"{folder}: holds a run with {difference}; use the same settings, choose another folder, or remove this one"
        )


def _difference(found: object, settings: dict[str, Any], where: str = "") -> str:
    """The first setting that differs, with both values; empty where all agree."""
    known = found if isinstance(found, dict) else {}
    for key in [*settings, *(key for key in known if key not in settings)]:
        was, now, name = known.get(key), settings.get(key), f"{where}{key}"
        if was != now and isinstance(was, dict) and isinstance(now, dict):
            if list(was) != list(now):
                return f"{name} = {_short(', '.join(was))}, now {_short(', '.join(now))}"
            return _difference(was, now, f"{name}: ")
        if was != now:
            return f"{name} = {_short(was)}, now {_short(now)}"
    return ""


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
