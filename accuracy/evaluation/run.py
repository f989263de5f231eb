"""Measure the quality of a model's text under schedulers: task x schedulers -> quality, traces, per-prompt results.

A run is a folder. ``evaluation.json`` says what is measured; ``responses.jsonl`` grows batch by batch, so that a run
killed at any time continues where it was, to the same result; ``quality.json``, one ``trace-<label>.jsonl`` a
scheduler, ``per_prompt.jsonl`` and ``manifest.json`` appear when everything is decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accuracy.decoding import Sampling
from accuracy.evaluation.decode import decode_plan
from accuracy.evaluation.plan import make_plan
from accuracy.evaluation.results import write_results
from accuracy.metrics import Metric
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import Scheduler
from accuracy.tasks import Task
from hwsim.trace import Interpolation, Quality, Schedule

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
    interpolation: Interpolation | None = None,
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
        interpolation: How ``quality.json`` lets an exploration find schedules between the measured ones; not at all by
            default.

    Returns:
        One record per scheduler and metric, as in ``quality.json``.

    Raises:
        InputError: If a scheduler, prompt, split or metric cannot be used, two schedulers share a label, the folder
            holds a run with other settings, or the disk is full; finished batches are kept.
    """
    began = time.perf_counter()
    folder = Path(out)
    plan = make_plan(
        lm,
        task,
        schedulers,
        split=split,
        limit=limit,
        metrics=metrics or task.metrics,
        seed=seed,
        batch_size=batch_size,
        forced_tokens=forced_tokens,
        sampling=sampling,
        workers=workers,
    )
    store = Path(cache) if cache else folder / RESPONSES_FILE
    decoded = decode_plan(plan, store, folder=folder, switch=switch, workers=workers, progress=progress)
    return write_results(plan, decoded.responses, decoded.full_precision, folder, began, interpolation)


def response_tokens(
    lm: LanguageModel,
    task: Task,
    scheduler: Schedule | Scheduler,
    *,
    split: str,
    cache: Path | str,
    limit: int | None = None,
    batch_size: int = 32,
    progress: bool = True,
    switch: PrecisionSwitch | None = None,
    sampling: Sampling | None = None,
    workers: int | str | None = None,
) -> dict[str, int]:
    """Length of each response under one scheduler, for ``forced_tokens`` and for patterns laid over it.

    Args:
        lm: The model.
        task: Where the prompts come from.
        scheduler: The baseline, in PMPD's Fig. 3 the high width.
        split: ``calib``, ``val`` or ``test``.
        cache: File that keeps the responses.
        limit: The first so many prompts of the split; all by default.
        batch_size: As in the run that will use the lengths: a batch decides near-ties.
        progress: Show a progress bar.
        switch: As :func:`evaluate` takes it.
        sampling: As :func:`evaluate` takes it.
        workers: As :func:`evaluate` takes it.

    Returns:
        Generated tokens, an EOS counted, by prompt id.

    Raises:
        InputError: As :func:`evaluate`.
    """
    plan = make_plan(
        lm, task, [scheduler], split=split, limit=limit, batch_size=batch_size, sampling=sampling, workers=workers
    )
    decoded = decode_plan(plan, Path(cache), switch=switch, workers=workers, progress=progress)
    (responses,) = decoded.responses.values()
    return {response.prompt_id: len(response.tokens) for response in responses}
