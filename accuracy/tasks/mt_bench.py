"""MT-Bench: 80 open-ended questions of two turns each.

There are no references that a score could be taken against: the paper compares with the full-precision output, turn by
turn, where each model's second prompt holds its own first answer.

Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", 2023; FastChat's ``question.jsonl``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy.tasks.base import Example, Split, Task, hashed_split, prompt_sha256, register_task
from accuracy.tasks.loading import load_splits, read_records
from accuracy.tasks.paper import human_turn, paper_max_new_tokens
from hwsim.trace import InputError, canonical_sha256

NAME = "mt-bench"
HUB_NAME = "HuggingFaceH4/mt_bench_prompts"
TURNS = 2
ID_FIELDS, TURN_FIELDS = ("question_id", "prompt_id"), ("turns", "prompt")
"""As FastChat's file and as the hub's copy call them."""


@register_task(NAME)
class MtBenchTask(Task):
    """Questions in FastChat's form: ``question_id``, ``category`` and two ``turns``.

    The questions have no training split, so they are cut by hash, as other tasks without one are; ``test_only`` makes
    all of them test, as the paper reports them. Then calib and val hold nothing, so that only what was tuned elsewhere
    (the task-agnostic learned scheduler) can be reported: tuning and reporting share no prompt either way.
    """

    name = NAME
    metrics = ("fidelity_rouge_l", "identical_prefix_tokens")
    has_references = False
    turns = TURNS

    def __init__(
        self,
        data: Path | str | None = None,
        *,
        test_only: bool = False,
        max_new_tokens: int | None = None,
        model: str | None = None,
    ) -> None:
        """Read and check the questions.

        Args:
            data: FastChat's ``question.jsonl`` or a JSON list of such objects; the hub's copy by default.
            test_only: Whether all questions are test; else they are cut by hash.
            max_new_tokens: Bound on the response of each turn; the paper's by default.
            model: Name of the model, for which the paper may have a bound of its own.

        Raises:
            InputError: Naming the file, the line or record, the field and what is wrong with it.
        """
        self.max_new_tokens = max_new_tokens or paper_max_new_tokens(NAME, model)
        self._test_only = test_only
        self._questions: dict[str, tuple[str, ...]] = {}
        self._categories: dict[str, str | None] = {}
        first_turns: dict[str, str] = {}
        for where, record in _records(data):
            question_id = str(_one_of(record, ID_FIELDS, where))
            if question_id in self._questions:
                raise InputError(f"{where}: question_id = {question_id} appears twice; ids must differ")
            turns = _turns(record, where)
            other = first_turns.setdefault(prompt_sha256(turns[0]), question_id)
            if other != question_id:
                raise InputError(f"{where}: turn 1 = {turns[0][:80]!r} is also that of question {other}; remove one")
            self._questions[question_id] = turns
            category = record.get("category")
            self._categories[question_id] = None if category is None else str(category)
        if not self._questions:
            raise InputError(f"task '{NAME}': {data or HUB_NAME} holds no question")
        form = [human_turn("{}"), test_only, *([key, *turns] for key, turns in self._questions.items())]
        self.version = canonical_sha256(form)[:16]

    def _stream(self, split: Split) -> Iterator[Example]:
        if self._test_only and split != "test":
            raise InputError(
                f"task '{NAME}': split '{split}' holds no question, because test_only reports all of them; leave "
                "test_only out, or tune on another task"
            )
        for question_id, turns in self._questions.items():
            prompt = human_turn(turns[0])
            if self._test_only or hashed_split(prompt) == split:
                yield Example(question_id, prompt, None, self._categories[question_id])

    def next_prompt(self, example: Example, answers: Sequence[str]) -> str:
        """The conversation so far, the model's own answers in it, and the next question."""
        turns = self._questions[example.id]
        if not 1 <= len(answers) < len(turns):
            raise InputError(f"answers: {len(answers)} given; question {example.id} has turns 1..{len(turns)}")
        said = [f"{human_turn(turn)} {answer.strip()}" for turn, answer in zip(turns, answers, strict=False)]
        return "".join(said) + human_turn(turns[len(answers)])


def _records(data: Path | str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Records of a local file, or of the hub's copy."""
    if data is not None:
        yield from read_records(Path(data))
        return
    for split, rows in load_splits(NAME, HUB_NAME, None).items():
        for number, row in enumerate(rows, start=1):
            yield f"task '{NAME}': {split} row {number}", row


def _one_of(record: Mapping[str, Any], fields: Sequence[str], where: str) -> Any:
    for field in fields:
        if field in record:
            return record[field]
    raise InputError(f"{where}: field '{fields[0]}' is missing; fields found: {', '.join(sorted(record))}")


def _turns(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    turns = _one_of(record, TURN_FIELDS, where)
    if not isinstance(turns, list) or len(turns) != TURNS:
        raise InputError(f"{where}: turns = {turns!r}: must be a list of {TURNS} texts"[:300])
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, str) or not turn.strip():
            raise InputError(f"{where}: turn {number} = {turn!r}: must be text that is not empty"[:300])
    return tuple(turns)
