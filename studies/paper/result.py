"""A result of the paper: what it shows, and how its numbers are made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.common.tasks import TaskChoice
from studies.paper.comparison import Found

if TYPE_CHECKING:
    from studies.pmpd.subjects import OwnModel


@dataclass(frozen=True)
class Request:
    """What a run is asked to do.

    Attributes:
        out: Folder of the collection; the files of a result begin with its name.
        subjects: Small models that quality is measured on; each result's own choice by default.
        model: An own unquantised model that quality is measured on instead.
        task: What it is asked; beginnings that it samples itself where none is chosen.
        questions: MT-Bench questions; where none are given, those beside the checkout, or the hub's.
        device: Where the own model runs.
        limit: Prompts that the own model is reported on, or questions it is asked.
        experiments: Results of ``bittaper study pmpd`` that one run of it is to measure together.
        pmpd: Folder of a finished ``bittaper study pmpd`` to read instead of measuring again.
        measured: Folders of ``bittaper kernels bench``.
        quick: A handful of prompts, of the shipped model unless an own one is given, for a look.
        progress: Show progress bars.
    """

    out: Path
    subjects: tuple[str, ...] = ()
    model: str | None = None
    task: TaskChoice = field(default_factory=TaskChoice)
    questions: Path | None = None
    device: str = "cpu"
    limit: int | None = None
    experiments: tuple[str, ...] = ()
    pmpd: Path | None = None
    measured: tuple[Path, ...] = ()
    quick: bool = False
    progress: bool = True

    @property
    def asked(self) -> int | None:
        """How many of MT-Bench's questions are asked; None for all that fit."""
        from studies.pmpd.subjects import QUICK

        return QUICK[0] if self.quick else self.limit

    @property
    def own(self) -> OwnModel | None:
        """The own model with what it is asked, where there is one."""
        from studies.pmpd.subjects import OwnModel

        return (
            None if self.model is None else OwnModel(Path(self.model), self.task, self.device, self.limit, self.quick)
        )


@dataclass(frozen=True)
class Result:
    """One figure or table of the paper.

    Attributes:
        name: As the command line calls it.
        title: What it is.
        takes: How long it takes by default, on one quiet core.
        runs_on: What it runs on by default.
        paper: What the paper shows.
        ours: What is done here.
        why: Why the numbers differ.
        caption: What its figure shows.
        compute: Makes the numbers; what was finished before a kill is not done again.
        settings: Everything that decides them; numbers of other settings are made anew.
        draw: Draws the figure from what was written, given the folder and the name.
        experiment: What ``bittaper study pmpd`` calls it, where the numbers come from there.
        why_on: Models of the kept run that ``why`` speaks of, where a run may be on others.
    """

    name: str
    title: str
    takes: str
    runs_on: str
    paper: str
    ours: str
    why: str
    caption: str
    compute: Callable[[Request], Found]
    settings: Callable[[Request], Mapping[str, Any]]
    draw: Callable[[Path, str], list[Path]]
    experiment: str | None = None
    why_on: str = ""
