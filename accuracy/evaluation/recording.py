"""Record a trace: responses of one scheduler, at batch size 1 with the measured time of every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from accuracy.decoding import Response, Sampling
from accuracy.decoding.graphs import graph_obstacle
from accuracy.evaluation.decode import decode_plan
from accuracy.evaluation.plan import SETTINGS_FILE, EvaluationPlan, make_plan
from accuracy.evaluation.store import writing
from accuracy.evaluation.traces import plan_provenance, write_responses
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import Scheduler
from accuracy.tasks import Example, Task
from accuracy.tasks.base import Split
from hwsim.trace import InputError, Schedule

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

RESPONSES_FILE = "responses.jsonl"


class PromptTask(Task):
    """One prompt, given as text, in every split."""

    name = "prompt"
    version = "1"
    has_references = False

    def __init__(self, prompt: str, max_new_tokens: int) -> None:
        """Wrap the prompt.

        Raises:
            InputError: If it is empty.
        """
        if not prompt.strip():
            raise InputError("prompt: empty; give at least one word")
        self._prompt, self.max_new_tokens = prompt, max_new_tokens

    def _stream(self, split: Split) -> Iterable[Example]:
        return [Example("prompt", self._prompt, None)]


def record_trace(
    lm: LanguageModel,
    task: Task,
    scheduler: Schedule | Scheduler,
    path: Path | str,
    *,
    split: str,
    limit: int | None = None,
    batch_size: int = 1,
    progress: bool = True,
    switch: PrecisionSwitch | None = None,
    sampling: Sampling | None = None,
    workers: int | str | None = None,
    graphs: bool | None = None,
) -> list[Response]:
    """Decode a split under a scheduler and write its trace.

    Until the trace is there, a folder ``<path>.part`` keeps what is finished: a run that was stopped goes on from it.

    Args:
        lm: The model.
        task: Where the prompts come from.
        scheduler: What to run them under; a schedule means the static scheduler.
        path: The trace.
        split: ``calib``, ``val`` or ``test``.
        limit: The first so many prompts of the split; all by default.
        batch_size: Prompts decoded together. Only at 1 are times measured.
        progress: Show a progress bar.
        switch: As :func:`accuracy.evaluation.evaluate` takes it.
        sampling: As :func:`accuracy.evaluation.evaluate` takes it.
        workers: As :func:`accuracy.evaluation.evaluate` takes it.
        graphs: Whether decode steps are captured in CUDA graphs (:mod:`accuracy.decoding.graphs`), which the trace's
            provenance then says: wherever the model lies on a GPU and they can be, by default. They take memory for
            the weights of the schedule's widths a second time.

    Returns:
        The responses, in the trace's order.

    Raises:
        InputError: If something cannot run or be captured as asked, the folder holds the rest of a run with other
            settings, or the disk is full; finished batches are kept.
    """
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    plan = make_plan(
        lm, task, [scheduler], split=split, limit=limit, batch_size=batch_size, sampling=sampling, workers=workers
    )
    plan = replace(plan, graphs=_captures(plan, graphs, elsewhere=switch is not None or workers is not None))
    store = part / RESPONSES_FILE
    decoded = decode_plan(plan, store, folder=part, switch=switch, workers=workers, progress=progress)
    (measured,) = plan.schedulers
    responses = decoded.responses[measured.label]
    with writing(target):
        write_responses(plan, measured, responses, target, plan_provenance(plan))
        for rest in (store, part / SETTINGS_FILE):
            rest.unlink()
        part.rmdir()
    return responses


def _captures(plan: EvaluationPlan, wanted: bool | None, elsewhere: bool) -> bool:
    """Whether steps are captured; ``elsewhere`` says that a switch or workers take part.

    Raises:
        InputError: If they are wanted and cannot be.
    """
    on_gpu = next(plan.lm.model.parameters()).device.type == "cuda"
    if wanted is False or (wanted is None and not on_gpu):
        return False
    obstacle = graph_obstacle(plan.lm, plan.schedulers, batch_size=plan.batch_size, sampling=plan.sampling)
    if elsewhere:
        obstacle = "a switch or workers are given: steps are captured in this process, from the model's own layers"
    if obstacle is not None and wanted:
        raise InputError(f"graphs: {obstacle}; leave them out")
    return obstacle is None
