from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest

from accuracy.tasks import SPLITS, hashed_split, perplexity_text
from hwsim.trace import InputError

DOCUMENTS = [f"Document {i} of the crawl." for i in range(40)]


@pytest.fixture(autouse=True)
def _no_cache_in_the_home_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def rows(path: Path, texts: list[str]) -> Path:
    content = "".join(json.dumps({"text": text, "url": "u"}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["c4-validation.jsonl", "c4-validation.00000-of-00008.json.gz"])
def test_documents_of_c4_are_cut_by_hash_and_joined_by_a_space(tmp_path, name):
    data = rows(tmp_path / name, DOCUMENTS)
    for split in SPLITS:
        expected = " ".join(document for document in DOCUMENTS if hashed_split(document) == split)
        assert perplexity_text("c4", data, split) == expected


def test_only_the_first_1100_documents_of_a_split_of_c4_are_taken(tmp_path):
    data = rows(tmp_path / "c4.jsonl", [f"d{i}" for i in range(2500)])
    words = perplexity_text("c4", data, "test").split()
    assert words == [f"d{i}" for i in range(2500) if hashed_split(f"d{i}") == "test"][:1100]
    assert len(words) == 1100


def test_rows_of_wikitext_are_joined_by_a_blank_line_and_empty_ones_belong_to_it(tmp_path):
    for split, text in (("train", "t"), ("validation", "v"), ("test", "e")):
        rows(tmp_path / f"{split}.jsonl", ["", f" = {text} = \n", "Words."])
    assert perplexity_text("wikitext", tmp_path, "val") == "\n\n = v = \n\n\nWords."
    assert perplexity_text("wikitext", tmp_path, "calib").count(" = t = ") == 1
    assert perplexity_text("wikitext", tmp_path) == "\n\n = e = \n\n\nWords."


def test_a_plain_file_is_taken_as_it_is_for_the_split_in_its_name(tmp_path):
    (tmp_path / "wiki.valid.raw").write_text(" = A = \n Words .\n", encoding="utf-8")
    (tmp_path / "wiki.test.raw").write_text(" = B = \n", encoding="utf-8")
    assert perplexity_text("wikitext", tmp_path, "val") == " = A = \n Words .\n"
    assert perplexity_text("wikitext", tmp_path / "wiki.test.raw", "test") == " = B = \n"
    (tmp_path / "latest_valid.txt").write_text(" = C = \n", encoding="utf-8")
    assert perplexity_text("wikitext", tmp_path / "latest_valid.txt", "val") == " = C = \n"
    with pytest.raises(
        InputError, match="needs one file with test in its name for split 'test', found: none of latest_"
    ):
        perplexity_text("wikitext", tmp_path / "latest_valid.txt", "test")
    with pytest.raises(InputError, match="needs one file with valid .* found: latest_valid.txt, wiki.valid.raw of"):
        perplexity_text("wikitext", tmp_path, "val")
    with pytest.raises(InputError, match="needs one file with train in its name for split 'calib', found: none"):
        perplexity_text("wikitext", tmp_path, "calib")


def test_real_wikitext_is_read_whole(shared_data):
    path = shared_data / "text/wikitext2/valid.txt"
    assert perplexity_text("wikitext", path, "val") == path.read_text(encoding="utf-8")


def test_unusable_texts_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"unknown text 'wikitex'; did you mean 'wikitext'\?"):
        perplexity_text("wikitex")
    with pytest.raises(InputError, match=r"unknown split 'tets'; did you mean 'test'\?"):
        perplexity_text("c4", split="tets")
    with pytest.raises(InputError, match="task 'c4': data = .*none: no such folder or file"):
        perplexity_text("c4", tmp_path / "none")
    with pytest.raises(InputError, match=r"text 'c4': train row 2: text = ' ': must be text that is not empty"):
        perplexity_text("c4", rows(tmp_path / "c4.jsonl", ["a b", " "]))
    with pytest.raises(InputError, match="text 'wikitext': split 'val' is not among the data's: train"):
        perplexity_text("wikitext", rows(tmp_path / "x.jsonl", ["a"]), "val")
    (tmp_path / "test.txt").write_text("\n")
    with pytest.raises(InputError, match="text 'wikitext': split 'test' holds no word"):
        perplexity_text("wikitext", tmp_path / "test.txt")
