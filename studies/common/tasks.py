"""Which task a command line means: the shipped one, a registered one, or the user's own file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError
from studies.commands.options import positive_int

if TYPE_CHECKING:
    from accuracy.model import LanguageModel
    from accuracy.tasks import Task

NEEDS_MODEL = ("self-completion",)
NEEDS_DATA = {"file": "path", "parallel-text": "folder"}
FITS = {"template": tuple(NEEDS_DATA), "prompt_field": ("file",), "reference_field": ("file",)}
TAKES_DATA = {**NEEDS_DATA, "cnn-dm": "data", "dialogsum": "data", "iwslt-fr-en": "data", "mt-bench": "data"}


def add_task(parser: argparse.ArgumentParser) -> None:
    """Offer the options that choose a task."""
    group = parser.add_argument_group("task")
    group.add_argument(
        "--task",
        metavar="NAME",
        help="a registered task: cnn-dm, dialogsum, file, iwslt-fr-en, parallel-text, self-completion, "
        "selvic (the shipped one, default without --data)",
    )
    group.add_argument(
        "--data", metavar="PATH", help="own .jsonl or .json with prompt and reference, or the data of --task"
    )
    group.add_argument("--template", help="text around an own prompt, for example '<s>{prompt}<sep>'")
    group.add_argument("--prompt-field", metavar="FIELD", help="field with the prompt in own data (default prompt)")
    group.add_argument("--reference-field", metavar="FIELD", help="field with the reference (default reference)")
    group.add_argument("--max-new-tokens", type=positive_int, metavar="M", help="bound on a response")


@dataclass(frozen=True)
class TaskChoice:
    """The task options of a command line; None is the default of each."""

    name: str | None = None
    data: str | None = None
    template: str | None = None
    prompt_field: str | None = None
    reference_field: str | None = None
    max_new_tokens: int | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> TaskChoice:
        """What was given on the command line."""
        return cls(args.task, args.data, args.template, args.prompt_field, args.reference_field, args.max_new_tokens)


def make_chosen_task(lm: LanguageModel, choice: TaskChoice) -> Task:
    """Make the task that the options name.

    Raises:
        InputError: If the task is unknown, needs data that is not given, or an option does not fit it.
    """
    from accuracy.reference import TASK_NAME
    from accuracy.tasks import make_task

    name, data = choice.name, choice.data
    if name is None:
        name = TASK_NAME if data is None else ("parallel-text" if Path(data).is_dir() else "file")
    options: dict[str, Any] = {}
    if name in NEEDS_MODEL:
        options["lm"] = lm
    if data is not None:
        if name not in TAKES_DATA:
            raise InputError(f"--data {data}: task '{name}' takes no data; leave it out")
        options[TAKES_DATA[name]] = data
    elif name in NEEDS_DATA:
        raise InputError(f"--data is missing: task '{name}' reads its prompts from there")
    for option, tasks in FITS.items():
        value = getattr(choice, option)
        if value is None:
            continue
        if name not in tasks:
            raise InputError(f"--{option.replace('_', '-')} {value}: task '{name}' has its own; leave it out")
        options[option] = value
    task = make_task(name, **options)
    if choice.max_new_tokens is not None:
        task.max_new_tokens = choice.max_new_tokens
    return task
