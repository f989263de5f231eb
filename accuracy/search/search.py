"""Search a set of schedules for the first, in the order of choice, that keeps a quality on a task; resumable."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from accuracy.decoding import Decoder, Prompt
from accuracy.evaluation.answers import Answers
from accuracy.evaluation.arithmetic import device_name
from accuracy.evaluation.plan import EvaluationPlan, claim_folder, make_plan, plan_settings
from accuracy.evaluation.run import RESPONSES_FILE
from accuracy.evaluation.store import ResponseStore
from accuracy.metrics import Metric
from accuracy.precision import PrecisionSwitch
from accuracy.search.race import Race
from accuracy.search.selection import Selection, Target
from accuracy.tasks import Task
from hwsim.trace import InputError, Schedule, collect_provenance, write_json

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

SETTINGS_FILE = "search.json"


@dataclass(frozen=True)
class SearchSettings:
    """How a search is run.

    Attributes:
        split: ``calib`` or ``val``; reported numbers come from ``test`` (design decision 8).
        metric: A metric or its name; the task's first by default.
        limit: The first so many prompts of the split; all by default.
        seed: Of the bootstrap, and of the order of batches.
        batch_size: Prompts decoded together.
        drop_early: Drop schedules that can no longer keep the quality, whatever the remaining prompts bring.
        approximate: Also drop those that are unlikely to, by the 95% interval over the prompts so far; a schedule
            that keeps the quality may then be missed.
        out: The result, a .json file. The folder ``<name>.run`` beside it keeps the responses, from which an
            interrupted search goes on.
        cache: File of responses shared between searches and evaluations; the search's own by default.
        progress: Show a progress bar.
        switch: How the width is set, where the model is not one of any-precision layers.
    """

    split: str = "val"
    metric: str | Metric | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32
    drop_early: bool = True
    approximate: bool = False
    out: Path | str | None = None
    cache: Path | str | None = None
    progress: bool = True
    switch: PrecisionSwitch | None = None

    def __post_init__(self) -> None:
        if self.split == "test":
            raise InputError("split = test: is kept for what is reported; choose schedules on calib or val")
        if self.out is not None and Path(self.out).suffix != ".json":
            raise InputError(f"out = {self.out}: must end in .json")


def search(
    lm: LanguageModel,
    task: Task,
    schedules: Sequence[Schedule],
    target: Target,
    settings: SearchSettings,
    *,
    kind: Literal["allocation", "solution"],
    widths: Sequence[int],
    points: int | None = None,
) -> Selection:
    """Find the first schedule in the order of choice that keeps the quality.

    Args:
        lm: The model.
        task: Where prompts and references come from.
        schedules: The candidates.
        target: The quality to keep.
        settings: How to search.
        kind: What the result is called.
        widths: The precision set, for the record.
        points: Number of candidate switch points, for the record.

    Raises:
        InputError: If a width is not stored, the task, split or metric cannot be used, the reference scores 0, or
            an interrupted search with other settings lies beside ``settings.out``; finished batches are kept.
    """
    if task.turns > 1:
        raise InputError(f"task '{task.name}': has {task.turns} turns; a schedule is chosen on tasks of one turn")
    plan = make_plan(
        lm,
        task,
        schedules,
        split=settings.split,
        limit=settings.limit,
        metrics=[task.metrics[0] if settings.metric is None else settings.metric],
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    (metric,) = plan.metrics
    prompts = [plan.prompt(example, example.prompt) for example in plan.examples]
    decoder = Decoder(lm, settings.switch)
    decoder.check(prompts, plan.schedulers)
    reference = target.reference if isinstance(target.reference, Schedule) else None
    if reference is not None and not reference.widths() <= {*decoder.widths}:
        raise InputError(
            f"reference {reference.label()}: not all of its widths are stored "
            f"({', '.join(map(str, decoder.widths))}); give another reference, or a store that keeps them"
        )
    with _answers(plan, prompts, decoder, target, settings) as (answers, bar):
        race = Race(
            answers,
            prompts,
            [example.reference or "" for example in plan.examples],
            metric,
            target,
            schedules,
            batch_size=settings.batch_size,
            seed=settings.seed,
            drop_early=settings.drop_early,
            approximate=settings.approximate,
            bar=bar,
        )
        race.run()
    selection = Selection(
        kind=kind,
        model_name=lm.name,
        model_sha256=lm.model_sha256,
        store_sha256=lm.store_sha256,
        task=task.name,
        task_version=task.version,
        split=plan.split,
        n=len(prompts),
        max_new_tokens=task.max_new_tokens,
        widths=tuple(sorted(widths, reverse=True)),
        points=points,
        metric=metric.name,
        metric_description=metric.description,
        direction=metric.direction,
        reference=reference,
        reference_value=race.reference_value,
        tolerance=target.tolerance,
        criterion=target.criterion,
        required_value=race.required_value,
        seed=settings.seed,
        batch_size=settings.batch_size,
        approximate=settings.approximate,
        chosen=race.chosen,
        nearest=race.nearest,
        responses=race.responses,
        responses_dropped=race.responses_dropped,
        decode_steps=race.decode_steps,
        decode_steps_run=race.decode_steps_run,
        steps_saved=1 - race.decode_steps_run / race.decode_steps if race.decode_steps else 0.0,
        candidates=tuple(race.candidates()),
        provenance=collect_provenance(
            device=device_name(lm), dtype=lm.model.dtype, threads=plan.threads, seed=settings.seed
        ),
    )
    if settings.out is not None:
        write_json(settings.out, selection.model_dump(mode="json"))
    return selection


@contextmanager
def _answers(
    plan: EvaluationPlan, prompts: Sequence[Prompt], decoder: Decoder, target: Target, settings: SearchSettings
) -> Iterator[tuple[Answers, tqdm[Any]]]:
    """A source of responses that keeps them in the folder beside the result, claimed for these settings."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if settings.out is None else Path(settings.out).with_suffix(".run")
        try:
            claim_folder(folder, _claim(plan, prompts, target, settings), SETTINGS_FILE)
            with (
                ResponseStore(Path(settings.cache) if settings.cache else folder / RESPONSES_FILE) as store,
                tqdm(desc="decode", unit="response", disable=not settings.progress) as bar,
            ):
                yield Answers(plan, decoder, store, bar), bar
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); finished batches are kept") from None


def _claim(plan: EvaluationPlan, prompts: Sequence[Prompt], target: Target, settings: SearchSettings) -> dict[str, Any]:
    """What decides the result; a folder belongs to one such set."""
    reference = target.reference
    return {
        **plan_settings(plan, prompts),
        "reference": reference.label() if isinstance(reference, Schedule) else reference,
        "tolerance": target.tolerance,
        "criterion": target.criterion,
        "drop_early": settings.drop_early,
        "approximate": settings.approximate,
    }
