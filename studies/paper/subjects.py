"""Which model the results decode that need no tuning of their own, and MT-Bench questions that it can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy.tasks import Example, MtBenchTask, Task
from accuracy.tasks.base import Split
from hwsim.trace import InputError, canonical_sha256, file_sha256
from studies.paper.result import Request
from studies.paper.small_models import RUN_FOLDER
from studies.pmpd.bench import Bench
from studies.pmpd.run import Settings as PmpdSettings
from studies.pmpd.run import makers_of, work_folder
from studies.pmpd.stores import Stores
from studies.pmpd.subjects import Subject
from studies.quantization_quality.subjects import shared_folder

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

RETOKENIZED = 1.25
"""Most tokens that an answer becomes when it is read as text again, over those it was written with; assumed."""


class FittingQuestions(MtBenchTask):
    """The questions whose whole conversation fits the model's context."""

    def __init__(self, data: Path, lm: LanguageModel, max_new_tokens: int) -> None:
        """Read the questions.

        Args:
            data: FastChat's ``question.jsonl``.
            lm: Whose tokens count and whose context bounds.
            max_new_tokens: Bound on the answer of each turn.
        """
        super().__init__(data, test_only=True, max_new_tokens=max_new_tokens)
        self._lm = lm
        self.version = canonical_sha256([self.version, lm.shape.max_context, max_new_tokens])[:16]

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """As every task; none that fits is an error that says what to change."""
        if not any(True for _ in self._stream("test")):
            raise InputError(
                f"max_new_tokens = {self.max_new_tokens}: no question with its answers fits {self._lm.name}'s context "
                f"of {self._lm.shape.max_context} tokens; give a lower --max-new-tokens, or another model"
            )
        return super().examples(split, limit)

    def _stream(self, split: Split) -> Iterator[Example]:
        room = self._lm.shape.max_context
        answers = round((1 + RETOKENIZED) * self.max_new_tokens)
        return (
            one
            for one in super()._stream(split)
            if len(self.encode(self._lm.tokenizer, self.next_prompt(one, ["-"]))) + answers <= room
        )


class FirstTurns(FittingQuestions):
    """The first question of each conversation alone."""

    turns = 1


@dataclass(frozen=True)
class Prepared:
    """A model with its nested store and the folder of its work.

    Attributes:
        subject: The model and its text.
        stores: Its quantised forms.
        bench: Measures the nested store.
        work: Where what it takes is kept.
    """

    subject: Subject
    stores: Stores
    bench: Bench
    work: Path


def prepare(request: Request, name: str | None = None, report: Task | None = None) -> Prepared:
    """Quantise a subject, unless that was done.

    Args:
        request: What is asked for.
        name: The small model; the own model where it is None.
        report: What it is reported on, instead of its own task.
    """
    subject = make_subject(request, name)
    work = work_folder(request.out / RUN_FOLDER, subject)
    stores = Stores(subject, work / "stores")
    shown = subject if report is None else replace(subject, report=report)
    return Prepared(subject, stores, Bench(shown, stores.nested(), work / "nested", progress=request.progress), work)


def make_subject(request: Request, name: str | None = None) -> Subject:
    """A small model by name, or the own model.

    Raises:
        InputError: If the model is not at hand.
    """
    own = request.own
    makers = makers_of(PmpdSettings(request.out / RUN_FOLDER, own=own, quick=request.quick))
    chosen = own.name if own is not None else name
    if own is None and request.quick:
        (chosen,) = makers
    if chosen not in makers:
        raise InputError(f"model {chosen}: not at hand (there are {', '.join(makers)}); give one with --model FOLDER")
    return makers[chosen]()


def question_file(request: Request) -> Path:
    """MT-Bench's questions: those given, or those beside the checkout.

    Raises:
        InputError: If there are none.
    """
    shared = shared_folder()
    path = request.questions or (shared and shared / "text" / "mtbench" / "question.jsonl")
    if path is None or not path.is_file():
        raise InputError(f"MT-Bench's questions: no file {path or ''}; give FastChat's with --questions question.jsonl")
    return path


def question_settings(request: Request) -> dict[str, Any]:
    """The questions' identity, for a result's settings."""
    return {"questions_sha256": file_sha256(question_file(request)), "limit": request.asked}
