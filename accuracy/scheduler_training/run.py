"""A whole training in one folder: tuning, one network a seed, what they are worth, what the kept one costs.

The folder holds ``training.json`` (what the run is of), ``tuning.jsonl``, ``seeds/`` (a checkpoint and a learning curve
a seed), ``scheduler.safetensors`` (the seed of least validation loss), ``curve.csv`` (all seeds) and, when everything
is done, ``report.json``. Every step that was finished is kept when a run is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from accuracy.decoding import Prompt
from accuracy.evaluation.plan import claim_folder
from accuracy.precision import PrecisionSwitch
from accuracy.scheduler_training.checkpoint import CHECKPOINT_NAME, LearnedConfig, load_checkpoint
from accuracy.scheduler_training.classifier import ScheduleClassifier, choose_classes
from accuracy.scheduler_training.comparison import ClassOutcomes
from accuracy.scheduler_training.cost import measure_cost
from accuracy.scheduler_training.features import KV_LAST, FeatureInput
from accuracy.scheduler_training.label_store import LabelledPrompts, LabelRule
from accuracy.scheduler_training.report import describe_comparison, describe_data, describe_seeds
from accuracy.scheduler_training.train import (
    TrainingData,
    TrainingSettings,
    save_trained,
    train_classifier,
    write_curve,
)
from accuracy.scheduler_training.tune import tune
from accuracy.schedulers import LearnedScheduler
from hwsim.trace import InputError, atomic_writer, collect_provenance, read_text, write_json, write_text

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

SETTINGS_FILE = "training.json"
REPORT_FILE = "report.json"
CURVE_FILE = "curve.csv"
SEEDS_FOLDER = "seeds"


def train_scheduler(
    labelled: LabelledPrompts,
    out: Path | str,
    *,
    training_text: str,
    held_out: int,
    chosen: FeatureInput = KV_LAST,
    positions: bool = False,
    rule: LabelRule = "high-precision",
    settings: TrainingSettings | None = None,
    seeds: int = 3,
    tuning_trials: int = 0,
    timed: tuple[LanguageModel, Sequence[Prompt]] | None = None,
    switch: PrecisionSwitch | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train one kind of scheduler with several seeds, keep the best, and compare it with choosing at random.

    Many kinds can be trained on the same labels, each in its own folder.

    Args:
        labelled: Labelled prompts; the last ``held_out`` of them are compared on and never trained on.
        out: Folder of the training.
        training_text: What the prompts were made of, for readers.
        held_out: How many prompts to hold out; 0 leaves the comparison out.
        chosen: What the network reads.
        positions: Whether it knows positions.
        rule: Which label is right.
        settings: Of the training, or where tuning begins.
        seeds: How many networks, with seeds 0, 1, ...; the one of least validation loss is kept.
        tuning_trials: How many settings to try first; 0 for none.
        timed: Model and prompts to time the kept scheduler on; None leaves its cost out.
        switch: How the width is set, where the model is not one of any-precision layers.
        progress: Show progress bars.

    Returns:
        The report, as in ``report.json``.

    Raises:
        InputError: If an argument is out of bounds, or the folder holds a training with other settings.
    """
    if seeds < 1:
        raise InputError(f"seeds = {seeds}: must be >= 1")
    if tuning_trials < 0:
        raise InputError(f"tuning_trials = {tuning_trials}: must be >= 0")
    folder = Path(out)
    settings = settings or TrainingSettings()
    known, unseen = labelled.split(held_out) if held_out else (labelled, None)
    if unseen is not None:
        ClassOutcomes.of(unseen, rule).deciding()
    data = TrainingData(known, chosen, rule, settings.validation_share)
    claim_folder(
        folder,
        {
            "schema_version": "1.0",
            **data.identity(),
            "positions": positions,
            "settings": asdict(settings),
            "training_text": training_text,
            "held_out": held_out,
            "seeds": seeds,
            "tuning_trials": tuning_trials,
        },
        SETTINGS_FILE,
    )
    tuning = None
    if tuning_trials:
        tuning = tune(data, folder, tuning_trials, positions=positions, base=settings, progress=progress)
        settings = tuning.settings
    configs: list[LearnedConfig] = []
    choices: dict[int, list[int]] = {}
    for seed in tqdm(range(seeds), desc="train", unit="seed", disable=not progress):
        path = _seed_path(folder, seed)
        if not path.exists():
            trained = train_classifier(data, settings, positions=positions, seed=seed)
            write_curve(path.with_suffix(".csv"), trained.curve)
            save_trained(path, trained, data, settings, seed=seed, training_text=training_text)
        config, classifier = load_checkpoint(path)
        configs.append(config)
        if unseen is not None:
            choices[seed] = classify(classifier, unseen, chosen)
    kept = min(configs, key=lambda one: one.validation_loss)
    _keep(folder, kept.seed, seeds)
    report = {
        "schema_version": "1.0",
        "training_text": training_text,
        **describe_data(data, unseen),
        "positions": positions,
        "settings": asdict(settings),
        "tuning": None if tuning is None else asdict(tuning),
        **describe_seeds(configs),
        "kept_seed": kept.seed,
        "comparison": None if unseen is None else describe_comparison(unseen, choices, kept),
        "cost": None if timed is None else _cost(folder, *timed, switch),
        "provenance": collect_provenance(folder, threads=torch.get_num_threads()),
    }
    write_json(folder / REPORT_FILE, report)
    return report


def classify(classifier: ScheduleClassifier, labelled: LabelledPrompts, chosen: FeatureInput) -> list[int]:
    """The most probable class of every prompt, one prompt at a time as in decoding."""
    features = labelled.features(chosen)
    return [int(choose_classes(classifier.classify([one], "the scheduler"))[0]) for one in features]


def _seed_path(folder: Path, seed: int) -> Path:
    return folder / SEEDS_FOLDER / f"{seed}.safetensors"


def _keep(folder: Path, kept: int, seeds: int) -> None:
    """Copy the checkpoint that is kept, and join the learning curves."""
    lines: list[str] = []
    for seed in range(seeds):
        header, *rows = read_text(_seed_path(folder, seed).with_suffix(".csv")).splitlines()
        lines += [*([] if lines else [f"seed,{header}"]), *(f"{seed},{row}" for row in rows)]
    write_text(folder / CURVE_FILE, "\n".join(lines) + "\n")
    with atomic_writer(folder / CHECKPOINT_NAME, "wb") as file:
        file.write(_seed_path(folder, kept).read_bytes())


def _cost(
    folder: Path, lm: LanguageModel, prompts: Sequence[Prompt], switch: PrecisionSwitch | None
) -> dict[str, float]:
    return asdict(measure_cost(lm, LearnedScheduler(folder, lm), prompts, switch=switch))
