import zipfile

import pytest

from accuracy.tasks import SPLITS, prompt_sha256
from hwsim.trace import InputError
from studies.pmpd.tatoeba import TatoebaTask

REPORTED = ["Bonjour 3 ! Autre chose."]


@pytest.fixture
def archive(tmp_path):
    lines = "".join(f"Hello {i} !\tBonjour\u202f{i}\u202f!\tCC-BY\n" for i in range(400))
    path = tmp_path / "fra-eng.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("__MACOSX/._fra.txt.x", "junk")
        opened.writestr("fra-eng/fra.txt", lines + "Hi 0 !\tBonjour\u202f0\u202f!\tCC-BY\n")
    return path


def task(archive, **options):
    return TatoebaTask(archive, sentences=(1, 3), reported=REPORTED, max_new_tokens=20, **options)


def test_no_sentence_is_in_two_paragraphs_and_none_is_reported(archive):
    made = task(archive)
    sentences = [
        sentence
        for split in SPLITS
        for one in made.examples(split)
        for sentence in one.prompt.removeprefix("<s>").removesuffix("<sep>").replace("! ", "!|").split("|")
    ]
    assert len(sentences) == len(set(sentences)) > 300
    assert "Bonjour 3 !" not in sentences
    assert "Bonjour 4 !" in sentences


def test_splits_share_no_prompt_and_are_the_same_each_time(archive):
    first, again = task(archive), task(archive)
    hashes = [{prompt_sha256(one.prompt) for one in first.examples(split)} for split in SPLITS]
    assert sum(map(len, hashes)) == len(set().union(*hashes))
    assert [first.examples(split) for split in SPLITS] == [again.examples(split) for split in SPLITS]


def test_prompt_and_reference_are_of_the_same_pairs(archive):
    for one in task(archive).examples("val"):
        assert one.prompt == f"<s>{one.reference}<sep>".replace("Hello", "Bonjour")


def test_the_version_tells_seeds_and_reported_texts_apart(archive):
    other = TatoebaTask(archive, sentences=(1, 3), reported=[], max_new_tokens=20)
    assert len({task(archive).version, task(archive, seed=1).version, other.version}) == 3


def test_an_archive_without_the_file_is_refused(tmp_path):
    path = tmp_path / "empty.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("other.txt", "x")
    with pytest.raises(InputError, match=r"empty\.zip: holds no fra\.txt"):
        task(path)
