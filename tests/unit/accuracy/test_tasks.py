from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accuracy.tasks import (
    SPLITS,
    Example,
    Task,
    hashed_split,
    make_task,
    prompt_sha256,
    register_task,
    task_names,
)
from hwsim.trace import InputError

from .conftest import FakeSwitch, tiny_llama


@pytest.fixture(autouse=True)
def _no_cache_in_the_home_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def user_file(folder: Path) -> Task:
    # Every prompt twice, once with other white space: both copies must fall into one split.
    records = [{"prompt": f"word {i % 40}" + " " * (i // 40), "reference": f"answer {i}"} for i in range(80)]
    return make_task("file", path=write_lines(folder / "data.jsonl", records))


def parallel_text(folder: Path) -> Task:
    # The first test sentence also stands in val and train, the second val sentence in train.
    for stem, numbers in (("train", [1, 7, 20, 21, 22]), ("val", [1, 6, 7]), ("test_2016_flickr", [1, 2, 3])):
        (folder / f"{stem}.fr").write_text("".join(f"phrase {i}\n" for i in numbers), encoding="utf-8")
        (folder / f"{stem}.en").write_text("".join(f"sentence {i}\n" for i in numbers), encoding="utf-8")
    return make_task("parallel-text", folder=folder)


def dataset_folder(folder: Path, row: Callable[[int], dict]) -> Path:
    for split, numbers in (("train", [1, 7, 20, 21, 22]), ("validation", [1, 6, 7]), ("test", [1, 2, 3])):
        write_lines(folder / f"{split}.jsonl", [row(i) for i in numbers])
    return folder


def news(folder: Path) -> Task:
    return make_task("cnn-dm", data=dataset_folder(folder, lambda i: {"article": f"a {i}", "highlights": f"h {i}"}))


def dialogues(folder: Path) -> Task:
    # One file only: no native splits, so the hash decides.
    rows = [{"fname": f"d{i}", "dialogue": f"#Person1#: {i}", "summary": f"s {i}"} for i in range(60)]
    return make_task("dialogsum", data=write_lines(folder / "dialogsum.dev.jsonl", rows))


def word_tokenizer(folder: Path) -> Path:
    """Folder of a tokenizer that takes every word as one token and puts one special token before a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "word": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    return folder


def talks(folder: Path) -> Task:
    """Sentence 3 has a reference of 59 words, all others of 60."""
    long = " ".join(["word"] * 59)
    row = lambda i: {"translation": {"fr": f"phrase {i}", "en": f"{long} {i}" if i != 3 else long}}  # noqa: E731
    data = dataset_folder(folder, row)
    return make_task("iwslt-fr-en", data=data, length_tokenizer=word_tokenizer(folder.parent / "tokenizer"))


def questions(folder: Path, **options) -> Task:
    rows = [
        {"question_id": i, "category": "writing", "turns": [f"Write {i}.", f"Rewrite {i}."], "reference": []}
        for i in range(81, 131)
    ]
    return make_task("mt-bench", data=write_lines(folder / "question.jsonl", rows), **options)


def shipped(folder: Path) -> Task:
    from accuracy.reference import TASK_NAME

    return make_task(TASK_NAME)


class WordTokenizer:
    """Tokenizer of the tiny model with a token to begin with."""

    bos_token_id = 1

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(f"t{i}" for i in ids if i > 2 or not skip_special_tokens)


def completions(folder: Path) -> Task:
    lm = dataclasses.replace(tiny_llama(), tokenizer=WordTokenizer())
    return make_task("self-completion", lm=lm, max_prompt_tokens=20, max_new_tokens=20, switch=FakeSwitch(lm.model))


TASKS = {
    "file": user_file,
    "parallel-text": parallel_text,
    "cnn-dm": news,
    "dialogsum": dialogues,
    "iwslt-fr-en": talks,
    "mt-bench": questions,
    "self-completion": completions,
    "selvic": shipped,
}


DATA = {"file": "path", "parallel-text": "folder"}
"""What a task calls its data, where not ``data``."""


def test_the_contract_below_covers_every_task():
    assert set(TASKS) == set(task_names())


@pytest.fixture(params=sorted(TASKS))
def task(request, tmp_path) -> Task:
    folder = tmp_path / "data"
    folder.mkdir()
    return TASKS[request.param](folder)


def test_no_prompt_is_in_two_splits(task):
    hashes = {split: {prompt_sha256(example.prompt) for example in task.examples(split, 60)} for split in SPLITS}
    assert hashes["calib"] and hashes["val"] and hashes["test"]
    assert not hashes["calib"] & hashes["val"]
    assert not hashes["calib"] & hashes["test"]
    assert not hashes["val"] & hashes["test"]


@pytest.mark.parametrize(
    ("name", "options", "data", "prompts"),
    [
        ("dialogsum", {}, "text/dialogsum/dialogsum.dev.jsonl", 500),
        ("mt-bench", {}, "text/mtbench/question.jsonl", 80),
        ("parallel-text", {}, "text/multi30k", 31_014 - 35),
        ("file", {"prompt_field": "dialogue", "reference_field": "summary"}, "text/dialogsum/dialogsum.dev.jsonl", 500),
    ],
)
def test_real_data_falls_apart_into_splits_without_a_loss(shared_data, name, options, data, prompts):
    task = make_task(name, **{DATA.get(name, "data"): shared_data / data}, **options)
    hashes = {split: [prompt_sha256(example.prompt) for example in task.examples(split)] for split in SPLITS}
    together = [identity for split in SPLITS for identity in hashes[split]]
    assert sum(len(set(found)) for found in hashes.values()) == len(set(together))
    assert len(together) == prompts  # Multi30k repeats 35 captions, all of them in train


def test_examples_repeat_have_unique_ids_and_begin_with_the_shorter_list(task):
    for split in SPLITS:
        some = task.examples(split, 20)
        assert len({example.id for example in some}) == len(some)
        assert task.examples(split, 2) == some[:2]
        assert all(example.prompt.strip() for example in some)
        assert all((example.reference is not None) == task.has_references for example in some)
    assert task.version
    assert task.max_new_tokens > 0


def test_unknown_splits_and_limits_are_refused(task):
    with pytest.raises(InputError, match=r"unknown split 'tset'; did you mean 'test'\?"):
        task.examples("tset")
    with pytest.raises(InputError, match="limit = 0: must be >= 1"):
        task.examples("test", 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30))
def test_white_space_and_composition_do_not_move_a_prompt_to_another_split(text):
    assert hashed_split(f"  {text}\n") == hashed_split(text)
    assert hashed_split("de\u0301ja\u0300") == hashed_split("d\u00e9j\u00e0")


def test_the_first_split_that_counts_keeps_a_repeated_sentence(tmp_path):
    task = parallel_text(tmp_path)
    assert [example.prompt for example in task.examples("test")] == [f"<s>phrase {i}<sep>" for i in (1, 2, 3)]
    assert [example.prompt for example in task.examples("val")] == [f"<s>phrase {i}<sep>" for i in (6, 7)]
    assert [example.id for example in task.examples("calib")] == ["train-3", "train-4", "train-5"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"}', "data.jsonl:2: field 'reference' is missing; fields found: prompt"),
        ('{"prompt": " ", "reference": "b"}', "data.jsonl:2: prompt = ' ': must be text that is not empty"),
        ('{"prompt": 7, "reference": "b"}', "data.jsonl:2: prompt = 7: must be text that is not empty"),
        ('{"prompt": "a", "reference": "b", "id": 1}', "data.jsonl:2: id = '1' appears twice"),
        ("[1]", "data.jsonl:2: must be an object"),
        ("{", "data.jsonl:2: not JSON"),
    ],
)
def test_a_wrong_line_of_a_user_file_is_named(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": 1, "prompt": "x", "reference": "y"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        make_task("file", path=path)
    assert message in str(caught.value)


def test_user_files_may_be_json_lists_with_fields_of_other_names(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"source": f"s {i}", "target": f"t {i}", "more": 1} for i in range(40)]))
    task = make_task("file", path=path, prompt_field="source", reference_field="target", template="<s>{prompt}<sep>")
    found = [example for split in SPLITS for example in task.examples(split)]
    assert sorted(example.prompt for example in found) == sorted(f"<s>s {i}<sep>" for i in range(40))
    assert Example("1", "<s>s 0<sep>", "t 0") in found


def test_a_user_file_without_any_reference_is_compared_with_full_precision(tmp_path):
    path = write_lines(tmp_path / "prompts.jsonl", [{"prompt": f"p {i}"} for i in range(30)])
    with pytest.warns(UserWarning, match="no record has a field 'reference'.*--reference-field"):
        task = make_task("file", path=path)
    assert not task.has_references
    assert task.metrics == ("fidelity_rouge_l", "identical_prefix_tokens")
    assert {example.reference for split in SPLITS for example in task.examples(split)} == {None}
    with pytest.raises(InputError, match="field 'answer' is missing"):
        make_task("file", path=path, reference_field="answer")


def changed_version(name: str, folder: Path) -> str:
    """Version of the task's data with one character of one file changed."""
    TASKS[name](folder)
    file = next(
        file for file in sorted(folder.iterdir()) if file.name.startswith(("data", "test", "question", "dialog"))
    )
    text = file.read_text(encoding="utf-8")
    place = max(index for index, character in enumerate(text) if character.isdigit())
    other = "1" if text[place] == "0" else "0"
    file.write_text(text[:place] + other + text[place + 1 :], encoding="utf-8")
    options = {"length_tokenizer": folder.parent / "tokenizer"} if name == "iwslt-fr-en" else {}
    data = file if name in ("file", "mt-bench", "dialogsum") else folder
    return make_task(name, **{DATA.get(name, "data"): data}, **options).version


@pytest.mark.parametrize("name", ["cnn-dm", "dialogsum", "file", "iwslt-fr-en", "mt-bench", "parallel-text"])
def test_a_tasks_version_repeats_and_follows_its_data(name, tmp_path):
    folders = [tmp_path / str(i) / "data" for i in range(3)]
    for folder in folders:
        folder.mkdir(parents=True)
    first = TASKS[name](folders[0]).version
    assert TASKS[name](folders[1]).version == first
    assert changed_version(name, folders[2]) != first


def test_a_files_version_follows_its_template(tmp_path):
    data = write_lines(tmp_path / "a.jsonl", [{"prompt": "a", "reference": "b"}])
    assert make_task("file", path=data).version != make_task("file", path=data, template="{prompt}!").version


def test_missing_and_uneven_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        make_task("file", path=tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"needs one file test\*.fr, found: none"):
        make_task("parallel-text", folder=tmp_path)
    parallel_text(tmp_path)
    (tmp_path / "val.en").write_text("one\n", encoding="utf-8")
    with pytest.raises(InputError, match="3 lines, val.en has 1: they must be equal"):
        make_task("parallel-text", folder=tmp_path)
    (tmp_path / "val.en").write_text("one\n\nthree\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"val.en:2: empty; remove this line from val.fr and val.en"):
        make_task("parallel-text", folder=tmp_path)
    with pytest.raises(InputError, match="must contain {prompt}"):
        make_task("parallel-text", folder=tmp_path, template="x")


def test_unknown_tasks_suggest_the_nearest_and_third_parties_add_their_own():
    with pytest.raises(InputError, match=r"unknown task 'dialogsun'; did you mean 'dialogsum'\?"):
        make_task("dialogsun")
    with pytest.raises(ValueError, match="already registered"):
        register_task("file")(user_file)


def test_completion_prompts_are_cut_between_the_lengths(tmp_path):
    lengths = {len(example.prompt.split()) for example in completions(tmp_path).examples("test", 60)}
    assert min(lengths) >= 7  # a special token inside a prompt is not text
    assert max(lengths) <= 20
    assert len(lengths) > 5
    with pytest.raises(InputError, match="max_new_tokens = 90: must rise from 1, the last two together within 96"):
        make_task("self-completion", lm=tiny_llama(), max_prompt_tokens=20, max_new_tokens=90)
