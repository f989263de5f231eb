from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace

import pytest

from accuracy.model import load_model
from accuracy.reference import MODEL_FOLDER, encode_prompt
from accuracy.scheduler_training.training_texts import (
    completion_prompts,
    self_completion_prompts,
    shipped_prompts,
    task_prompts,
    tatoeba_prompts,
)
from accuracy.tasks import SelfCompletionTask, ShippedTask, make_task, prompt_sha256
from hwsim.trace import InputError


@pytest.fixture(scope="module")
def lm():
    return load_model(MODEL_FOLDER)


def hashes(examples):
    return {prompt_sha256(example.prompt) for example in examples}


def test_no_training_prompt_of_the_shipped_model_is_a_reported_one(lm):
    reported = {one for split in ("calib", "val", "test") for one in hashes(ShippedTask().examples(split, 400))}
    prompts = shipped_prompts(lm, 300)
    assert not reported & {prompt.id for prompt in prompts}
    assert len({prompt.id for prompt in prompts}) == 300
    example = ShippedTask("harbour").examples("calib", 1)[0]
    assert prompts[0].id == prompt_sha256(example.prompt), "an id is the hash by which splits are compared"
    assert list(prompts[0].token_ids) == encode_prompt(lm.tokenizer, example.prompt)
    assert {prompt.max_new_tokens for prompt in prompts} == {61}


def test_what_is_reported_is_left_out_whatever_the_text(lm):
    first, second = (example.prompt for example in ShippedTask("harbour").examples("calib", 2))
    assert shipped_prompts(lm, 1, reported=[f" {first}\n"])[0].id == prompt_sha256(second)
    task = ShippedTask("market")
    reported = [example.prompt for example in task.examples("calib", 5)]
    chosen = task_prompts(lm, task, 20, reported=reported)
    assert [prompt.id for prompt in chosen] == [prompt_sha256(one.prompt) for one in task.examples("calib", 25)[5:]]
    assert chosen[0].max_new_tokens == task.max_new_tokens


def test_a_models_own_beginnings_are_in_no_other_split_of_any_seed(lm):
    prompts = self_completion_prompts(lm, 40, max_new_tokens=16, min_prompt_tokens=1, max_prompt_tokens=2)
    for seed in (0, 1):
        task = SelfCompletionTask(lm, max_new_tokens=16, min_prompt_tokens=1, max_prompt_tokens=2, seed=seed)
        for split in ("val", "test"):
            assert not hashes(task.examples(split, 40)) & {prompt.id for prompt in prompts}


@pytest.fixture
def tatoeba(tmp_path):
    """A hundred sentences, the first of which has two translations."""
    rows = ["Go.\tVa !", "Leave.\tVa !", *(f"Sentence {n}.\tPhrase numéro  {n}. Tiens." for n in range(99))]
    path = tmp_path / "fra-eng.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fra-eng/_about.txt", "about")
        archive.writestr("fra-eng/fra.txt", "\n".join(rows))
    return path


def test_tatoeba_sentences_are_joined_and_each_is_used_once(lm, tatoeba):
    texts = []
    spy = replace(lm, tokenizer=lambda text: texts.append(text) or {"input_ids": [1, 2]})
    prompts = tatoeba_prompts(spy, tatoeba, 20, max_new_tokens=5, sentences=(2, 4), seed=3)
    assert len(prompts) == 20
    assert len(texts) == 20
    for text in texts:
        assert text.startswith("<s>")
        assert text.endswith("<sep>")
        assert 2 <= text.count("Phrase") + text.count("Va !") <= 4
        assert "  " not in text
    used = [part for text in texts for part in re.split(" (?=Phrase|Va)", text[3:-5])]
    assert len(used) == len(set(used))
    assert tatoeba_prompts(spy, tatoeba, 20, max_new_tokens=5, sentences=(2, 4), seed=3) == prompts
    assert tatoeba_prompts(spy, tatoeba, 20, max_new_tokens=5, sentences=(2, 4), seed=4) != prompts


def test_a_sentence_inside_a_reported_paragraph_is_left_out(lm, tatoeba):
    reported = ["<s>Bonjour. Phrase numéro 7. Au revoir.<sep>", "Va !"]
    prompts = tatoeba_prompts(lm, tatoeba, 98, max_new_tokens=5, sentences=(1, 1), reported=reported)
    absent = {prompt_sha256(f"<s>{text}<sep>") for text in ("Phrase numéro 7. Tiens.", "Va !")}
    assert not absent & {prompt.id for prompt in prompts}
    with pytest.raises(InputError, match="prompts = 99: the training text gives only 98"):
        tatoeba_prompts(lm, tatoeba, 99, max_new_tokens=5, sentences=(1, 1), reported=reported)


def test_archives_that_cannot_be_used_are_named(lm, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"x\.zip: cannot be read as a zip archive"):
        tatoeba_prompts(lm, tmp_path / "x.zip", 1, max_new_tokens=5)
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("other.txt", "")
    with pytest.raises(InputError, match=r"y\.zip: holds no fra\.txt"):
        tatoeba_prompts(lm, tmp_path / "y.zip", 1, max_new_tokens=5)
    (tmp_path / "fra.txt").write_text("Go.\tVa !\nno tab\n")
    with pytest.raises(InputError, match=r"fra\.txt:2: has no tab"):
        tatoeba_prompts(lm, tmp_path / "fra.txt", 1, max_new_tokens=5)
    with pytest.raises(InputError, match=r"sentences = \(3, 2\): must rise from 1"):
        tatoeba_prompts(lm, tmp_path / "fra.txt", 1, max_new_tokens=5, sentences=(3, 2))
    with pytest.raises(InputError, match=r"template = 'x': must contain \{prompt\}"):
        tatoeba_prompts(lm, tmp_path / "fra.txt", 1, max_new_tokens=5, template="x")


def test_completions_are_cut_between_their_bounds(lm, tmp_path):
    texts = {length: " ".join(f"the baker sells {n} loaves" for n in range(length)) for length in (1, 3, 40, 300)}
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(list(texts.values()) * 40))
    encoded = {length: lm.tokenizer(text)["input_ids"] for length, text in texts.items()}
    prompts = completion_prompts(lm, path, 60, max_new_tokens=100)
    lengths = {len(prompt.token_ids) for prompt in prompts}
    assert min(lengths) < 32
    assert max(lengths) > 300
    for prompt in prompts:
        whole = next(ids for ids in encoded.values() if tuple(ids[: len(prompt.token_ids)]) == prompt.token_ids)
        assert min(32, len(whole) // 2) <= len(prompt.token_ids) <= min(len(whole), 512 - 100)


def test_texts_are_read_from_every_form(lm, tmp_path):
    texts = ["the baker sells bread at the market", "the teacher buys two loaves"]
    forms = {
        "a.json": json.dumps(texts),
        "a.jsonl": "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in texts),
        "a.txt": "\n\n".join(texts),
    }
    found = []
    for name, content in forms.items():
        (tmp_path / name).write_text(content)
        found.append(completion_prompts(lm, tmp_path / name, 2, max_new_tokens=5))
    assert found[0] == found[1] == found[2]
    for name, content, named in (
        ("b.json", '{"a": 1}', "must be a JSON list of texts"),
        ("b.jsonl", "{", r"b\.jsonl:1: not JSON"),
        ("c.jsonl", '\n{"body": 1}', r"c\.jsonl:2: must be an object with a field 'text'"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=named):
            completion_prompts(lm, tmp_path / name, 1, max_new_tokens=5)


def test_too_little_text_is_refused_before_anything_runs(lm, tmp_path):
    (tmp_path / "a.txt").write_text("the baker sells bread")
    with pytest.raises(InputError, match="prompts = 5: the training text gives only 1 that differ, are not reported"):
        completion_prompts(lm, tmp_path / "a.txt", 5, max_new_tokens=5)
    with pytest.raises(InputError, match="prompts = 0: must be >= 1"):
        shipped_prompts(lm, 0)


@pytest.mark.slow
def test_the_real_tatoeba_archive_shares_no_sentence_with_the_held_out_paragraphs(lm, shared_data):
    def split(text):
        return {part.strip() for part in re.split("[.!?…]", re.sub("^<s>|<sep>$", "", text)) if part.strip()}

    folder = shared_data / "models" / "fren-paragraphs-4M"
    task = make_task("file", path=folder / "heldout_paragraphs.json", prompt_field="source",
                     template="<s>{prompt}<sep>", max_new_tokens=61)  # fmt: skip
    reported = [example.prompt for split in ("calib", "val", "test") for example in task.examples(split)]
    fren = load_model(folder)
    archive = shared_data / "text" / "tatoeba" / "fra-eng.zip"
    prompts = tatoeba_prompts(fren, archive, 400, max_new_tokens=61, reported=reported)
    assert not {prompt_sha256(text) for text in reported} & {prompt.id for prompt in prompts}
    held_out = {part for text in reported for part in split(text)}
    assert len(held_out) > 2000
    for prompt in prompts:
        text = fren.tokenizer.decode(prompt.token_ids, skip_special_tokens=True).strip()
        assert not held_out & split(text)
