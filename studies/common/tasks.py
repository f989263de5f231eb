"""Which task a command line means: the shipped one, a registered one, or the user's own file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError, unknown_name
from studies.commands.options import positive_int

if TYPE_CHECKING:
    from accuracy.model import LanguageModel
    from accuracy.tasks import Task

TASKS = (
    "cnn-dm",
    "dialogsum",
    "file",
    "iwslt-fr-en",
    "mt-bench",
    "parallel-text",
    "self-completion",
    "selvic",
)
"""As registered; written out because listing them would load torch."""
TEXTS = ("c4", "wikitext")
DATA_OPTIONS = {"file": "path", "parallel-text": "folder"}
"""What a task that cannot do without data calls it."""


def add_task(parser: argparse.ArgumentParser, *, default: str = "selvic, the shipped one", texts: bool = False) -> None:
    """Offer the options that choose a task.

    Args:
        parser: Of the command.
        default: What is asked without ``--task`` and ``--data``.
        texts: Whether the command takes a text for perplexity as well.
    """
    group = parser.add_argument_group("task")
    group.add_argument(
        "--task",
        metavar="NAME",
        help=f"a registered task: {', '.join(TASKS)} (default without --data: {default})"
        + (f"; for --metric perplexity also {' or '.join(TEXTS)}" if texts else ""),
    )
    group.add_argument(
        "--data", metavar="PATH", help="own .jsonl or .json with prompt and reference, or the data of --task"
    )
    group.add_argument("--template", help="text around a prompt of the data, for example '<s>{prompt}<sep>'")
    group.add_argument("--prompt-field", metavar="FIELD", help="field with the prompt in own data (default prompt)")
    group.add_argument("--reference-field", metavar="FIELD", help="field with the reference (default reference)")
    group.add_argument(
        "--max-new-tokens",
        type=positive_int,
        metavar="M",
        help="bound on a response (default: the task's; for the paper's tasks the paper's, which depends on the model)",
    )
    group.add_argument(
        "--subset", metavar="SUBSET", help="cnn-dm: all (default), or paper for the first 100 of validation as val"
    )
    group.add_argument(
        "--length-tokenizer",
        metavar="PATH",
        help="iwslt-fr-en: folder or hub name of the tokenizer that measures references (default Vicuna's)",
    )
    group.add_argument(
        "--test-only", action="store_true", help="mt-bench: all 80 questions are test, none is for tuning"
    )


@dataclass(frozen=True)
class TaskChoice:
    """The task options of a command line; None is the default of each."""

    name: str | None = None
    data: str | None = None
    template: str | None = None
    prompt_field: str | None = None
    reference_field: str | None = None
    max_new_tokens: int | None = None
    subset: str | None = None
    length_tokenizer: str | None = None
    test_only: bool | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> TaskChoice:
        """What was given on the command line."""
        return cls(
            name=args.task,
            data=args.data,
            template=args.template,
            prompt_field=args.prompt_field,
            reference_field=args.reference_field,
            max_new_tokens=args.max_new_tokens,
            subset=args.subset,
            length_tokenizer=args.length_tokenizer,
            test_only=args.test_only or None,
        )

    def options(self) -> dict[str, Any]:
        """The options given that only some tasks take."""
        names = ("template", "prompt_field", "reference_field", "subset", "length_tokenizer", "test_only")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def make_chosen_task(lm: LanguageModel, choice: TaskChoice) -> Task:
    """Make the task that the options name.

    Raises:
        InputError: If the task is unknown, needs data that is not given, or an option does not fit it.
    """
    from accuracy.reference import TASK_NAME
    from accuracy.tasks import make_task, task_names, task_takes

    name, data = choice.name, choice.data
    if name is None:
        name = TASK_NAME if data is None else ("parallel-text" if Path(data).is_dir() else "file")
    if name in TEXTS:
        raise InputError(f"--task {name}: is a text for --metric perplexity, without prompts; choose another task")
    if name not in task_names():
        raise unknown_name("task", name, task_names())
    options = choice.options()
    for option, value in options.items():
        if not task_takes(name, option):
            given = "" if value is True else f" {value}"
            raise InputError(f"--{option.replace('_', '-')}{given}: task '{name}' takes no such option; leave it out")
    data_option = DATA_OPTIONS.get(name, "data")
    if data is not None:
        if not task_takes(name, data_option):
            raise InputError(f"--data {data}: task '{name}' takes no data; leave it out")
        options[data_option] = data
    elif name in DATA_OPTIONS:
        raise InputError(f"--data is missing: task '{name}' reads its prompts from there")
    if task_takes(name, "lm"):
        options["lm"] = lm
    if task_takes(name, "model"):
        options["model"] = lm.name
    task = make_task(name, **options)
    if choice.max_new_tokens is not None:
        task.max_new_tokens = choice.max_new_tokens
    return task
