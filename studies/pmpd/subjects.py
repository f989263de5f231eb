"""The models of the study: what is reported, what tunes, and what trains, none of which share a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from accuracy.model import load_model
from accuracy.reference import MODEL_FOLDER, SCHEDULER_DOMAIN, TASK_NAME
from accuracy.tasks import Example, Task, make_task, prompt_sha256
from accuracy.tasks.base import Split
from accuracy.tasks.file import FileTask
from hwsim.trace import InputError
from studies.common.tasks import TaskChoice, make_chosen_task
from studies.pmpd.tatoeba import TatoebaTask
from studies.quantization_quality.subjects import shared_folder

TUNE_PROMPTS = 256
LEARN_PROMPTS = 512
CALIBRATION_TEXTS = 128
LEARN_SEED = 7
QUICK = (6, 4, 12)
"""Prompts that are reported, that tune and that train in a run for a look."""
SAMPLED = "self-completion"
"""The task that a reader's own model has unless one is given: to continue beginnings that it samples itself."""
OWN_NEW_TOKENS, OWN_PROMPTS = 128, 320
"""Bound on a response to these, and prompts reported of any task, unless given."""
QUOTABLE = ("selvic", "stories260K")
"""Models whose prompts are generated, so that results may quote them; the others read data sets with terms."""


@dataclass(frozen=True)
class Subject:
    """One model with its text.

    Attributes:
        name: What results call it.
        folder: The unquantised model.
        report: Task whose ``test`` split is reported.
        report_prompts: How many of its prompts.
        tune: Task whose ``val`` split chooses allocation and static schedule.
        tune_prompts: How many of its prompts.
        learn: Task whose ``calib`` split trains the learned scheduler: text of another kind.
        learn_prompts: How many of its prompts.
        separator: What stands between prompt and answer of a calibration text, where the task does not say it.
        metrics: What is measured; the first decides (Static's quality, the figures).
        text: In words, what the three texts are.
        english: Whether the responses are English, which BERTScore's encoder reads.
        device: Where it runs.
    """

    name: str
    folder: Path
    report: Task
    report_prompts: int
    tune: Task
    tune_prompts: int
    learn: Task
    learn_prompts: int
    separator: str
    metrics: tuple[str, ...]
    text: str
    english: bool
    device: str = "cpu"

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return self.metrics[0]

    def calibration(self) -> list[str]:
        """Texts for the quantiser's squared gradients, of the tuning task's ``calib`` split."""
        end = load_model(self.folder).tokenizer.eos_token or ""
        chosen = self.tune.examples("calib", CALIBRATION_TEXTS)
        return [
            one.prompt if one.reference is None else f"{one.prompt}{self.separator}{one.reference}{end}"
            for one in chosen
        ]

    def check_disjoint(self) -> None:
        """Tuning, training and reporting share no prompt (design decision 8)."""
        reported = _hashes(self.report.examples("test", self.report_prompts))
        for task, split, count in (
            (self.tune, "calib", CALIBRATION_TEXTS),
            (self.tune, "val", self.tune_prompts),
            (self.learn, "calib", self.learn_prompts),
        ):
            shared = reported & _hashes(task.examples(split, count))
            if shared:
                raise AssertionError(f"{self.name}: {len(shared)} reported prompts are in {task.name}'s {split}")


@dataclass(frozen=True)
class OwnModel:
    """A model of the reader's own.

    Attributes:
        folder: Unquantised, in Hugging Face's form.
        task: What it is asked, with the bound M on a response, which divides the candidate switch steps; where none is
            chosen, it continues beginnings that it samples itself.
        device: Where it runs.
        limit: Prompts that are reported.
        quick: A handful of prompts, for a look at whether everything runs.
    """

    folder: Path
    task: TaskChoice = field(default_factory=TaskChoice)
    device: str = "cpu"
    limit: int | None = None
    quick: bool = False

    @property
    def name(self) -> str:
        """What results call it."""
        return self.folder.resolve().name


class WholeFileTask(FileTask):
    """A file all of whose prompts are reported: nothing is tuned on any of them."""

    def _stream(self, split: Split) -> Iterable[Example]:
        if split != "test":
            return []
        return (one for examples in self.examples_by_split.values() for one in examples)


def subject_makers(shared: Path | None = None) -> dict[str, Callable[[], Subject]]:
    """The models to study, the shipped one first; each is made when its turn comes."""
    makers: dict[str, Callable[[], Subject]] = {"selvic": _shipped}
    found = shared_folder() if shared is None else shared
    if found is not None:
        makers["stories260K"] = lambda: _stories(found / "models" / "stories260K")
        makers["m30k-fren-2M"] = lambda: _captions(found)
        makers["fren-paragraphs-4M"] = lambda: _paragraphs(found)
    return makers


def quick_subject() -> Subject:
    """The shipped model with a handful of prompts, for tests."""
    return _shipped(*QUICK)


def own_subject(own: OwnModel) -> Subject:
    """A reader's own model on a task; schedulers learn on what it samples itself.

    Without a task it is treated as the story model is: it samples beginnings, and its full-precision
    continuations are the reference. Its responses are taken to be English, which BERTScore's encoder reads.

    Raises:
        InputError: If it cannot be loaded or is quantised already, or the task cannot be made or has several turns.
    """
    lm = load_model(own.folder, own.device)
    if lm.quantizer != "none":
        raise InputError(
            f"--model {own.folder}: is quantised ({lm.quantizer}); give the unquantised model, of which every store "
            "that is compared is made here (nested, dense-and-sparse, GPTQ)"
        )
    choice = own.task
    if choice.name is None and choice.data is None:
        choice = replace(choice, name=SAMPLED, max_new_tokens=choice.max_new_tokens or OWN_NEW_TOKENS)
    task = make_chosen_task(lm, choice)
    if task.turns > 1:
        raise InputError(
            f"--task {task.name}: has {task.turns} turns; give its file to table-2 and fig-2, --questions FILE"
        )
    reported, tuned, learned = QUICK if own.quick else (own.limit or OWN_PROMPTS, TUNE_PROMPTS, LEARN_PROMPTS)
    return Subject(
        name=own.name,
        folder=own.folder,
        report=task,
        report_prompts=reported,
        tune=task,
        tune_prompts=tuned,
        learn=make_task(SAMPLED, lm=lm, max_new_tokens=task.max_new_tokens, seed=LEARN_SEED),
        learn_prompts=learned,
        separator=" ",
        metrics=(*task.metrics, "fidelity_rouge_l") if task.has_references else task.metrics,
        text="beginnings it sampled itself" if task.name == SAMPLED else f"{choice.data or task.name}, its own splits",
        english=True,
        device=own.device,
    )


# The bound M on a response divides the candidate switch steps; here it is the 95th percentile of the references'
# lengths (128 for the stories, which do not end), as the paper's bounds are near the lengths of its responses.
def _shipped(
    report_prompts: int = 320, tune_prompts: int = TUNE_PROMPTS, learn_prompts: int = LEARN_PROMPTS
) -> Subject:
    task, harbour = make_task(TASK_NAME), make_task(TASK_NAME, domain=SCHEDULER_DOMAIN)
    task.max_new_tokens = harbour.max_new_tokens = 72
    return Subject(
        name="selvic",
        folder=MODEL_FOLDER,
        report=task,
        report_prompts=report_prompts,
        tune=task,
        tune_prompts=tune_prompts,
        learn=harbour,
        learn_prompts=learn_prompts,
        separator="<sep>",
        metrics=("bleu", "rouge_l", "fidelity_rouge_l"),
        text="English to Selvic; tuned on other prompts of the task, learned on the generator's domain harbour",
        english=False,
    )


def _stories(folder: Path) -> Subject:
    """A story model, for which no text of its own kind is at hand: it samples its prompts itself."""
    lm = load_model(folder)
    task = make_task("self-completion", lm=lm, max_new_tokens=128)
    return Subject(
        name="stories260K",
        folder=folder,
        report=task,
        report_prompts=320,
        tune=task,
        tune_prompts=TUNE_PROMPTS,
        learn=make_task("self-completion", lm=lm, max_new_tokens=128, seed=LEARN_SEED),
        learn_prompts=LEARN_PROMPTS,
        separator="",
        metrics=("fidelity_rouge_l", "identical_prefix_tokens"),
        text="stories begun at temperature 1, scored against the full-precision continuation; "
        "learned on beginnings of another seed",
        english=True,
    )


def _captions(shared: Path) -> Subject:
    folder = shared / "text" / "multi30k"
    task = make_task("parallel-text", folder=folder, max_new_tokens=26)
    reported = [one.prompt.removeprefix("<s>").removesuffix("<sep>") for one in task.examples("test")]
    return Subject(
        name="m30k-fren-2M",
        folder=shared / "models" / "m30k-fren-2M",
        report=task,
        report_prompts=1000,
        tune=task,
        tune_prompts=TUNE_PROMPTS,
        learn=_tatoeba(shared, (1, 1), reported, 26),
        learn_prompts=LEARN_PROMPTS,
        separator="",
        metrics=("bleu", "rouge_l", "fidelity_rouge_l"),
        text="captions, French to English; tuned on Multi30k's validation, learned on Tatoeba sentences",
        english=True,
    )


def _paragraphs(shared: Path) -> Subject:
    folder = shared / "models" / "fren-paragraphs-4M"
    task = WholeFileTask(
        folder / "heldout_paragraphs.json", prompt_field="source", template="<s>{prompt}<sep>", max_new_tokens=61
    )
    reported = [one.prompt.removeprefix("<s>").removesuffix("<sep>") for one in task.examples("test")]
    return Subject(
        name="fren-paragraphs-4M",
        folder=folder,
        report=task,
        report_prompts=len(reported),
        tune=_tatoeba(shared, (3, 6), reported, 61),
        tune_prompts=TUNE_PROMPTS,
        learn=_tatoeba(shared, (3, 6), reported, 61),
        learn_prompts=LEARN_PROMPTS,
        separator="",
        metrics=("bleu", "rouge_l", "fidelity_rouge_l"),
        text="held-out paragraphs, French to English; tuned and learned on paragraphs of Tatoeba pairs that the model "
        "may have been trained on",
        english=True,
    )


def _tatoeba(shared: Path, sentences: tuple[int, int], reported: list[str], max_new_tokens: int) -> TatoebaTask:
    archive = shared / "text" / "tatoeba" / "fra-eng.zip"
    return TatoebaTask(archive, sentences=sentences, reported=reported, max_new_tokens=max_new_tokens)


def _hashes(examples: Iterable[Example]) -> set[str]:
    return {prompt_sha256(one.prompt) for one in examples}
