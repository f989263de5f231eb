from __future__ import annotations

import json
from dataclasses import replace

import pytest

from accuracy.scheduler_training.features import FeatureInput
from accuracy.scheduler_training.train import TrainingData, TrainingSettings
from accuracy.scheduler_training.tune import SPACE, TRIALS_FILE, tune
from hwsim.trace import InputError

from .conftest import labelled

BASE = TrainingSettings(epochs=2, learning_rate=1e-6)
TRIALS = 12
"""More than TPE's ten random ones."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TrainingData:
    return TrainingData(labelled(tmp_path_factory.mktemp("labels"), [0, 1, 2, 3] * 6), FeatureInput())


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune(data, folder, TRIALS, base=BASE, progress=False)


def lines(folder):
    return (folder / TRIALS_FILE).read_text().splitlines()


def test_tuning_finds_better_settings_and_keeps_the_rest(found):
    folder, best = found
    assert best.loss < best.untuned_loss
    assert best.trials == TRIALS
    losses = [json.loads(line)["loss"] for line in lines(folder)[1:]]
    assert best.loss == min(losses)
    assert replace(best.settings, **{name: getattr(BASE, name) for name in ("learning_rate", "weight_decay", "dropout",
                   "batch_prompts", "hidden_size")}) == BASE  # fmt: skip
    for line in lines(folder)[1:]:
        assert set(json.loads(line)["params"]) == set(SPACE)


@pytest.mark.parametrize("kept_lines", [0, 1, 5, 11])
def test_a_search_killed_anywhere_ends_with_the_same_trials(data, found, tmp_path, kept_lines):
    folder, best = found
    kept = lines(folder)[:kept_lines]
    torn = lines(folder)[kept_lines][:20]
    (tmp_path / TRIALS_FILE).write_text("".join(line + "\n" for line in kept) + torn)
    assert tune(data, tmp_path, TRIALS, base=BASE, progress=False) == best
    assert lines(tmp_path) == lines(folder)


def test_settings_that_no_trial_beats_stay(data, tmp_path):
    good = replace(BASE, learning_rate=1e-2, epochs=30)
    best = tune(data, tmp_path, 1, base=good, progress=False)
    assert json.loads(lines(tmp_path)[1])["loss"] > best.loss == best.untuned_loss
    assert best.settings == good


def test_a_search_of_other_settings_or_another_file_is_refused(data, found, tmp_path):
    with pytest.raises(InputError, match="holds a tuning of other prompts or settings"):
        tune(data, found[0], TRIALS, base=replace(BASE, epochs=3), progress=False)
    (tmp_path / TRIALS_FILE).write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="is no log of a tuning"):
        tune(data, tmp_path, 1, progress=False)
    with pytest.raises(InputError, match="trials = 0"):
        tune(data, tmp_path, 0, progress=False)
