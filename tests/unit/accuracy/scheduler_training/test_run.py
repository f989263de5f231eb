from __future__ import annotations

import csv
import json
import shutil

import pytest

from accuracy.decoding import Prompt
from accuracy.scheduler_training.checkpoint import read_config
from accuracy.scheduler_training.features import FeatureInput
from accuracy.scheduler_training.labels import collect_labels
from accuracy.scheduler_training.report import describe_comparison
from accuracy.scheduler_training.run import train_scheduler
from accuracy.scheduler_training.train import TrainingSettings
from accuracy.schedulers import CandidateSet, LearnedScheduler
from hwsim.trace import InputError

from ..conftest import FakeSwitch, tiny_llama
from .conftest import labelled

SETTINGS = TrainingSettings(epochs=4, learning_rate=1e-2)
OPTIONS = {"training_text": "made by hand", "held_out": 40, "settings": SETTINGS, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("labels"), [number % 4 for number in range(120)])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return out, train_scheduler(data, out, tuning_trials=2, **OPTIONS)


def stable(report):
    return {key: value for key, value in report.items() if key != "provenance"}


def test_the_report_says_what_was_trained_and_what_it_is_worth(trained):
    out, report = trained
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["prompts"] == {"training": 72, "validation": 8, "held_out": 40}
    assert report["label_counts"]["held_out"] == (10, 10, 10, 10)
    assert report["classes"] == ["p3:2", "p3:3>2@4", "p3:3>2@8", "p3:3"]
    comparison = report["comparison"]
    assert comparison["n"] == 40
    assert comparison["policies"][0]["policy"] == "learned"
    assert len([one for one in comparison["policies"] if one["policy"].startswith("learned")]) == 3
    learned = comparison["policies"][0]
    assert learned["accuracy"]["value"] > 0.9, "the features tell the label"
    assert learned["over_static_mix"]["low"] > 0
    assert any(finding.startswith("better than random-prior at equal bits") for finding in comparison["findings"])
    assert comparison["over_seeds"]["accuracy"]["lowest"] <= learned["accuracy"]["value"]


def test_the_seed_of_least_validation_loss_is_kept(trained):
    out, report = trained
    losses = {one["seed"]: one["validation_loss"] for one in report["seeds"]}
    assert report["kept_seed"] == min(losses, key=losses.get)
    assert read_config(out).seed == report["kept_seed"]
    assert LearnedScheduler(out).config.validation_loss == min(losses.values())
    with (out / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["seed"] for row in rows} == {"0", "1", "2"}
    assert min(float(row["validation_loss"]) for row in rows) == min(losses.values())


@pytest.mark.parametrize(
    "lost",
    [
        ["report.json"],
        ["seeds/1.safetensors", "seeds/2.safetensors", "scheduler.safetensors"],
        ["seeds", "tuning.jsonl", "curve.csv"],
    ],
)
def test_a_training_killed_at_any_stage_ends_with_the_same_report(data, trained, tmp_path, lost):
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    for name in lost:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink()
    assert stable(train_scheduler(data, out, tuning_trials=2, **OPTIONS)) == stable(trained[1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": TrainingSettings(epochs=5)}, "settings: learning_rate|settings: epochs"),
        ({"rule": "full-precision"}, "label_rule = high-precision, now full-precision"),
        ({"positions": True}, "positions = False, now True"),
        ({"seeds": 0}, "seeds = 0: must be >= 1"),
        ({"tuning_trials": -1}, "tuning_trials = -1: must be >= 0"),
        ({"held_out": 120}, r"held_out = 120: must be 1\.\.119"),
    ],
)
def test_a_training_is_not_continued_with_other_settings(data, trained, change, named):
    with pytest.raises(InputError, match=named):
        train_scheduler(data, trained[0], **{"tuning_trials": 2, **OPTIONS, **change})


def test_without_held_out_prompts_there_is_no_comparison(data, tmp_path):
    report = train_scheduler(data, tmp_path, **{**OPTIONS, "held_out": 0, "seeds": 1})
    assert report["comparison"] is None
    assert report["prompts"]["held_out"] == 0


def test_a_network_that_always_chooses_one_class_is_called_that(data, trained):
    kept = read_config(trained[0])
    found = describe_comparison(data.split(40)[1], {kept.seed: [2] * 40}, kept)
    assert found["chosen_counts"] == {"learned": (0, 0, 40, 0)}
    assert found["findings"][1].startswith("it chose one class for every prompt")
    assert not any(finding.startswith("better") for finding in found["findings"])


def test_variants_share_labels_and_the_cost_is_measured(tmp_path):
    lm = tiny_llama()
    switch = FakeSwitch(lm.model)
    prompts = [Prompt(f"p{n}", tuple(range(3, 5 + n % 7)), 10) for n in range(16)]
    labels = collect_labels(
        lm, prompts, CandidateSet.of([4, 3, 2], 3), tmp_path / "labels", progress=False, switch=switch
    )
    assert labels.settings.candidates.classes == 6
    for name in ("kv-first", "activations-last"):
        report = train_scheduler(
            labels,
            tmp_path / name,
            **{**OPTIONS, "held_out": 4, "seeds": 1},
            chosen=FeatureInput.named(name),
            positions=True,
            timed=(lm, prompts[-3:]),
            switch=switch,
        )
        assert report["input"] == name
        assert report["cost"]["prompts"] == 3
        assert report["cost"]["parameters"] == LearnedScheduler(tmp_path / name, lm).config.classifier.parameters
