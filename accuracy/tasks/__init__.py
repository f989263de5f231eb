"""Tasks: prompts with references, in disjoint calib, val and test splits."""

from accuracy.tasks.base import (
    SPLITS,
    Example,
    Split,
    Task,
    hashed_split,
    make_task,
    prompt_sha256,
    register_task,
    task_names,
    task_takes,
)
from accuracy.tasks.completion import SelfCompletionTask
from accuracy.tasks.file import FileTask
from accuracy.tasks.hub import CnnDailyMail, DialogSum, Iwslt
from accuracy.tasks.mt_bench import MtBenchTask
from accuracy.tasks.parallel_text import ParallelTextTask
from accuracy.tasks.shipped import ShippedTask
from accuracy.tasks.texts import TEXTS, perplexity_text

__all__ = [
    "SPLITS",
    "TEXTS",
    "CnnDailyMail",
    "DialogSum",
    "Example",
    "FileTask",
    "Iwslt",
    "MtBenchTask",
    "ParallelTextTask",
    "SelfCompletionTask",
    "ShippedTask",
    "Split",
    "Task",
    "hashed_split",
    "make_task",
    "perplexity_text",
    "prompt_sha256",
    "register_task",
    "task_names",
    "task_takes",
]
