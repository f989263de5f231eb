"""MT-Bench for a small model: only conversations that fit its context are asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accuracy.model import LanguageModel, load_model
from accuracy.reference import MODEL_FOLDER
from hwsim.trace import InputError
from studies.paper.result import Request
from studies.paper.subjects import FirstTurns, FittingQuestions, make_subject, question_file


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model(MODEL_FOLDER)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "question.jsonl"
    rows = [
        {"question_id": 1, "category": "writing", "turns": ["the cat sees the dog", "the dog sees the cat"]},
        {"question_id": 2, "category": "writing", "turns": ["a short one", "the cat " * 400]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_conversation_that_does_not_fit_the_context_is_not_asked(questions: Path, lm: LanguageModel) -> None:
    task = FittingQuestions(questions, lm, max_new_tokens=16)
    assert [one.id for one in task.examples("test")] == ["1"]
    assert task.turns == 2
    assert FirstTurns(questions, lm, max_new_tokens=16).turns == 1


def test_the_version_tells_tasks_of_other_bounds_apart(questions: Path, lm: LanguageModel) -> None:
    versions = {FittingQuestions(questions, lm, max_new_tokens=bound).version for bound in (16, 17)}
    assert len(versions) == 2


def test_a_missing_file_of_questions_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--questions question.jsonl"):
        question_file(Request(tmp_path, questions=tmp_path / "none.jsonl"))


def test_a_model_that_is_not_at_hand_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model vicuna-7b: not at hand \(there are selvic.*--model FOLDER"):
        make_subject(Request(tmp_path), "vicuna-7b")


def test_a_readers_own_model_samples_its_prompts_where_it_has_no_data(tmp_path: Path) -> None:
    subject = make_subject(Request(tmp_path, model=str(MODEL_FOLDER), max_new_tokens=12, limit=5))
    assert (subject.name, subject.report_prompts) == (MODEL_FOLDER.name, 5)
    assert (subject.report.name, subject.report.max_new_tokens) == ("self-completion", 12)
    assert subject.metric == "fidelity_rouge_l"


def test_a_readers_own_prompts_are_split_by_hash(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"the cat {number}", "reference": "x"} for number in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject = make_subject(Request(tmp_path, model=str(MODEL_FOLDER), data=data))
    assert (subject.report.name, subject.metric) == ("file", "rouge_l")
    assert subject.learn.name == "self-completion"
    reported = {one.prompt for one in subject.report.examples("test")}
    assert reported.isdisjoint(one.prompt for one in subject.tune.examples("val"))
