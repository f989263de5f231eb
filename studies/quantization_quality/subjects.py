"""The models that are quantised, each with calibration text, and with prompts and answers kept out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accuracy.decoding import Prompt
from accuracy.model import LanguageModel, load_model
from accuracy.reference import MODEL_FOLDER, TASK_NAME
from accuracy.tasks import Task, make_task, prompt_sha256
from hwsim.trace import canonical_sha256

MAX_NEW_TOKENS = 96
SAMPLED_TOKENS = 256
CONTEXT_SEED = 1
REFERENCES = "reference translations of held-out prompts, scored given their prompts"
SAMPLED = "sampled from the model itself at temperature 1, so that the difference estimates KL(full || quantised)"

Pair = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """How much text is read."""

    calibration: int
    answers: int
    prompts: int
    max_new_tokens: int = MAX_NEW_TOKENS


@dataclass(frozen=True)
class Subject:
    """One model with its text.

    Attributes:
        name: What results call it.
        folder: The unquantised model.
        calibration: Texts for Fisher information and Hessians, in the form the model was trained on.
        answers: Tokens of prompt and answer that perplexity is measured on.
        prompts: What is decoded greedily.
        text: What the answers are, in words.
    """

    name: str
    folder: Path
    calibration: tuple[str, ...]
    answers: tuple[Pair, ...]
    prompts: tuple[Prompt, ...]
    text: str

    def measured_sha256(self) -> str:
        """Identity of what is measured."""
        prompts = [[prompt.token_ids, prompt.max_new_tokens] for prompt in self.prompts]
        return canonical_sha256([self.answers, prompts])


def shared_folder() -> Path | None:
    """Real models and text beside the checkout, or where BITTAPER_SHARED says; None where there are none."""
    beside = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("BITTAPER_SHARED", beside)) / "data"
    return folder if folder.is_dir() else None


def subject_makers(shared: Path | None) -> dict[str, Callable[[], Subject]]:
    """The models to study, the shipped one first; each is made when its turn comes."""
    makers: dict[str, Callable[[], Subject]] = {"selvic": _shipped}
    if shared is not None:
        makers["stories260K"] = lambda: _stories(shared / "models" / "stories260K")
        makers["m30k-fren-2M"] = lambda: _captions(shared)
        makers["fren-paragraphs-4M"] = lambda: _paragraphs(shared / "models" / "fren-paragraphs-4M")
    return makers


def quick_subject() -> Subject:
    """The shipped model with a handful of text, for tests."""
    return _translation("selvic", MODEL_FOLDER, make_task(TASK_NAME), Sizes(4, 6, 4, 12), separator="<sep>")


def _shipped() -> Subject:
    return _translation("selvic", MODEL_FOLDER, make_task(TASK_NAME), Sizes(128, 128, 96), separator="<sep>")


def _captions(shared: Path) -> Subject:
    task = make_task("parallel-text", folder=shared / "text" / "multi30k")
    return _translation("m30k-fren-2M", shared / "models" / "m30k-fren-2M", task, Sizes(256, 192, 128, 60))


def _paragraphs(folder: Path) -> Subject:
    path = folder / "heldout_paragraphs.json"
    task = make_task("file", path=path, prompt_field="source", template="<s>{prompt}<sep>")
    return _translation("fren-paragraphs-4M", folder, task, Sizes(128, 80, 64))


def _translation(name: str, folder: Path, task: Task, sizes: Sizes, separator: str = "") -> Subject:
    """A translation model: answers are its task's references, and calibration text is ``prompt <sep> answer </s>``.

    Args:
        name: What results call it.
        folder: The model.
        task: Prompts with references.
        sizes: How much to take of each split.
        separator: What stands between prompt and answer, where the tokenizer adds it rather than the task.
    """
    lm = load_model(folder)
    end = lm.tokenizer.eos_token
    calibration = task.examples("calib", sizes.calibration)
    measured = task.examples("test", max(sizes.answers, sizes.prompts))
    pairs = []
    for example in measured[: sizes.answers]:
        answer = lm.tokenizer(f"{example.reference}{end}", add_special_tokens=False)["input_ids"]
        pairs.append((tuple(task.encode(lm.tokenizer, example.prompt)), tuple(answer)))
    _check_disjoint((one.prompt for one in calibration), (one.prompt for one in measured))
    return Subject(
        name=name,
        folder=folder,
        calibration=tuple(f"{one.prompt}{separator}{one.reference}{end}" for one in calibration),
        answers=tuple(pairs),
        prompts=_prompts(lm, task, sizes),
        text=REFERENCES,
    )


def _stories(folder: Path) -> Subject:
    """A story model, for which no text of its own kind is at hand: it samples its text itself."""
    sizes = Sizes(32, 64, 96)
    lm = load_model(folder)
    texts = make_task(
        "self-completion",
        lm=lm,
        min_prompt_tokens=SAMPLED_TOKENS,
        max_prompt_tokens=SAMPLED_TOKENS,
        max_new_tokens=1,
        seed=CONTEXT_SEED,
    )
    task = make_task("self-completion", lm=lm, max_new_tokens=sizes.max_new_tokens)
    calibration = [one.prompt for one in texts.examples("calib", sizes.calibration)]
    measured = [one.prompt for one in texts.examples("test", sizes.answers)]
    _check_disjoint(calibration, [*measured, *(one.prompt for one in task.examples("test", sizes.prompts))])
    begin = (lm.tokenizer.bos_token_id,)
    return Subject(
        name="stories260K",
        folder=folder,
        calibration=tuple(calibration),
        answers=tuple((begin, tuple(lm.tokenizer(text, add_special_tokens=False)["input_ids"])) for text in measured),
        prompts=_prompts(lm, task, sizes),
        text=SAMPLED,
    )


def _prompts(lm: LanguageModel, task: Task, sizes: Sizes) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), sizes.max_new_tokens)
        for example in task.examples("test", sizes.prompts)
    )


def _check_disjoint(calibration: Iterable[str], measured: Sequence[str] | Iterable[str]) -> None:
    """Tuning and reporting never share prompts (design decision 8)."""
    shared = {prompt_sha256(text) for text in calibration} & {prompt_sha256(text) for text in measured}
    if shared:
        raise AssertionError(f"{len(shared)} texts are in calibration and in what is measured")
