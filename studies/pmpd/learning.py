"""The learned scheduler and what it is compared with (Table 1's last row, Fig. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from accuracy.decoding import Prompt
from accuracy.metrics import get_metric
from accuracy.scheduler_training.checkpoint import read_config
from accuracy.scheduler_training.features import ALL_INPUTS, FeatureInput
from accuracy.scheduler_training.labels import collect_labels
from accuracy.scheduler_training.train import TrainingData, TrainingSettings, save_trained, train_classifier
from accuracy.schedulers import CandidateSet, RandomPriorScheduler, RandomUniformScheduler, Scheduler
from accuracy.schedulers.learned import LearnedScheduler
from accuracy.statistics import bootstrap
from hwsim.trace import Schedule
from studies.pmpd.bench import BATCH_SIZE, SEED, Bench, Measured, above_line, further_above_line
from studies.pmpd.table import Place, Tables
from studies.pmpd.untuned import Pair, pair_name

PAPER_INPUT = FeatureInput("kv", "last")
SEEDS = (0, 1, 2)
SETTINGS = TrainingSettings()


@dataclass(frozen=True)
class Variant:
    """One way to train a scheduler; the inputs of Fig. 7, and positions besides."""

    source: FeatureInput
    positions: bool = False

    @property
    def name(self) -> str:
        """For example ``kv-last``."""
        return self.source.name + ("+positions" if self.positions else "")


PAPER = Variant(PAPER_INPUT)
VARIANTS = (*(Variant(one) for one in ALL_INPUTS), Variant(PAPER_INPUT, positions=True))


@dataclass(frozen=True)
class Learned:
    """Trained schedulers of one store and pair of widths.

    Attributes:
        candidates: The classes.
        schedulers: By variant, one a seed.
        prior: Share of each label in training.
        best: The paper's variant, of the seed with the least validation loss.
        report: One row a variant and seed: sizes, losses, accuracy.
    """

    candidates: CandidateSet
    schedulers: Mapping[str, Sequence[LearnedScheduler]]
    prior: Sequence[float]
    best: LearnedScheduler
    report: Sequence[dict[str, Any]]


def train_schedulers(bench: Bench, pair: Pair, out: Path, variants: Sequence[Variant] = VARIANTS) -> Learned:
    """Label the training prompts once, and train every variant with every seed; what is there is used again."""
    subject, candidates = bench.subject, CandidateSet.of(pair)
    task = subject.learn
    prompts = [
        Prompt(one.id, tuple(task.encode(bench.lm.tokenizer, one.prompt)), task.max_new_tokens)
        for one in task.examples("calib", subject.learn_prompts)
    ]
    inputs = tuple({variant.source: None for variant in variants})
    labelled = collect_labels(
        bench.lm, prompts, candidates, out / "labels", inputs=inputs, batch_size=BATCH_SIZE, progress=bench.progress
    )
    schedulers: dict[str, list[LearnedScheduler]] = {}
    report: list[dict[str, Any]] = []
    for variant in variants:
        data: TrainingData | None = None
        for seed in SEEDS:
            path = out / f"{variant.name}-{seed}.safetensors"
            if not path.exists():
                data = data or TrainingData(labelled, variant.source)
                trained = train_classifier(data, SETTINGS, positions=variant.positions, seed=seed)
                save_trained(path, trained, data, SETTINGS, seed=seed, training_text=subject.text)
            config = read_config(path)
            schedulers.setdefault(variant.name, []).append(LearnedScheduler(path, bench.lm))
            report.append(
                {
                    "model": subject.name,
                    "pair": pair_name(pair),
                    "input": variant.name,
                    "seed": seed,
                    "training_prompts": sum(config.label_counts),
                    "label_counts": " ".join(map(str, config.label_counts)),
                    "validation_loss": round(config.validation_loss, 4),
                    "validation_accuracy": round(config.validation_accuracy, 4),
                    "prior_accuracy": round(max(config.label_prior), 4),
                    "epoch": config.epoch,
                }
            )
    best = min(schedulers[PAPER.name], key=lambda one: one.config.validation_loss)
    return Learned(candidates, schedulers, best.config.label_prior, best, report)


def measure_inputs(bench: Bench, tables: Tables, pair: Pair, learned: Learned) -> None:
    """What the input is worth, and what learning is worth over drawing a schedule at random (Fig. 7)."""
    high, low = pair
    groups: dict[str, Sequence[Scheduler]] = {
        **learned.schedulers,
        "random-prior": [RandomPriorScheduler(pair, learned.prior, seed=seed) for seed in SEEDS],
        "random-uniform": [RandomUniformScheduler(pair, seed=seed) for seed in SEEDS],
    }
    ends = {"baseline-h": Schedule.uniform(high), "high prefill": Schedule.uniform(low, high)}
    methods = {f"{name} {seed}": one for name, group in groups.items() for seed, one in zip(SEEDS, group, strict=True)}
    found = bench.measure(f"inputs-{high}{low}", {**ends, **methods})
    top, bottom = found["baseline-h"], found["high prefill"]
    place = Place(bench.subject.name, "fig7", pair_name(pair))
    averaged = {name: average(name, [found[f"{name} {seed}"] for seed in SEEDS]) for name in groups}
    for one in (top, bottom, *averaged.values()):
        place.add(tables, one, top)
    paper = averaged[PAPER.name]
    for metric in bench.subject.metrics:
        for one in averaged.values():
            gain = above_line(one, bottom, top, metric)
            place.compare_with(tables, "lies above the line", one, ("line at its bits", one.mean_bits), metric, gain)
        for name, other in averaged.items():
            if name != PAPER.name:
                gain = further_above_line(paper, other, bottom, top, metric)
                target = (f"{name}, each to the line", other.mean_bits)
                place.compare_with(tables, f"further above the line than {name}", paper, target, metric, gain)


def average(method: str, runs: Sequence[Measured]) -> Measured:
    """Mean over seeds, prompt by prompt; the interval is over prompts."""
    statistics = {metric: np.mean([run.statistics[metric] for run in runs], axis=0) for metric in runs[0].statistics}
    return Measured(
        method=method,
        label=f"{method}, mean of {len(runs)} seeds",
        mean_bits=fmean(run.mean_bits for run in runs),
        scores={
            metric: bootstrap(values, get_metric(metric).aggregate, seed=SEED) for metric, values in statistics.items()
        },
        statistics=statistics,
        texts=runs[0].texts,
        tokens=runs[0].tokens,
    )


def settings() -> dict[str, Any]:
    """How the schedulers are trained, for the manifest."""
    return {"seeds": list(SEEDS), **asdict(SETTINGS)}
