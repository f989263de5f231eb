"""The questions by name, and the module that answers each; the modules are loaded when asked."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from studies.architect.settings import Finding, Settings


@dataclass(frozen=True, slots=True)
class Question:
    """Where a question is answered.

    Attributes:
        module: Below ``studies.architect``.
        summary: For ``--help``.
        published: Needs a model of the paper's Table 1.
    """

    module: str
    summary: str
    published: bool = False

    def ask(self, settings: Settings) -> Finding:
        """Answer it."""
        return cast("Callable[[Settings], Finding]", self._load().compute)(settings)

    def question(self) -> str:
        """In words."""
        return cast("str", self._load().QUESTION)

    def _load(self) -> ModuleType:
        return importlib.import_module(f"studies.architect.{self.module}")


QUESTIONS = {
    "templates": Question("templates", "the shipped NPUs, to start from, with this model on each"),
    "speed-map": Question("speed_map", "tokens/s and time to the first token over MACs and bandwidth; which binds"),
    "buffer-sizes": Question("buffer_sizes", "speed and area over the size of each buffer; the knees"),
    "memory-bound": Question("memory_bound", "where decoding leaves the memory's side: bits, context, batch"),
    "bit-value": Question("bit_value", "GB/s that one weight bit is worth, per model and speed"),
    "widths": Question(
        "widths", "which widths are worth supporting: area and energy against schedules", published=True
    ),
    "energy": Question("energy", "energy per token by component, bits and context; every constant"),
    "kv-bits": Question("kv_bits", "a bit of the KV cache against a bit of the weights"),
    "switching": Question("switching", "what a switch of width costs, and how often one may switch"),
    "codesign": Question("codesign", "NPU and schedule together on the paper's published qualities", published=True),
    "sensitivity": Question("sensitivity", "how much the chosen design rests on each number", published=True),
}


def answer_file(folder: Path, name: str) -> Path:
    """Where a question's answer is kept."""
    return folder / f"{name.replace('-', '_')}.json"
