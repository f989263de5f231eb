"""Decode what a plan asks for: checked first, then resumed, on this process or on workers."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from accuracy.decoding import Decoder, Response, batches
from accuracy.decoding.graphs import GraphDecoder
from accuracy.evaluation.answers import Answers, check_later_turns, converse
from accuracy.evaluation.plan import (
    FULL_PRECISION,
    EvaluationPlan,
    claim_folder,
    distinct_schedulers,
    plan_settings,
)
from accuracy.evaluation.store import ResponseStore, writing
from accuracy.evaluation.workers import DaskWorkers
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import Scheduler
from hwsim.trace import InputError


@dataclass(frozen=True)
class Decoded:
    """What a plan's decoding gave.

    Attributes:
        responses: By scheduler label: the first example's turns in order, then the second's, and so on.
        full_precision: In the same order what the unquantised model says by itself, where a metric compares with it.
    """

    responses: dict[str, list[Response]]
    full_precision: list[Response] | None


def decode_plan(
    plan: EvaluationPlan,
    store: Path,
    *,
    folder: Path | None = None,
    switch: PrecisionSwitch | None = None,
    workers: int | str | None = None,
    progress: bool = True,
) -> Decoded:
    """Decode everything that a plan needs and the store lacks.

    Args:
        plan: What to decode.
        store: File that keeps the responses.
        folder: The folder to be claimed for this plan's settings, where there is one.
        switch: How the width is set, where the model is not one of any-precision layers.
        workers: As :func:`accuracy.evaluation.evaluate` takes it.
        progress: Show a progress bar.

    Raises:
        InputError: If something cannot run, the folder holds a run with other settings, or the disk is full.
    """
    decoder = GraphDecoder(plan.lm, plan.schedulers) if plan.graphs else Decoder(plan.lm, switch)
    prompts = [plan.prompt(example, example.prompt) for example in plan.examples]
    decoder.check(prompts, _schedulers(plan))
    batches(prompts, plan.batch_size)
    check_later_turns(plan, decoder)
    if workers is not None and switch is not None:
        raise InputError(f"workers = {workers}: a switch cannot be sent to them; leave one of the two out")
    backend = None if workers is None else DaskWorkers(plan.lm, workers, plan.threads)
    settings = plan_settings(plan, prompts)
    # Forced lengths part full precision as it is measured from full precision as the reference.
    apart = plan.needs_full_precision and plan.forced_tokens is not None
    schedulers = plan.schedulers if apart else _schedulers(plan)
    total = (len(schedulers) + apart) * len(plan.examples) * plan.task.turns
    with ExitStack() as stack:
        stack.enter_context(backend or nullcontext())
        if folder is not None:
            with writing(folder):
                claim_folder(folder, settings)
        kept = stack.enter_context(ResponseStore(store))
        bar = stack.enter_context(tqdm(total=total, desc="decode", unit="response", disable=not progress))
        answers = Answers(plan, decoder, kept, bar, backend)
        responses = converse(plan, schedulers, answers)
        if not plan.needs_full_precision:
            return Decoded(responses, None)
        free = converse(replace(plan, forced_tokens=None), [FULL_PRECISION], answers) if apart else responses
        return Decoded(responses, free[FULL_PRECISION.label])


def _schedulers(plan: EvaluationPlan) -> list[Scheduler]:
    """The schedulers measured, and full precision where a metric compares with it."""
    return distinct_schedulers([*plan.schedulers, FULL_PRECISION] if plan.needs_full_precision else plan.schedulers)
