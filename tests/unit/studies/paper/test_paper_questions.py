"""MT-Bench for a small model: only conversations that fit its context are asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from accuracy.model import LanguageModel, load_model
from accuracy.reference import MODEL_FOLDER
from hwsim.trace import InputError
from studies.common.tasks import TaskChoice
from studies.paper.result import Request
from studies.paper.subjects import FirstTurns, FittingQuestions, make_subject, question_file
from studies.pmpd import subjects
from studies.pmpd.subjects import QUICK


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


def test_a_bound_that_no_conversation_fits_is_named_with_the_context(questions: Path, lm: LanguageModel) -> None:
    task = FittingQuestions(questions, lm, max_new_tokens=4096)
    with pytest.raises(InputError, match=r"max_new_tokens = 4096: no question .* context of \d+ tokens; give a lower"):
        task.examples("test")


def test_a_missing_file_of_questions_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--questions question.jsonl"):
        question_file(Request(tmp_path, questions=tmp_path / "none.jsonl"))


def test_a_model_that_is_not_at_hand_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model vicuna-7b: not at hand \(there are selvic.*--model FOLDER"):
        make_subject(Request(tmp_path), "vicuna-7b")


def test_a_readers_own_model_samples_its_prompts_where_it_has_no_data(tmp_path: Path) -> None:
    subject = make_subject(Request(tmp_path, model=str(MODEL_FOLDER), task=TaskChoice(max_new_tokens=12), limit=5))
    assert (subject.name, subject.report_prompts) == (MODEL_FOLDER.name, 5)
    assert (subject.report.name, subject.report.max_new_tokens) == ("self-completion", 12)
    assert subject.metric == "fidelity_rouge_l"


def test_a_look_at_an_own_model_takes_a_handful_of_prompts(tmp_path: Path) -> None:
    subject = make_subject(Request(tmp_path, model=str(MODEL_FOLDER), quick=True, limit=500))
    assert (subject.report_prompts, subject.tune_prompts, subject.learn_prompts) == QUICK


def test_a_readers_own_prompts_are_split_by_hash(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"the cat {number}", "reference": "x"} for number in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject = make_subject(Request(tmp_path, model=str(MODEL_FOLDER), task=TaskChoice(data=str(data))))
    assert (subject.report.name, subject.metric) == ("file", "rouge_l")
    assert subject.learn.name == "self-completion"
    reported = {one.prompt for one in subject.report.examples("test")}
    assert reported.isdisjoint(one.prompt for one in subject.tune.examples("val"))
    assert subject.metrics[-1] == "fidelity_rouge_l"


@pytest.mark.filterwarnings("ignore:.*no record has a field 'reference'")
def test_own_prompts_without_references_are_compared_with_full_precision(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"the cat {number}"}) + "\n" for number in range(60)))
    subject = make_subject(Request(tmp_path, model=str(MODEL_FOLDER), task=TaskChoice(data=str(data))))
    assert subject.metrics == ("fidelity_rouge_l", "identical_prefix_tokens")
    assert all(text for text in subject.calibration())


def test_the_papers_tasks_are_asked_with_their_own_bounds_and_metrics(tmp_path: Path) -> None:
    data = tmp_path / "dialogues.jsonl"
    rows = [{"dialogue": f"A: one. B: {number}.", "summary": "They count."} for number in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = TaskChoice(name="dialogsum", data=str(data))
    subject = make_subject(Request(tmp_path, model=str(MODEL_FOLDER), task=choice))
    assert (subject.report.max_new_tokens, subject.learn.max_new_tokens) == (33, 33)
    assert subject.metrics == ("rouge_l", "fidelity_rouge_l")
    assert subject.report.examples("test")[0].prompt.startswith("Play the role of assistant")


def test_a_task_of_two_turns_is_asked_by_its_questions_only(tmp_path: Path, questions: Path) -> None:
    choice = TaskChoice(name="mt-bench", data=str(questions), test_only=True)
    with pytest.raises(InputError, match="--task mt-bench: has 2 turns; give its file .* --questions FILE"):
        make_subject(Request(tmp_path, model=str(MODEL_FOLDER), task=choice))


def test_a_quantised_model_is_refused_before_it_is_quantised_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "load_model", lambda *_: SimpleNamespace(quantizer="nested-kmeans"))
    with pytest.raises(InputError, match=r"--model mine: is quantised \(nested-kmeans\); give the unquantised model"):
        make_subject(Request(tmp_path, model="mine"))
