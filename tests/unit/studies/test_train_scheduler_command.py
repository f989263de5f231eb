"""``bittaper train-scheduler`` at the command line."""

from __future__ import annotations

import json

import pytest

from accuracy.model import load_model
from accuracy.quantization import NestedSettings, quantize
from accuracy.reference import MODEL_FOLDER, SCHEDULER_DOMAIN, examples
from studies import cli
from studies.commands.train_scheduler import _prompts

SMALL = ["--widths", "3,2", "--points", "3", "--prompts", "10", "--held-out", "6", "--seeds", "1", "--epochs", "2",
         "--max-new-tokens", "12", "--batch-size", "16"]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "selvic"
    quantize(MODEL_FOLDER, folder, NestedSettings(max_bits=3), progress=False)
    return folder


def run(store, out, *more, small=SMALL):
    return cli.main(["train-scheduler", "--model", str(store), "--out", str(out), *small, *more])


@pytest.mark.slow
def test_a_training_prints_labels_comparison_and_cost_and_goes_on_to_the_same_report(capsys, store, tmp_path):
    assert run(store, tmp_path / "out", "--quiet") == 0
    out = capsys.readouterr().out
    for text in ("p3:3>2@6", "random-prior", "oracle", "n = 6 held-out prompts", "its own cost: ", "of prefill"):
        assert text in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["training_text"] == "selvic, domain harbour"
    (tmp_path / "out" / "report.json").unlink()
    assert run(store, tmp_path / "out", "--json") == 0
    printed = capsys.readouterr()
    again = json.loads(printed.out)
    assert "labels" in printed.err
    for part in ("seeds", "comparison", "label_counts", "settings"):
        assert again[part] == report[part]
    assert run(store, tmp_path / "out", "--dropout", "0.3") == cli.EXIT_BAD_INPUT
    assert "settings: dropout = 0.1, now 0.3" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "task", "self-completion"])
def test_every_training_text_can_be_named(capsys, store, tmp_path, kind):
    texts = [example.prompt for example in examples("calib", 40)]
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(texts))
    options = {
        "text": ["--text", str(path)],
        "task": ["--task", "selvic"],
        "self-completion": ["--self-completion"],
    }[kind]
    assert run(store, tmp_path / "out", "--quiet", "--json", *options) == 0
    found = json.loads(capsys.readouterr().out)["training_text"]
    assert found.startswith({"text": "completions of texts.json", "task": "calib split of task selvic",
                             "self-completion": "beginnings sampled"}[kind])  # fmt: skip


def test_prompts_that_will_be_reported_can_be_left_out(capsys, store, tmp_path):
    reported = tmp_path / "reported.jsonl"
    lines = [json.dumps({"id": one.id, "prompt": one.prompt}) for one in examples("calib", 4, SCHEDULER_DOMAIN)]
    reported.write_text("\n".join(lines) + "\n")
    found = []
    for options in ([], ["--leave-out", str(reported)]):
        args = cli.build_parser("train-scheduler").parse_args(
            ["train-scheduler", "--model", str(store), "--out", "x", *SMALL, *options]
        )
        found.append(_prompts(args, load_model(store))[0])
    assert found[0][4:] == found[1][:12]
    assert not {one.id for one in found[0][:4]} & {one.id for one in found[1]}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--text", "a.txt", "--task", "selvic"], "--task: does not go with --text"),
        (["--sentences", "1", "2"], "--sentences: does not go with a training text other than --tatoeba"),
        (["--tatoeba", "a.zip", "--data", "b"], "--data: does not go with --tatoeba"),
        (["--widths", "3"], "a scheduler needs at least 2 widths"),
        (["--widths", "9,3"], "widths = 9: must be 1..8, or 16"),
        (["--learning-rate", "0"], "learning_rate = 0.0: out of bounds"),
        (["--model", "nowhere/at/all"], "nowhere/at/all: no such folder"),
    ],
)
def test_bad_options_are_one_line_before_any_model_is_loaded(capsys, tmp_path, options, named):
    assert run("nowhere/at/all", tmp_path / "out", *options) == cli.EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert named in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_shows_examples_and_every_training_text(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train-scheduler", "--help"])
    out = capsys.readouterr().out
    for text in ("examples:", "--tatoeba ZIP", "domain harbour", "--label-rule", "--tune TRIALS"):
        assert text in out
