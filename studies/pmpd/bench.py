"""One model under many schedules: measured once, kept, and compared pair by pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from accuracy.decoding import Prompt
from accuracy.evaluation import evaluate, read_statistics
from accuracy.metrics import Metric, get_metric
from accuracy.model import LanguageModel, load_model
from accuracy.schedulers import Scheduler, StaticScheduler
from accuracy.statistics import CONFIDENCE, RESAMPLES, Floats, Interval, paired_difference, resample_counts
from hwsim.trace import Quality, Schedule
from studies.pmpd.subjects import Subject

SEED = 0
BATCH_SIZE = 64


@dataclass(frozen=True)
class Measured:
    """What one method did on all prompts.

    Attributes:
        method: What the paper, or this study, calls it.
        label: The scheduler's label.
        mean_bits: Mean decode weight bits over all steps; for a dense-and-sparse store what it reads on average.
        scores: Score and interval by metric.
        statistics: Per prompt ``[n, D]`` by metric.
        texts: Responses by prompt id.
        tokens: Lengths of the responses by prompt id.
    """

    method: str
    label: str
    mean_bits: float
    scores: Mapping[str, Interval]
    statistics: Mapping[str, Floats]
    texts: Mapping[str, str]
    tokens: Mapping[str, int]

    def minus(self, other: Measured, metric: str, *, relative: bool = False) -> Interval:
        """Paired difference to another method over the same prompts."""
        return paired_difference(
            self.statistics[metric],
            other.statistics[metric],
            get_metric(metric).aggregate,
            relative=relative,
            seed=SEED,
        )


class Bench:
    """Measures one store of one subject.

    Attributes:
        subject: The model and its text.
        progress: Whether to show progress bars.
    """

    def __init__(self, subject: Subject, store: Path, out: Path, *, progress: bool = True) -> None:
        """Prepare.

        Args:
            subject: The model and its text.
            store: What to decode with.
            out: Folder of the runs; what was decoded there before is not decoded again.
            progress: Show progress bars.
        """
        self.subject, self._store, self._out, self.progress = subject, store, out, progress

    @cached_property
    def lm(self) -> LanguageModel:
        """The store, loaded when it is first needed."""
        return load_model(self._store, self.subject.device)

    def prompts(self, split: str = "test") -> list[Prompt]:
        """What is decoded: reported prompts, or those that tune."""
        task, limit = (
            (self.subject.report, self.subject.report_prompts)
            if split == "test"
            else (self.subject.tune, self.subject.tune_prompts)
        )
        return [
            Prompt(one.id, tuple(task.encode(self.lm.tokenizer, one.prompt)), task.max_new_tokens)
            for one in task.examples(split, limit)
        ]

    def measure(
        self,
        name: str,
        methods: Mapping[str, Schedule | Scheduler],
        *,
        metrics: Sequence[str | Metric] | None = None,
        forced_tokens: Mapping[str, int] | None = None,
        average_bits: float | None = None,
    ) -> dict[str, Measured]:
        """Decode the reported prompts under every method.

        Args:
            name: Folder of the run.
            methods: Schedulers by name; several names may have one schedule.
            metrics: The subject's unless given.
            forced_tokens: Response length of each prompt, where it is fixed.
            average_bits: What the store reads, where its widths do not say it.
        """
        folder = self._out / name
        schedulers = {method: _scheduler(one) for method, one in methods.items()}
        distinct = {one.label: one for one in schedulers.values()}
        records = evaluate(
            self.lm,
            self.subject.report,
            distinct.values(),
            split="test",
            limit=self.subject.report_prompts,
            metrics=list(metrics or self.subject.metrics),
            seed=SEED,
            batch_size=BATCH_SIZE,
            out=folder,
            cache=self._out / "responses.jsonl",
            forced_tokens=forced_tokens,
            progress=self.progress,
        )
        statistics, answers = read_statistics(folder), _answers(folder)
        by_label: dict[str, list[Quality]] = {}
        for record in records:
            by_label.setdefault(record.scheduler_label, []).append(record)
        return {
            method: Measured(
                method=method,
                label=one.label,
                mean_bits=average_bits or by_label[one.label][0].mean_decode_bits,
                scores={record.metric: _interval(record) for record in by_label[one.label]},
                statistics=statistics[one.label],
                texts={row["id"]: row["text"] for row in answers[one.label]},
                tokens={row["id"]: row["generated_tokens"] for row in answers[one.label]},
            )
            for method, one in schedulers.items()
        }


def mixture(low: Measured, high: Measured, mean_bits: float, metric: str) -> Floats:
    """Expected statistics ``[n, D]`` of running a random share of the prompts high and the others low.

    The line between two fixed schedules costs nothing to have: what a scheduler is worth is how far it lies above the
    line at its own mean bits.
    """
    share = float(np.clip((mean_bits - low.mean_bits) / (high.mean_bits - low.mean_bits), 0, 1))
    mixed: Floats = (1 - share) * low.statistics[metric] + share * high.statistics[metric]
    return mixed


def above_line(ours: Measured, low: Measured, high: Measured, metric: str) -> Interval:
    """Paired difference of a scheduler's score to the line between ``low`` and ``high`` at its mean bits."""
    aggregate = get_metric(metric).aggregate
    return paired_difference(ours.statistics[metric], mixture(low, high, ours.mean_bits, metric), aggregate, seed=SEED)


def further_above_line(ours: Measured, theirs: Measured, low: Measured, high: Measured, metric: str) -> Interval:
    """By how much more one scheduler lies above the line than another, each at its own mean bits."""
    aggregate = get_metric(metric).aggregate
    terms = [
        (1, ours.statistics[metric]),
        (-1, mixture(low, high, ours.mean_bits, metric)),
        (-1, theirs.statistics[metric]),
        (1, mixture(low, high, theirs.mean_bits, metric)),
    ]
    n = len(terms[0][1])
    counts = resample_counts(n, RESAMPLES, SEED)
    value = sum(sign * float(aggregate(part.sum(0), n)) for sign, part in terms)
    resampled = np.sum([sign * aggregate(counts @ part, n) for sign, part in terms], axis=0)
    low_end, high_end = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low_end), float(high_end), n)


def _scheduler(one: Schedule | Scheduler) -> Scheduler:
    return StaticScheduler(one) if isinstance(one, Schedule) else one


def _interval(record: Quality) -> Interval:
    assert record.ci_low is not None and record.ci_high is not None, "measured records have intervals"
    assert record.n is not None, "measured records say how many prompts"
    return Interval(record.value, record.ci_low, record.ci_high, record.n)


def _answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The run's rows by scheduler label."""
    found: dict[str, list[dict[str, Any]]] = {}
    with (folder / "per_prompt.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row: dict[str, Any] = json.loads(line)
            found.setdefault(row["scheduler"], []).append(row)
    return found
