"""Evaluates designs, in this process or as a chunk in another one.

Workers never see a sampler or a record: they get designs in canonical form and give outcomes, so where a
design is evaluated, beside which others and in which order cannot show in the result.
"""

from __future__ import annotations

import math
import pickle
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hwsim.trace import InputError, canonical_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from dse.log import Outcome
    from dse.problem import Evaluate, Problem
    from dse.space import Design

CHUNK_S = 0.2
"""What a chunk should take: sending one costs 0.2 ms to a process and some 20 ms to a cluster."""

MAX_GROWTH = 4
"""A chunk holds at most so many times the designs of the one before: the first ones load what later ones share."""

Numbered = tuple[int, "Design"]
"""A design and its trial number."""


@dataclass(frozen=True)
class WorkerSpec:
    """All that another process needs to make its own problem; it can be pickled where its callables can.

    Attributes:
        study: The study as JSON, with absolute paths.
        meaning_sha256: Of what the coordinator explores, so that a worker that reads other files says so.
        evaluate: Stands in for the simulator; None for the simulator.
        bounds: Stand in for the simulator's bounds.
        allow_command: Whether the study's live quality command may run.
        folder: Of the exploration, where what that command measured is kept.
    """

    study: str
    meaning_sha256: str
    evaluate: Evaluate | None = None
    bounds: Evaluate | None = None
    allow_command: bool = False
    folder: str | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        evaluate: Evaluate | None = None,
        bounds: Evaluate | None = None,
        *,
        allow_command: bool = False,
        folder: Path | None = None,
    ) -> WorkerSpec:
        """Describe ``problem``, made from these."""
        text, meaning = problem.study.model_dump_json(), canonical_sha256(problem.meaning)
        return cls(text, meaning, evaluate, bounds, allow_command, None if folder is None else str(folder.resolve()))

    def pickled(self) -> bytes | None:
        """For another process; None where a callable that stands in cannot go there."""
        try:
            return pickle.dumps(self)
        except (pickle.PicklingError, AttributeError, TypeError):
            return None

    def build(self) -> Problem:
        """Make the problem.

        Raises:
            InputError: If the study cannot be run here, or its files hold something else here.
        """
        from dse.problem import prepare  # noqa: PLC0415 - a coordinator that only describes needs no second problem
        from dse.study import StudyConfig  # noqa: PLC0415

        study = StudyConfig.model_validate_json(self.study)
        problem = prepare(study, self.evaluate, self.bounds, allow_command=self.allow_command, folder=self.folder)
        if canonical_sha256(problem.meaning) != self.meaning_sha256:
            raise InputError(
                "a worker reads other files than the coordinator under the same paths; share one file system and "
                "install one version of bittaper"
            )
        return problem


def evaluate_chunk(problem: Problem, first: int, designs: Sequence[Design]) -> list[Outcome]:
    """Simulate designs with consecutive trial numbers; one that the NPU cannot run has an outcome too.

    Args:
        problem: What is explored.
        first: Trial number of the first design.
        designs: The designs.

    Returns:
        One outcome for each design, in their order.

    Raises:
        InputError: If the evaluator does not compute an objective or a constraint.
    """
    found = problem.metrics_many(designs)
    return [
        judge(problem, number, design, metrics)
        for number, (design, metrics) in enumerate(zip(designs, found, strict=True), start=first)
    ]


def judge(problem: Problem, number: int, design: Design, metrics: Mapping[str, float] | InputError) -> Outcome:
    """Make an evaluation's metrics, or why there are none, an outcome.

    Raises:
        InputError: If an objective or a constraint is missing among them.
    """
    from dse.live import NotMeasuredError  # noqa: PLC0415
    from dse.log import Outcome  # noqa: PLC0415 - the log is the coordinator's

    if isinstance(metrics, InputError):
        return Outcome(number, {}, str(metrics), unknown=isinstance(metrics, NotMeasuredError))
    row = {**design.npu, **metrics}
    for kind, items in (("objective", problem.study.objectives), ("constraint", problem.study.constraints)):
        for item in items:
            if item.name not in row:
                raise InputError(f"{kind} '{item.name}': the evaluator computes only {', '.join(sorted(metrics))}")
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        return Outcome(number, {}, f"{wrong[0]} = {metrics[wrong[0]]}: not a finite number")
    return Outcome(number, {name: float(value) for name, value in metrics.items()})


class Backend(Protocol):
    """Where designs are evaluated."""

    def evaluate(self, designs: Sequence[Numbered]) -> Iterator[Outcome]:
        """Give the outcome of each design once, in the order of completion."""

    def close(self) -> None:
        """Stop what is still working."""


class InProcess:
    """Evaluates in this process, in order.

    Args:
        problem: What is explored.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._sizer = ChunkSizer()
        # Only the simulator is faster with many at once; what stands in is recorded design by design.
        self._many = hasattr(problem.evaluate, "many")

    def evaluate(self, designs: Sequence[Numbered]) -> Iterator[Outcome]:
        """Give the outcome of each design, in order."""
        waiting = deque(designs)
        while waiting:
            chunk = take_chunk(waiting, self._sizer.size(len(waiting), workers=1) if self._many else 1)
            started_s = time.perf_counter()
            outcomes = evaluate_chunk(self._problem, chunk[0][0], [design for _, design in chunk])
            self._sizer.learn(len(chunk), time.perf_counter() - started_s)
            yield from outcomes

    def close(self) -> None:
        """Nothing to stop."""


class ChunkSizer:
    """Finds how many designs fill a chunk from what earlier ones took."""

    def __init__(self) -> None:
        self._size = 1

    def size(self, waiting: int, workers: int) -> int:
        """Number of designs for the next chunk, so that every worker gets one while there are enough."""
        return max(1, min(self._size, math.ceil(waiting / workers)))

    def learn(self, count: int, seconds: float) -> None:
        """Take account of a chunk of ``count`` designs."""
        wanted = round(CHUNK_S * count / seconds) if seconds > 0 else count * MAX_GROWTH
        self._size = max(1, min(wanted, self._size * MAX_GROWTH))


def take_chunk(waiting: deque[Numbered], size: int) -> list[Numbered]:
    """Remove up to ``size`` designs with consecutive numbers from the front of what waits."""
    chunk = [waiting.popleft()]
    while waiting and len(chunk) < size and waiting[0][0] == chunk[-1][0] + 1:
        chunk.append(waiting.popleft())
    return chunk
