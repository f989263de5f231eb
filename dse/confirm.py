"""Confirms a proved front on the other engine: designs that are on it, and designs that were pruned."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dse.dominance import dominated
from dse.enumeration import TOLERANCE, Enumeration
from dse.evaluation import WorkerSpec
from dse.objective import METRICS, QUALITY_METRICS
from dse.pool import ProcessPool
from dse.problem import prepare
from dse.simulator import Simulator
from hwsim.trace import BittaperError, InputError

if TYPE_CHECKING:
    from dse.problem import Evaluate, Problem
    from dse.space import Design

CONFIRMATIONS = 20
"""Designs of the front, and pruned ones drawn at random, that are simulated again, unless the study says how many."""


def confirm(
    everything: Enumeration,
    front: NDArray[np.intp],
    *,
    workers: int,
    progress: bool,
    known: dict[str, Mapping[str, float] | InputError] | None = None,
) -> dict[str, Any]:
    """Simulate some designs on the engine that the study did not use; an evaluator that stands in has one only.

    Args:
        everything: An enumeration in which nothing is open.
        front: Designs on its front.
        workers: Processes that simulate.
        progress: Show a progress bar.
        known: What that engine said of designs, by their keys; what it says now is added.

    Returns:
        ``front`` and ``pruned``: how many were simulated; ``engine``: on which, null where the evaluator stands in;
        ``largest_difference``: of a metric between the engines, as a share, over those of them with both.

    Raises:
        BittaperError: If the engines differ, a pruned design beats its bound, or it belongs on the front.
    """
    study = everything.problem.study
    engine: Literal["events", "fast"] | None = None
    if isinstance(everything.problem.evaluate, Simulator):
        engine = "events" if study.engine == "fast" else "fast"
    on_front, pruned = _drawn(everything, front)
    chosen = [*on_front.tolist(), *pruned.tolist()]
    designs = [everything.candidates.design(index) for index in chosen]
    known = {} if known is None else known
    new = [design for design in designs if design.key not in known]
    bar = tqdm(total=len(new), desc="confirm", unit="design", disable=not progress, leave=False, dynamic_ncols=True)
    with bar:
        found = _simulate(everything.problem, engine, new, workers, bar)
    known.update((design.key, metrics) for design, metrics in zip(new, found, strict=True))
    simulated = [known[design.key] for design in designs]
    differences = [0.0]
    for index, design, metrics in zip(chosen, designs, simulated, strict=True):
        if isinstance(metrics, InputError):
            if everything.known[index]:
                raise BittaperError(f"{design.canonical()} ran, but not on engine '{engine}': {metrics}") from None
            continue  # what cannot run is not on the front either
        if everything.known[index]:
            differences.append(_difference(everything, index, metrics, design, engine))
        else:
            everything.check_bounds(index, metrics)
        if index in pruned:
            _check_off_front(everything, index, metrics, design)
    return {
        "front": len(on_front),
        "pruned": len(pruned),
        "engine": engine,
        "largest_difference": max(differences),
    }


def is_enough(confirmed: Mapping[str, Any], everything: Enumeration, front: NDArray[np.intp]) -> bool:
    """Whether an earlier run confirmed as many designs as the study asks for now."""
    on_front, pruned = _drawn(everything, front)
    return bool(confirmed["front"] >= len(on_front) and confirmed["pruned"] >= len(pruned))


def _drawn(everything: Enumeration, front: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Designs to confirm: of the front, where there is another engine, and of those that were pruned.

    One order of the whole space draws them, so that studies of it that differ in a limit draw mostly the same ones.
    """
    study = everything.problem.study
    order = np.random.default_rng(study.seed).permutation(len(everything.candidates))
    runnable = everything.pruned()
    runnable = runnable[everything.runnable(runnable)]
    most = CONFIRMATIONS if study.confirmations is None else study.confirmations
    pruned = order[np.isin(order, runnable)][:most]
    if not isinstance(everything.problem.evaluate, Simulator):
        return front[:0], pruned
    return order[np.isin(order, front)][:most], pruned


def _simulate(
    problem: Problem, engine: Literal["events", "fast"] | None, designs: list[Design], workers: int, bar: tqdm[Any]
) -> list[Mapping[str, float] | InputError]:
    """Metrics of each design on another engine, if there is one, or why it cannot run."""
    evaluate: Evaluate = problem.evaluate
    found: dict[int, Mapping[str, float] | InputError] = {}
    if engine is not None:
        study = problem.study.model_copy(update={"engine": engine})
        evaluate = Simulator(study)
        # Who measures quality by a command waits for that, not for this, and the command is not to run again.
        if workers > 1 and designs and study.live_quality is None:
            spec = WorkerSpec.of(prepare(study)).pickled()
            assert spec is not None, "a study can be pickled"
            with closing(ProcessPool(spec, min(workers, len(designs)))) as pool:
                for outcome in pool.evaluate(list(enumerate(designs))):
                    if not outcome.unknown:  # else its worker was killed: it is simulated here
                        found[outcome.number] = InputError(outcome.error) if outcome.error else outcome.metrics
                        bar.update()
    for number, design in enumerate(designs):
        if number not in found:
            try:
                found[number] = evaluate(design)
            except InputError as error:
                found[number] = error
            bar.update()
    return [found[number] for number in range(len(designs))]


def _difference(
    everything: Enumeration, index: int, metrics: Mapping[str, float], design: Design, engine: str | None
) -> float:
    largest = 0.0
    for name, values in everything.values.items():
        if name not in METRICS or name in QUALITY_METRICS:
            continue
        before, now = float(values[index]), metrics[name]
        difference = abs(now - before) / abs(before) if before else abs(now)
        if difference > TOLERANCE:
            raise BittaperError(
                f"{name} = {before:.9g}, but {now:.9g} on engine '{engine}', in {design.canonical()}: please report "
                "this"
            )
        largest = max(largest, difference)
    return largest


def _check_off_front(everything: Enumeration, index: int, metrics: Mapping[str, float], design: Design) -> None:
    row = everything.row(index, metrics)
    if everything.keeps_limits(row) and not dominated([everything.point(row)], everything.front)[0]:
        raise BittaperError(
            f"{design.canonical()} was pruned but belongs on the front: please report this; set sampler: tpe to go on "
            "without bounds"
        )
