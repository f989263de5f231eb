from __future__ import annotations

import argparse
import json
import subprocess
import sys
from types import SimpleNamespace

import datasets
import pytest

from accuracy.tasks import TEXTS as PERPLEXITY_TEXTS
from accuracy.tasks import task_names
from hwsim.trace import InputError
from studies.cli import build_parser
from studies.common.tasks import TASKS, TEXTS, TaskChoice, add_task, make_chosen_task

QUESTIONS = [{"question_id": i, "category": "math", "turns": [f"Add {i}.", "Again."]} for i in range(30)]
DIALOGUES = [{"dialogue": f"#Person1#: {i}", "summary": f"s {i}"} for i in range(30)]


@pytest.fixture(autouse=True)
def _no_cache_in_the_home_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def data(tmp_path):
    """Folder with one file of each kind."""
    for name, rows in (("question", QUESTIONS), ("dialogues", DIALOGUES)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def chosen(*arguments: str, model: str = "stablelm-zephyr-3b"):
    parser = argparse.ArgumentParser()
    add_task(parser)
    lm = SimpleNamespace(name=model)
    return make_chosen_task(lm, TaskChoice.of(parser.parse_args([str(argument) for argument in arguments])))


def test_the_help_lists_every_task_and_text():
    assert sorted(TASKS) == sorted(task_names())
    assert sorted(TEXTS) == sorted(PERPLEXITY_TEXTS)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["evaluate"], True),
        (["trace"], False),
        (["train-scheduler"], False),
        (["solve"], False),
        (["study", "codesign"], False),
    ],
)
def test_only_a_command_that_measures_perplexity_offers_its_texts(words, texts, capsys):
    with pytest.raises(SystemExit):
        build_parser(words[0]).parse_args([*words, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default without --data: selvic, the shipped one)" in text
    assert ("for --metric perplexity also c4 or wikitext" in text) is texts


def test_listing_the_options_loads_no_torch():
    code = "import sys, studies.common.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_shipped_task_is_the_default_and_own_data_is_a_file(data):
    assert chosen().name == "selvic"
    (data / "own.jsonl").write_text(json.dumps({"prompt": "a", "reference": "b"}) + "\n")
    assert chosen("--data", data / "own.jsonl").name == "file"


def test_options_reach_the_tasks_that_take_them(data):
    whole = chosen("--task", "mt-bench", "--data", data / "question.jsonl", "--test-only")
    assert len(whole.examples("test")) == 30
    own = chosen("--task", "dialogsum", "--data", data / "dialogues.jsonl", "--template", "Q: {prompt}")
    assert own.examples("test", 1)[0].prompt.startswith("Q: #Person1#")


def test_the_bound_is_the_papers_for_the_model_unless_given(data):
    arguments = ("--task", "mt-bench", "--data", data / "question.jsonl")
    assert chosen(*arguments).max_new_tokens == 180
    assert chosen(*arguments, model="vicuna-7b").max_new_tokens == 256
    assert chosen(*arguments, "--max-new-tokens", "9").max_new_tokens == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "mt-bench", "--subset", "paper"], "--subset paper: task 'mt-bench' takes no such option"),
        (["--test-only"], "--test-only: task 'selvic' takes no such option; leave it out"),
        (["--template", "x{prompt}"], "--template x{prompt}: task 'selvic' takes no such option"),
        (["--task", "dialogsum", "--length-tokenizer", "t"], "--length-tokenizer t: task 'dialogsum' takes no such"),
        (["--task", "selvic", "--data", "x.jsonl"], "--data x.jsonl: task 'selvic' takes no data; leave it out"),
        (["--task", "file"], "--data is missing: task 'file' reads its prompts from there"),
        (["--task", "c4"], "--task c4: is a text for --metric perplexity, without prompts; choose another task"),
        (["--task", "mtbench"], "unknown task 'mtbench'; did you mean 'mt-bench'?"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError) as caught:
        chosen(*arguments)
    assert message in str(caught.value)
