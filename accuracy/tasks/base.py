"""What a task is: prompts with references, in three splits that share no prompt (design decision 8)."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

from accuracy.registry import Registry
from hwsim.trace import InputError, unknown_name

Split = Literal["calib", "val", "test"]
"""Choosing sees ``calib`` and ``val``, reporting ``test``."""
SPLITS: tuple[Split, ...] = get_args(Split)
"""All of them."""

CALIB_PERCENT, VAL_PERCENT = 20, 20
"""Shares of a hashed split; the rest is test."""


@dataclass(frozen=True)
class Example:
    """One prompt of a task.

    Attributes:
        id: Unique within the task.
        prompt: What the model reads, as text.
        reference: The answer wanted; None where only the full-precision output is known.
        category: What kind of prompt it is, for reports by kind; None where the task has one kind.
    """

    id: str
    prompt: str
    reference: str | None
    category: str | None = None


class Task(ABC):
    """A source of prompts with references.

    Attributes:
        name: Registered name.
        version: Changes whenever a prompt, a reference or a split changes.
        max_new_tokens: Bound on a response.
        metrics: What is measured unless told otherwise.
        has_references: Whether the examples have gold references.
        turns: Prompts of one conversation; each after the first contains the model's own earlier answers. The turns of
            one example are one unit of every interval.
    """

    name: str
    version: str
    max_new_tokens: int
    metrics: tuple[str, ...] = ("rouge_l", "bleu")
    has_references: bool = True
    turns: int = 1

    @abstractmethod
    def _stream(self, split: Split) -> Iterable[Example]:
        """Give the examples of a split, always in the same order."""

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """Give the first ``limit`` examples of a split, or all of them.

        Raises:
            InputError: If the split is unknown or empty, ``limit`` is below 1, or the data cannot be used.
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if limit is not None and limit < 1:
            raise InputError(f"limit = {limit}: must be >= 1")
        found = list(islice(self._stream(split), limit))
        if not found:
            raise InputError(f"task '{self.name}': split '{split}' holds no example; give more data")
        return found

    def next_prompt(self, example: Example, answers: Sequence[str]) -> str:
        """The prompt of turn ``len(answers)`` (0-based), given the answers of the turns before.

        Only a task of several turns has one; every answer is the model's own, under the schedule that is measured.
        """
        raise NotImplementedError(f"task '{self.name}' has {self.turns} turn(s)")

    def encode(self, tokenizer: Any, prompt: str) -> list[int]:
        """Turn a prompt into tokens, with the special tokens the tokenizer adds by itself."""
        ids: list[int] = tokenizer(prompt)["input_ids"]
        return ids


def prompt_sha256(prompt: str) -> str:
    """Hash of a prompt that ignores white space and Unicode composition: its identity across splits."""
    return hashlib.sha256(" ".join(unicodedata.normalize("NFC", prompt).split()).encode()).hexdigest()


def hashed_split(prompt: str) -> Split:
    """The split a prompt belongs to by its own hash, so that equal prompts can never be apart."""
    percent = int(prompt_sha256(prompt)[:8], 16) % 100
    if percent < CALIB_PERCENT:
        return "calib"
    return "val" if percent < CALIB_PERCENT + VAL_PERCENT else "test"


_TASKS: Registry[Task] = Registry("task")

register_task = _TASKS.register
make_task = _TASKS.make
task_takes = _TASKS.takes
task_names = _TASKS.names
