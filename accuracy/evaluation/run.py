"""Measure the quality of a model's text under schedules: task x schedules -> quality, traces, per-prompt results.

A run is a folder. ``evaluation.json`` says what is measured; ``responses.jsonl`` grows batch by batch, so that a run
killed at any time continues where it was, to the same result; ``quality.json``, one ``trace-<schedule>.jsonl`` a
schedule, ``per_prompt.jsonl`` and ``manifest.json`` appear when everything is decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from accuracy.decoding import Decoder, Prompt, Response, batches
from accuracy.evaluation.plan import EvaluationPlan, claim_folder, make_plan, plan_settings
from accuracy.evaluation.results import write_results
from accuracy.evaluation.store import ResponseStore
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import StaticScheduler
from accuracy.tasks import Task
from hwsim.trace import InputError, Quality, Schedule, canonical_sha256

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

RESPONSES_FILE = "responses.jsonl"


def evaluate(
    lm: LanguageModel,
    task: Task,
    schedules: Iterable[Schedule],
    *,
    split: str,
    out: Path | str,
    limit: int | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
    cache: Path | str | None = None,
    switch: PrecisionSwitch | None = None,
) -> list[Quality]:
    """Decode a split under every schedule and measure the responses.

    Args:
        lm: The model, as a nested store where a width other than 16 is scheduled.
        task: Where prompts and references come from.
        schedules: What to measure; full precision (16) is a schedule like any other. Equal ones count once.
        split: ``calib``, ``val`` or ``test``.
        out: Folder of the run; an interrupted run in it is continued.
        limit: The first so many prompts of the split; all by default.
        metrics: Names; the task's own by default.
        seed: Of the bootstrap.
        batch_size: Prompts decoded together; 1 gives exact tokens and measured times (see
            :mod:`accuracy.decoding` on near-ties).
        progress: Show a progress bar.
        cache: File of responses shared between runs; the run's own by default. Exact repeats (same weights, prompt,
            schedule, and batch) are taken from it.
        switch: How the width is set, where ``lm`` is not a model of any-precision layers.

    Returns:
        One record per schedule and metric, as in ``quality.json``.

    Raises:
        InputError: If a schedule, prompt, split or metric cannot be used, the folder holds a run with other
            settings, or the disk is full; finished batches are kept.
    """
    began = time.perf_counter()
    plan = make_plan(lm, task, schedules, split, limit, metrics, seed, batch_size)
    decoder = Decoder(lm, switch)
    decoder.check(plan.prompts, [StaticScheduler(schedule) for schedule in plan.decoded])
    groups = batches(plan.prompts, batch_size)
    folder = Path(out)
    try:
        claim_folder(folder, plan_settings(plan))
        with ResponseStore(Path(cache) if cache else folder / RESPONSES_FILE) as store:
            answers = _decode(plan, groups, decoder, store, progress)
        return write_results(plan, answers, folder, time.perf_counter() - began)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); finished batches are kept") from None


def _keys(plan: EvaluationPlan, batch: Sequence[Prompt]) -> dict[tuple[str, str], str]:
    """Content hash of each response of a batch, by prompt id and schedule hash.

    The batch belongs to the content: its shape decides how near-ties are resolved.
    """
    parameter = next(plan.lm.model.parameters())
    shared = canonical_sha256(
        [
            plan.lm.model_sha256,
            plan.lm.store_sha256,
            str(parameter.dtype),
            parameter.device.type,
            torch.__version__,
            plan.task.name,
            plan.task.version,
            [[prompt.token_ids, prompt.max_new_tokens, prompt.min_new_tokens] for prompt in batch],
        ]
    )
    return {
        (prompt.id, digest): canonical_sha256([shared, place, digest])
        for place, prompt in enumerate(batch)
        for digest in (schedule.sha256() for schedule in plan.decoded)
    }


def _decode(
    plan: EvaluationPlan, groups: Sequence[Sequence[Prompt]], decoder: Decoder, store: ResponseStore, progress: bool
) -> dict[str, list[Response]]:
    """Decode what the store lacks; answers by schedule hash, in the order of the prompts."""
    found: dict[tuple[str, str], Response] = {}
    with tqdm(total=len(plan.prompts) * len(plan.decoded), desc="decode", unit="response", disable=not progress) as bar:
        for batch in groups:
            keys = _keys(plan, batch)
            lacking = [
                schedule
                for schedule in plan.decoded
                if any(keys[prompt.id, schedule.sha256()] not in store for prompt in batch)
            ]
            if lacking:
                grid = decoder.decode_batch(batch, [StaticScheduler(schedule) for schedule in lacking])
                store.add(
                    {
                        keys[response.prompt_id, schedule.sha256()]: response
                        for schedule, responses in zip(lacking, grid.responses, strict=True)
                        for response in responses
                    }
                )
            for place, key in keys.items():
                # Another run may have kept the same prompt under another id.
                found[place] = replace(store[key], prompt_id=place[0])
            bar.update(len(keys))
    return {
        digest: [found[prompt.id, digest] for prompt in plan.prompts]
        for digest in (schedule.sha256() for schedule in plan.decoded)
    }
