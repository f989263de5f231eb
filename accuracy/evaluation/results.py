"""The files of a finished evaluation: quality, traces, per-prompt results, manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accuracy.decoding import Response
from accuracy.evaluation.plan import FULL_PRECISION, EvaluationPlan
from accuracy.evaluation.traces import device_name, trace_header, trace_sequence
from accuracy.metrics import Reference, bleu_signature
from accuracy.model import read_config
from accuracy.statistics import CONFIDENCE, RESAMPLES, Floats, bootstrap
from accuracy.tasks import prompt_sha256
from hwsim.trace import (
    InputError,
    Quality,
    Schedule,
    atomic_writer,
    collect_provenance,
    run_length,
    write_json,
    write_quality,
    write_trace,
)

QUALITY_FILE = "quality.json"
PER_PROMPT_FILE = "per_prompt.jsonl"
MANIFEST_FILE = "manifest.json"
# A file name holds 255 bytes; this leaves room for the rest of it.
MAX_STEM_CHARACTERS = 120


def write_results(
    plan: EvaluationPlan, answers: Mapping[str, Sequence[Response]], folder: Path, seconds: float
) -> list[Quality]:
    """Score the answers and write every file of the run; ``quality.json`` comes last.

    Args:
        plan: What was measured.
        answers: By schedule hash, in the order of the plan's prompts.
        folder: The run's folder.
        seconds: Time taken so far, for the manifest.
    """
    full = answers.get(FULL_PRECISION.sha256())
    references = [
        Reference(example.reference or "", full[index] if full else None) for index, example in enumerate(plan.examples)
    ]
    provenance = collect_provenance(
        device=device_name(plan.lm), dtype=plan.lm.model.dtype, threads=torch.get_num_threads(), seed=plan.seed
    )
    records: list[Quality] = []
    per_prompt: list[dict[str, Any]] = []
    for schedule in plan.reported:
        given = answers[schedule.sha256()]
        statistics = {
            metric.name: np.array(
                [metric.statistics(one, reference) for one, reference in zip(given, references, strict=True)],
                dtype=np.float64,
            )
            for metric in plan.metrics
        }
        records.extend(_quality(plan, schedule, given, statistics))
        per_prompt.extend(_rows(plan, schedule, given, statistics))
        _write_trace(plan, schedule, given, folder, provenance)
    with atomic_writer(folder / PER_PROMPT_FILE) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in per_prompt)
    write_json(folder / MANIFEST_FILE, _manifest(plan, answers, seconds, provenance))
    write_quality(folder / QUALITY_FILE, records)
    return records


def read_statistics(folder: Path | str) -> dict[str, dict[str, Floats]]:
    """Read a run's per-prompt statistics, for paired comparisons between its schedules.

    Returns:
        By schedule label and metric name: statistics ``[n, D]`` in the order of the prompts, which is the same for
        every schedule.

    Raises:
        InputError: If the folder holds no finished run.
    """
    path = Path(folder) / PER_PROMPT_FILE
    collected: dict[str, dict[str, list[list[float]]]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                for name, values in row["statistics"].items():
                    collected.setdefault(row["schedule"], {}).setdefault(name, []).append(values)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the evaluation has not finished") from None
    except (ValueError, KeyError, AttributeError):
        raise InputError(f"{path}: is no per-prompt file of an evaluation") from None
    return {
        label: {name: np.array(values, dtype=np.float64) for name, values in by_metric.items()}
        for label, by_metric in collected.items()
    }


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


def trace_file_name(schedule: Schedule) -> str:
    """Name of a schedule's trace: its label with the characters that shells and file systems mind replaced.

    >>> trace_file_name(Schedule.from_pairs(4, [(0, 4), (40, 3)]))
    'trace-p4_4-3at40.jsonl'
    """
    stem = schedule.label().replace(":", "_").replace(">", "-").replace("@", "at")
    if len(stem) > MAX_STEM_CHARACTERS:
        stem = f"{stem[:MAX_STEM_CHARACTERS]}-{schedule.sha256()[:8]}"
    return f"trace-{stem}.jsonl"


def _quality(
    plan: EvaluationPlan, schedule: Schedule, answers: Sequence[Response], statistics: Mapping[str, Floats]
) -> Iterator[Quality]:
    bits = [width for one in answers for width in one.decode_weight_bits]
    for metric in plan.metrics:
        interval = bootstrap(statistics[metric.name], metric.aggregate, seed=plan.seed)
        yield Quality(
            model_name=plan.lm.name,
            model_sha256=plan.lm.model_sha256,
            store_sha256=plan.lm.store_sha256,
            quantizer=_quantizer(plan),
            task=plan.task.name,
            task_version=plan.task.version,
            split=plan.split,
            metric=metric.name,
            direction=metric.direction,
            reference=metric.reference,
            schedule=schedule,
            schedule_sha256=schedule.sha256(),
            # Where every response ends with token 0 no step ran; the schedule's first width stands in.
            mean_decode_bits=float(np.mean(bits)) if bits else schedule.bits_at(0),
            value=interval.value,
            ci_low=interval.low,
            ci_high=interval.high,
            n=interval.n,
            seed=plan.seed,
            per_prompt_path=PER_PROMPT_FILE,
            source="measured",
        )


def _rows(
    plan: EvaluationPlan, schedule: Schedule, answers: Sequence[Response], statistics: Mapping[str, Floats]
) -> Iterator[dict[str, Any]]:
    """One row a prompt: what was written, at which widths, and the statistics of every metric."""
    for index, (example, response) in enumerate(zip(plan.examples, answers, strict=True)):
        yield {
            "schedule": schedule.label(),
            "id": example.id,
            "prompt_sha256": prompt_sha256(example.prompt),
            "generated_tokens": len(response.tokens),
            "finish_reason": response.finish_reason,
            "decode_weight_bits": run_length(response.decode_weight_bits),
            "statistics": {name: values[index].tolist() for name, values in statistics.items()},
            "text": response.text,
        }


def _write_trace(
    plan: EvaluationPlan, schedule: Schedule, answers: Sequence[Response], folder: Path, provenance: dict[str, str]
) -> None:
    header = trace_header(
        plan.lm,
        task=plan.task.name,
        scheduler="static",
        schedule=schedule,
        provenance={
            **provenance,
            "split": plan.split,
            "task_version": plan.task.version,
            "decoded_in_batches_of": str(plan.batch_size),
        },
    )
    sequences = (trace_sequence(one, index) for index, one in enumerate(answers))
    write_trace(folder / trace_file_name(schedule), header, sequences)


def _manifest(
    plan: EvaluationPlan, answers: Mapping[str, Sequence[Response]], seconds: float, provenance: dict[str, str]
) -> dict[str, Any]:
    by_prompt = list(zip(*answers.values(), strict=True))
    steps = sum(len(one.decode_weight_bits) for responses in by_prompt for one in responses)
    distinct = sum(distinct_steps(responses) for responses in by_prompt)
    return {
        "schema_version": "1.0",
        "provenance": provenance,
        "seconds": round(seconds, 3),
        "prompts": len(plan.prompts),
        "decode_steps": steps,
        "distinct_decode_steps": distinct,
        "steps_saved": round(1 - distinct / steps, 4) if steps else 0.0,
        "metrics": {
            metric.name: metric.description + (f"; {bleu_signature()}" if metric.name == "bleu" else "")
            for metric in plan.metrics
        },
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over prompts, {RESAMPLES} resamples, seed {plan.seed}",
        "traces": {schedule.label(): trace_file_name(schedule) for schedule in plan.reported},
    }


def _quantizer(plan: EvaluationPlan) -> str:
    """How the store was made; ``none`` for unquantised weights."""
    if plan.lm.store_sha256 is None or plan.lm.folder is None:
        return "none"
    return str(read_config(plan.lm.folder).get("quantization_config", {}).get("quantizer", "none"))
