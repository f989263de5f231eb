"""Tuning of the training's settings with Optuna's tree-structured Parzen estimator.

The objective is the validation loss (mean cross-entropy in nats) at the best epoch, averaged over several partitions of
the training prompts into training and validation, since one small part would reward luck. It says how well the label
is predicted; bits and scores are compared afterwards, on prompts that tuning never saw. How many epochs are best is
found by early stopping inside every trial.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from tqdm import tqdm

from accuracy.scheduler_training.train import TrainingData, TrainingSettings, train_classifier
from hwsim.trace import InputError, canonical_sha256

TRIALS_FILE = "tuning.jsonl"
PARTITIONS = 3
SPACE: Mapping[str, BaseDistribution] = {
    # The paper's code searches 1e-5..1e-4 for heads of 4096 numbers; smaller ones want larger steps.
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "weight_decay": FloatDistribution(1e-3, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "batch_prompts": IntDistribution(4, 128, log=True),
    "hidden_share": CategoricalDistribution((0.25, 0.5, 1.0, 2.0)),
}
"""What is searched; ``hidden_share`` is the hidden layer's width over that of the concatenated heads."""


@dataclass(frozen=True)
class Tuning:
    """What tuning found.

    Attributes:
        settings: The best ones; those it began from where no trial was better.
        loss: Their objective.
        untuned_loss: The objective of the settings it began from.
        trials: How many were tried beside them.
    """

    settings: TrainingSettings
    loss: float
    untuned_loss: float
    trials: int


def tune(
    data: TrainingData,
    folder: Path | str,
    trials: int,
    *,
    positions: bool = False,
    base: TrainingSettings | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tuning:
    """Search settings; a search that was killed goes on where it was, to the same result.

    Args:
        data: Training prompts; held-out ones must not be among them.
        folder: Where ``tuning.jsonl`` is kept.
        trials: How many, those of an earlier run counted.
        positions: Whether the network knows positions.
        base: Where the search begins; what is not in :data:`SPACE` stays as it is there.
        seed: Of the sampler and of every training.
        progress: Show a progress bar.

    Raises:
        InputError: If ``trials`` is below 1, or the folder holds a search of other data or settings.
    """
    if trials < 1:
        raise InputError(f"trials = {trials}: must be >= 1")
    base = base or TrainingSettings()
    pooled = data.shape(None, positions).pooled_size
    parts = [data.partition(number) for number in range(PARTITIONS)]

    def objective(settings: TrainingSettings) -> float:
        return fmean(
            train_classifier(part, settings, positions=positions, seed=seed).best.validation_loss for part in parts
        )

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    log = _TrialLog(Path(folder) / TRIALS_FILE, canonical_sha256([data.identity(), asdict(base), positions, seed]))
    found = log.trials[:trials]
    for params, loss in found:
        study.add_trial(create_trial(params=params, distributions=dict(SPACE), value=loss))
    with tqdm(total=trials, initial=len(found), desc="tune", unit="trial", disable=not progress) as bar:
        for number in range(len(found), trials):
            # A sampler of its own for every trial: what it suggests depends on the trials before alone.
            study.sampler = _sampler(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
            trial = study.ask(dict(SPACE))
            loss = objective(_settings(base, trial.params, pooled))
            study.tell(trial, loss)
            log.add(trial.params, loss)
            found.append((trial.params, loss))
            bar.update()
    untuned_loss = objective(base)
    params, loss = min(found, key=lambda one: one[1])
    if untuned_loss <= loss:
        return Tuning(base, untuned_loss, untuned_loss, len(found))
    return Tuning(_settings(base, params, pooled), loss, untuned_loss, len(found))


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        # "experimental" in name only: it has been in Optuna since 2020.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def _settings(base: TrainingSettings, params: Mapping[str, Any], pooled: int) -> TrainingSettings:
    """Settings of a trial, for heads whose concatenation has width ``pooled``."""
    rest = {name: value for name, value in params.items() if name != "hidden_share"}
    return replace(base, hidden_size=max(1, round(params["hidden_share"] * pooled)), **rest)


class _TrialLog:
    """Finished trials, a line each, after a line that says of what; a line cut by a kill is dropped.

    Attributes:
        trials: Parameters and objective of each.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self.trials: list[tuple[dict[str, Any], float]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        try:
            header, *lines = [json.loads(line) for line in whole.splitlines()] or [{"search_sha256": identity}]
            self.trials = [({name: line["params"][name] for name in SPACE}, float(line["loss"])) for line in lines]
            known = header["search_sha256"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: is no log of a tuning; remove it or choose another folder") from None
        if known != identity:
            raise InputError(
                f"{path}: holds a tuning of other prompts or settings; give the same ones or choose another folder"
            )
        if not whole:
            self._append({"search_sha256": identity})

    def add(self, params: Mapping[str, Any], loss: float) -> None:
        """Append a trial; it is on the disk when this returns."""
        self._append({"params": dict(params), "loss": loss})

    def _append(self, value: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())
