"""The files of a finished evaluation: quality, traces, per-prompt results, manifest."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accuracy.decoding import Response
from accuracy.evaluation.plan import EvaluationPlan, scheduler_sha256
from accuracy.evaluation.store import writing
from accuracy.evaluation.traces import plan_provenance, write_responses
from accuracy.metrics import Reference
from accuracy.schedulers import Scheduler, StepScheduler
from accuracy.statistics import CONFIDENCE, RESAMPLES, Floats, bootstrap
from accuracy.tasks import Example, prompt_sha256
from hwsim.trace import (
    Interpolation,
    Quality,
    atomic_writer,
    run_length,
    write_json,
    write_quality,
)

QUALITY_FILE = "quality.json"
PER_PROMPT_FILE = "per_prompt.jsonl"
MANIFEST_FILE = "manifest.json"
# A file name holds 255 bytes; this leaves room for the rest of it.
MAX_STEM_CHARACTERS = 120


def write_results(
    plan: EvaluationPlan,
    responses: Mapping[str, Sequence[Response]],
    full_precision: Sequence[Response] | None,
    folder: Path,
    began: float,
    interpolation: Interpolation | None = None,
) -> list[Quality]:
    """Score the responses and write every file of the run; ``quality.json`` comes last.

    Args:
        plan: What was measured.
        responses: By scheduler label, an example's turns one after another.
        full_precision: What the unquantised model said, in the same order, where a metric needs it.
        folder: The run's folder.
        began: When this call of the run began, by ``time.perf_counter``; the manifest says how long it took.
        interpolation: What ``quality.json`` says of schedules between the measured ones.

    Raises:
        InputError: If the disk is full.
    """
    examples = [example for example in plan.examples for _ in range(plan.task.turns)]
    references = [
        Reference(example.reference or "", full_precision[index] if full_precision else None)
        for index, example in enumerate(examples)
    ]
    statistics = {
        scheduler.label: {
            metric.name: metric.statistics_many(responses[scheduler.label], references) for metric in plan.metrics
        }
        for scheduler in plan.schedulers
    }
    records = [
        record
        for scheduler in plan.schedulers
        for record in _quality(plan, scheduler, responses[scheduler.label], statistics[scheduler.label])
    ]
    provenance = plan_provenance(plan)
    with writing(folder):
        for scheduler in plan.schedulers:
            path = folder / trace_file_name(scheduler.label)
            write_responses(plan, scheduler, responses[scheduler.label], path, provenance)
        with atomic_writer(folder / PER_PROMPT_FILE) as file:
            for scheduler in plan.schedulers:
                label = scheduler.label
                rows = _rows(plan, label, examples, responses[label], statistics[label])
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_json(folder / MANIFEST_FILE, _manifest(plan, responses, time.perf_counter() - began, provenance))
        write_quality(folder / QUALITY_FILE, records, interpolation)
    return records


def distinct_steps(responses: Iterable[Response]) -> int:
    """Decode steps of one prompt's responses, those that schedules share counted once.

    >>> def made(*bits): return Response("a", 1, (0,) * (len(bits) + 1), "", 4, bits, "length")
    >>> distinct_steps([made(4, 4, 3), made(4, 4, 2), made(4, 4, 3)])
    4
    """
    total = 0
    before: tuple[int, ...] = ()
    for path in sorted((one.prefill_weight_bits, *one.decode_weight_bits) for one in responses):
        shared = next((i for i, (a, b) in enumerate(zip(path, before, strict=False)) if a != b), None)
        shared = min(len(path), len(before)) if shared is None else shared
        total += len(path) - max(shared, 1)
        before = path
    return total


def trace_file_name(label: str) -> str:
    """Name of a scheduler's trace: its label with the characters that shells and file systems mind replaced.

    A schedule's label is still told from others afterwards; any other gets a hash, as does a long one.

    >>> trace_file_name("p4:4>3@40")
    'trace-p4_4-3at40.jsonl'
    """
    stem = label.replace(":", "_").replace(">", "-").replace("@", "at")
    if not re.fullmatch(r"[0-9p:>@]+", label) or len(stem) > MAX_STEM_CHARACTERS:
        stem = re.sub(r"[^A-Za-z0-9._=+-]+", "-", stem)[:MAX_STEM_CHARACTERS]
        stem = f"{stem}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"trace-{stem}.jsonl"


def _quality(
    plan: EvaluationPlan, scheduler: Scheduler, responses: Sequence[Response], statistics: Mapping[str, Floats]
) -> Iterator[Quality]:
    bits = [width for one in responses for width in one.decode_weight_bits]
    schedule = scheduler.schedule
    for metric in plan.metrics:
        interval = bootstrap(statistics[metric.name], metric.aggregate, groups=plan.groups, seed=plan.seed)
        yield Quality(
            model_name=plan.lm.name,
            model_sha256=plan.lm.model_sha256,
            store_sha256=plan.lm.store_sha256,
            quantizer=plan.lm.quantizer,
            task=plan.task.name,
            task_version=plan.task.version,
            split=plan.split,
            metric=metric.name,
            direction=metric.direction,
            reference=metric.reference,
            scheduler=scheduler.name,
            scheduler_label=scheduler.label,
            scheduler_sha256=scheduler_sha256(scheduler),
            schedule=schedule,
            schedule_sha256=None if schedule is None else schedule.sha256(),
            decoding=plan.decoding,
            # Where every response ends with token 0 no step ran; a width that would have run stands in.
            mean_decode_bits=float(np.mean(bits)) if bits else _first_bits(scheduler),
            value=interval.value,
            ci_low=interval.low,
            ci_high=interval.high,
            n=interval.n,
            seed=plan.seed,
            per_prompt_path=PER_PROMPT_FILE,
            source="measured",
        )


def _first_bits(scheduler: Scheduler) -> int:
    return scheduler.prefill_weight_bits if scheduler.schedule is None else scheduler.schedule.bits_at(0)


def _rows(
    plan: EvaluationPlan,
    label: str,
    examples: Sequence[Example],
    responses: Sequence[Response],
    statistics: Mapping[str, Floats],
) -> Iterator[dict[str, Any]]:
    """One row a prompt: what was written, at which widths, and the statistics of every metric."""
    for index, (example, response) in enumerate(zip(examples, responses, strict=True)):
        yield {
            "scheduler": label,
            "id": response.prompt_id,
            "example": example.id,
            "turn": index % plan.task.turns + 1,
            "category": example.category,
            "prompt_sha256": prompt_sha256(example.prompt),
            "prompt_tokens": response.prompt_tokens,
            "generated_tokens": len(response.tokens),
            "finish_reason": response.finish_reason,
            "prefill_weight_bits": response.prefill_weight_bits,
            "decode_weight_bits": run_length(response.decode_weight_bits),
            "statistics": {name: values[index].tolist() for name, values in statistics.items()},
            "text": response.text,
        }


def _manifest(
    plan: EvaluationPlan, responses: Mapping[str, Sequence[Response]], seconds: float, provenance: dict[str, str]
) -> dict[str, Any]:
    steps = sum(len(one.decode_weight_bits) for given in responses.values() for one in given)
    # Only schedulers that plan beforehand share steps, and only while their prompts are the same: in the first turn.
    planned = [responses[one.label] for one in plan.schedulers if not isinstance(one, StepScheduler)]
    first_turns = [given[:: plan.task.turns] for given in planned]
    shareable = sum(len(one.decode_weight_bits) for given in first_turns for one in given)
    distinct = steps - shareable + sum(map(distinct_steps, zip(*first_turns, strict=True)))
    units = "prompts" if plan.groups is None else "examples, all turns together"
    return {
        "schema_version": "1.1",
        "provenance": provenance,
        "seconds": round(seconds, 3),
        "prompts": len(plan.examples) * plan.task.turns,
        "decoding": plan.decoding,
        "decode_steps": steps,
        "distinct_decode_steps": distinct,
        "steps_saved": round(1 - distinct / steps, 4) if steps else 0.0,
        "metrics": {metric.name: metric.description for metric in plan.metrics},
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over {units}, {RESAMPLES} resamples, seed {plan.seed}",
        "traces": {scheduler.label: trace_file_name(scheduler.label) for scheduler in plan.schedulers},
    }
