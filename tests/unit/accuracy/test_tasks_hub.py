from __future__ import annotations

import dataclasses

import datasets
import pytest

from accuracy.tasks import Iwslt, make_task
from hwsim.trace import InputError

from .test_tasks import dataset_folder, news, talks, word_tokenizer, write_lines


@pytest.fixture(autouse=True)
def _no_cache_in_the_home_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def dialogues(folder, rows=60):
    records = [{"fname": f"d{i}", "dialogue": f"#Person1#: {i}", "summary": f"s {i}"} for i in range(rows)]
    return write_lines(folder / "dialogsum.dev.jsonl", records)


def test_prompts_have_the_papers_form(tmp_path):
    example = news(tmp_path).examples("test", 1)[0]
    assert example.prompt == (
        "Play the role of assistant and answer the question from human. \n\n"
        "Human: Summarize the following news article in about three sentences.\n\na 1\n\nAssistant:"
    )
    assert example.reference == "h 1"


def test_a_template_replaces_the_papers_form_and_changes_the_version(tmp_path):
    data = dialogues(tmp_path)
    own, usual = make_task("dialogsum", data=data, template="Q: {prompt} A:"), make_task("dialogsum", data=data)
    found = [example.prompt for split in ("calib", "val", "test") for example in own.examples(split)]
    assert sorted(found) == sorted(f"Q: #Person1#: {i} A:" for i in range(60))
    assert own.version != usual.version
    with pytest.raises(InputError, match="template = 'x': must contain {prompt}"):
        make_task("dialogsum", data=data, template="x")


@pytest.mark.parametrize(
    ("name", "model", "limit"),
    [
        ("cnn-dm", None, 256),
        ("cnn-dm", "MobileLLaMA-1.4B-Chat", 256),
        ("cnn-dm", "Vicuna-7b-v1.5", 120),
        ("cnn-dm", "stablelm-zephyr-3b", 120),
        ("dialogsum", "stablelm-zephyr-3b", 33),
        ("iwslt-fr-en", "vicuna-7b", 60),
    ],
)
def test_bounds_are_the_papers_for_the_model_unless_given(tmp_path, name, model, limit):
    options = {"length_tokenizer": word_tokenizer(tmp_path / "tokenizer")} if name == "iwslt-fr-en" else {}
    data = dialogues(tmp_path)
    assert make_task(name, data=data, model=model, **options).max_new_tokens == limit
    assert make_task(name, data=data, model=model, max_new_tokens=7, **options).max_new_tokens == 7


def test_the_papers_subset_of_news_bounds_val_only_and_changes_the_version(tmp_path):
    for split, first, count in (("train", 1000, 150), ("validation", 100, 130), ("test", 0, 130)):
        rows = [{"article": f"a {i}", "highlights": f"h {i}"} for i in range(first, first + count)]
        write_lines(tmp_path / f"{split}.jsonl", rows)
    whole, paper = make_task("cnn-dm", data=tmp_path), make_task("cnn-dm", data=tmp_path, subset="paper")
    # Validation rows 100..129 are also in test, which keeps them; the first 100 of validation hold 30 of these.
    assert len(whole.examples("val")) == 100
    assert [example.id for example in paper.examples("val")] == [f"validation-{i}" for i in range(30, 100)]
    assert paper.examples("test") == whole.examples("test")
    assert paper.examples("calib") == whole.examples("calib")
    assert paper.version != whole.version
    with pytest.raises(InputError, match=r"unknown subset 'papr'; did you mean 'paper'\?"):
        make_task("cnn-dm", data=tmp_path, subset="papr")
    (tmp_path / "validation.jsonl").unlink()
    with pytest.raises(InputError, match="subset = paper needs train, validation and test; .* has no validation"):
        make_task("cnn-dm", data=tmp_path, subset="paper")


def test_iwslt_keeps_references_of_more_than_60_tokens_the_first_special_one_counted(tmp_path):
    # Of the three test sentences the third has a reference of 59 words, the others of 60.
    folder = tmp_path / "data"
    folder.mkdir()
    assert [example.id for example in talks(folder).examples("test")] == ["test-0", "test-1"]


def test_the_converted_files_of_the_hubs_iwslt_are_found_by_split(tmp_path, monkeypatch):
    """A local folder laid out as the hub's branch of converted files stands for the hub."""
    for split, number in (("train", 0), ("validation", 1), ("test", 2)):
        rows = [{"translation": {"fr": f"phrase {number}", "en": " ".join(["word"] * 60)}}]
        for config in ("iwslt2017-en-fr", "iwslt2017-de-en"):
            folder = tmp_path / "hub" / config / split
            folder.mkdir(parents=True)
            datasets.Dataset.from_list(rows).to_parquet(folder / "0000.parquet")
    source = dataclasses.replace(Iwslt.source, hub_name=str(tmp_path / "hub"), revision=None)
    monkeypatch.setattr(Iwslt, "source", source)
    task = make_task("iwslt-fr-en", length_tokenizer=word_tokenizer(tmp_path / "tokenizer"))
    for split, number in (("calib", 0), ("val", 1), ("test", 2)):
        (example,) = task.examples(split)
        assert f"\n\nphrase {number}\n\nAssistant:" in example.prompt


def test_a_missing_length_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="task 'iwslt-fr-en': the tokenizer that measures references") as caught:
        make_task("iwslt-fr-en", data=dialogues(tmp_path), length_tokenizer=tmp_path / "none")
    assert "give its folder as length_tokenizer" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "summary": "b"}], "train row 1: field 'dialogue' is missing; fields found: summary, text"),
        ([{"dialogue": " ", "summary": "b"}], "train row 2: dialogue = ' ': must be text that is not empty"),
        ([{"dialogue": "a", "summary": ""}], "train row 2: summary = '': must be text that is not empty"),
        ([{"dialogue": "a", "summary": None}], "train row 2: summary = None: must be text that is not empty"),
    ],
)
def test_a_wrong_row_of_local_data_is_named(tmp_path, rows, message):
    right = [{"dialogue": "A", "summary": "B"}] if "dialogue" in rows[0] else []
    data = write_lines(tmp_path / "x.jsonl", right + rows)
    with pytest.raises(InputError) as caught:
        make_task("dialogsum", data=data).examples("test")
    assert f"task 'dialogsum': {message}" in str(caught.value)


def test_rows_without_text_of_the_hubs_copy_are_left_out(tmp_path, monkeypatch):
    rows = {"train": [{"dialogue": "a", "summary": "b"}, {"dialogue": "", "summary": "b"}]}
    made = {split: datasets.Dataset.from_list(records) for split, records in rows.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.DatasetDict(made))
    task = make_task("dialogsum")
    found = []
    for split in ("calib", "val", "test"):
        try:
            found += task.examples(split)
        except InputError as error:
            assert "holds no example" in str(error)
    assert [example.id for example in found] == ["train-0"]


def test_data_that_cannot_be_loaded_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such folder or file"):
        make_task("dialogsum", data=tmp_path / "none.jsonl")
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(InputError, match="must be .json, .jsonl, .csv, .parquet or a folder"):
        make_task("dialogsum", data=tmp_path / "notes.doc")
    (tmp_path / "broken.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        make_task("dialogsum", data=tmp_path / "broken.jsonl")
    assert "\n" not in str(caught.value)


def test_a_repeated_article_stays_in_the_split_that_counts_most(tmp_path):
    data = dataset_folder(tmp_path, lambda i: {"article": f"a {i}", "highlights": f"h {i}"})
    task = make_task("cnn-dm", data=data)
    ids = {split: [example.id for example in task.examples(split)] for split in ("calib", "val", "test")}
    assert ids == {"test": ["test-0", "test-1", "test-2"], "val": ["validation-1", "validation-2"],
                   "calib": ["train-2", "train-3", "train-4"]}  # fmt: skip


def test_all_real_dialogues_are_used_once(shared_data):
    task = make_task("dialogsum", data=shared_data / "text/dialogsum/dialogsum.dev.jsonl")
    sizes = {split: len(task.examples(split)) for split in ("calib", "val", "test")}
    assert sum(sizes.values()) == 500
    assert min(sizes.values()) > 70
