"""Measure the quality of a model's text under schedulers: task x schedulers -> quality, traces, per-prompt results.

A run is a folder. ``evaluation.json`` says what is measured; ``responses.jsonl`` grows batch by batch, so that a run
killed at any time continues where it was, to the same result; ``quality.json``, one ``trace-<label>.jsonl`` a
scheduler, ``per_prompt.jsonl`` and ``manifest.json`` appear when everything is decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from accuracy.decoding import Decoder, Response, Sampling, batches
from accuracy.evaluation.answers import Answers, Backend, check_later_turns, converse
from accuracy.evaluation.plan import (
    FULL_PRECISION,
    EvaluationPlan,
    claim_folder,
    distinct_schedulers,
    make_plan,
    plan_settings,
)
from accuracy.evaluation.results import write_results
from accuracy.evaluation.store import ResponseStore
from accuracy.evaluation.workers import DaskWorkers
from accuracy.metrics import Metric
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import Scheduler
from accuracy.tasks import Task
from hwsim.trace import InputError, Quality, Schedule

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

RESPONSES_FILE = "responses.jsonl"


def evaluate(
    lm: LanguageModel,
    task: Task,
    schedulers: Iterable[Schedule | Scheduler],
    *,
    split: str,
    out: Path | str,
    limit: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
    cache: Path | str | None = None,
    switch: PrecisionSwitch | None = None,
    forced_tokens: Mapping[str, int] | None = None,
    sampling: Sampling | None = None,
    workers: int | str | None = None,
) -> list[Quality]:
    """Decode a split under every scheduler and measure the responses.

    Args:
        lm: The model, as a nested store where a width other than 16 is scheduled.
        task: Where prompts and references come from. One of several turns is held turn after turn, each scheduler
            reading its own answers; prompt ids are then ``<example>#1``, ``<example>#2``, ...
        schedulers: What to measure; a schedule means the static scheduler, and full precision (16) is a schedule
            like any other. Equal ones count once.
        split: ``calib``, ``val`` or ``test``.
        out: Folder of the run; an interrupted run in it is continued.
        limit: The first so many prompts of the split; all by default.
        metrics: Metrics or their names; the task's own by default.
        seed: Of the bootstrap.
        batch_size: Prompts decoded together; 1 gives exact tokens and measured times (see
            :mod:`accuracy.decoding` on near-ties).
        progress: Show a progress bar.
        cache: File of responses shared between runs; the run's own by default. Exact repeats (same weights, prompt,
            scheduler, and batch) are taken from it.
        switch: How the width is set, where ``lm`` is not a model of any-precision layers.
        forced_tokens: Length of the response by prompt id: EOS is held back until then, and nothing follows (PMPD,
            Fig. 3, compares patterns at the high baseline's length). Full precision, where a metric compares with
            it, keeps its own length. A scheduler that plans fractions of the bound plans them of this length.
        sampling: How tokens are drawn; greedy by default. All schedulers, full precision too, draw by the same random
            numbers.
        workers: Decode on so many processes of this machine, or on the workers of the Dask scheduler at this address
            (:mod:`accuracy.evaluation.workers`). Processes of this machine compute with one thread each; the result
            is that of one process with one thread (``OMP_NUM_THREADS=1``).

    Returns:
        One record per scheduler and metric, as in ``quality.json``.

    Raises:
        InputError: If a scheduler, prompt, split or metric cannot be used, two schedulers share a label, the folder
            holds a run with other settings, or the disk is full; finished batches are kept.
    """
    began = time.perf_counter()
    threads = 1 if isinstance(workers, int) else torch.get_num_threads()
    plan = make_plan(lm, task, schedulers, split, limit, metrics, seed, batch_size, forced_tokens, sampling, threads)
    decoder = Decoder(lm, switch)
    prompts = [plan.prompt(example, example.prompt) for example in plan.examples]
    decoder.check(prompts, _decoded(plan))
    batches(prompts, batch_size)
    check_later_turns(plan, decoder)
    if workers is not None and switch is not None:
        raise InputError(f"workers = {workers}: switch cannot be sent to them; leave one of the two out")
    backend = None if workers is None else DaskWorkers(lm, workers, threads)
    folder = Path(out)
    try:
        claim_folder(folder, plan_settings(plan, prompts))
        with ResponseStore(Path(cache) if cache else folder / RESPONSES_FILE) as store, backend or nullcontext():
            responses, full_precision = _responses(plan, decoder, store, backend, progress)
        return write_results(plan, responses, full_precision, folder, time.perf_counter() - began)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); finished batches are kept") from None


def _decoded(plan: EvaluationPlan) -> list[Scheduler]:
    """The schedulers measured, and full precision where a metric compares with it."""
    return distinct_schedulers([*plan.schedulers, FULL_PRECISION] if plan.needs_full_precision else plan.schedulers)


def _responses(
    plan: EvaluationPlan, decoder: Decoder, store: ResponseStore, backend: Backend | None, progress: bool
) -> tuple[dict[str, list[Response]], list[Response] | None]:
    """Responses by label, and those of full precision that metrics compare with.

    Forced lengths part the two: the reference is what the model says of itself.
    """
    apart = plan.needs_full_precision and plan.forced_tokens is not None
    schedulers = plan.schedulers if apart else _decoded(plan)
    total = (len(schedulers) + apart) * len(plan.examples) * plan.task.turns
    with tqdm(total=total, desc="decode", unit="response", disable=not progress) as bar:
        answers = Answers(plan, decoder, store, bar, backend)
        responses = converse(plan, schedulers, answers)
        if not plan.needs_full_precision:
            return responses, None
        free = converse(replace(plan, forced_tokens=None), [FULL_PRECISION], answers) if apart else responses
        return responses, free[FULL_PRECISION.label]
