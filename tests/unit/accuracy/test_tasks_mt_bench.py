from __future__ import annotations

import json

import pytest

from accuracy.tasks import SPLITS, make_task
from hwsim.trace import InputError

from .test_tasks import questions, write_lines


def test_the_second_prompt_continues_the_conversation_with_the_models_own_answer(tmp_path):
    task = questions(tmp_path)
    example = task.examples("test", 1)[0]
    number = example.id
    assert task.turns == 2
    assert example.prompt == f"\n\nHuman: Write {number}.\n\nAssistant:"
    assert task.next_prompt(example, [" Here it is.\n"]) == (
        f"\n\nHuman: Write {number}.\n\nAssistant: Here it is.\n\nHuman: Rewrite {number}.\n\nAssistant:"
    )
    for answers in ([], ["a", "b"]):
        with pytest.raises(InputError, match=rf"answers: {len(answers)} given; question {number} has turns 1..2"):
            task.next_prompt(example, answers)


def test_an_answer_that_looks_like_a_form_stays_as_it_is(tmp_path):
    task = questions(tmp_path)
    example = task.examples("test", 1)[0]
    assert "Assistant: use {} or {prompt}\n\nHuman:" in task.next_prompt(example, ["use {} or {prompt}"])


def test_all_questions_are_test_only_where_nothing_is_tuned_on_them(tmp_path):
    hashed, whole = questions(tmp_path), questions(tmp_path, test_only=True)
    assert [example.id for example in whole.examples("test")] == [str(i) for i in range(81, 131)]
    assert sorted(e.id for split in SPLITS for e in hashed.examples(split)) == sorted(str(i) for i in range(81, 131))
    for split in ("calib", "val"):
        with pytest.raises(InputError, match=f"split '{split}' holds no question, because test_only"):
            whole.examples(split)
    assert whole.version != hashed.version


def test_bounds_are_the_papers(tmp_path):
    assert questions(tmp_path).max_new_tokens == 256
    assert questions(tmp_path, model="stablelm-zephyr-3b").max_new_tokens == 180
    assert questions(tmp_path, max_new_tokens=9).max_new_tokens == 9


def test_the_hubs_names_of_the_fields_give_the_same_task(tmp_path):
    rows = [{"prompt_id": i, "category": "writing", "prompt": [f"Write {i}.", f"Rewrite {i}."]} for i in range(81, 131)]
    other = make_task("mt-bench", data=write_lines(tmp_path / "hub.jsonl", rows))
    assert other.examples("test") == questions(tmp_path).examples("test")
    assert other.version == questions(tmp_path).version


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"turns": ["a", "b"]}, "x.jsonl:2: field 'question_id' is missing; fields found: turns"),
        ({"question_id": 1, "turns": ["a", "b"]}, "x.jsonl:2: question_id = 1 appears twice; ids must differ"),
        ({"question_id": 2}, "x.jsonl:2: field 'turns' is missing; fields found: question_id"),
        ({"question_id": 2, "turns": ["a"]}, "x.jsonl:2: turns = ['a']: must be a list of 2 texts"),
        ({"question_id": 2, "turns": "ab"}, "x.jsonl:2: turns = 'ab': must be a list of 2 texts"),
        ({"question_id": 2, "turns": ["a", " "]}, "x.jsonl:2: turn 2 = ' ': must be text that is not empty"),
        ({"question_id": 2, "turns": [None, "b"]}, "x.jsonl:2: turn 1 = None: must be text that is not empty"),
        ({"question_id": 2, "turns": ["A", "b"]}, "x.jsonl:2: turn 1 = 'A' is also that of question 1"),
    ],
)
def test_a_wrong_question_is_named(tmp_path, record, message):
    data = write_lines(tmp_path / "x.jsonl", [{"question_id": 1, "turns": ["A", "B"]}, record])
    with pytest.raises(InputError) as caught:
        make_task("mt-bench", data=data)
    assert message in str(caught.value)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no question"):
        make_task("mt-bench", data=write_lines(tmp_path / "x.jsonl", []))


def test_the_real_questions_keep_their_categories(shared_data):
    path = shared_data / "text/mtbench/question.jsonl"
    found = make_task("mt-bench", data=path, test_only=True).examples("test")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(e.id, e.category) for e in found] == [(str(row["question_id"]), row["category"]) for row in rows]
    assert len(found) == 80
    hashed = make_task("mt-bench", data=path)
    assert {split: len(hashed.examples(split)) for split in SPLITS}["test"] > 35
