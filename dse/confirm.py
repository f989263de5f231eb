"""Confirms a proved front on the other engine: designs that are on it, and designs that were pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dse.enumeration import TOLERANCE, Enumeration
from dse.objective import METRICS, QUALITY_METRICS
from dse.pareto import dominated
from dse.simulator import Simulator
from hwsim.trace import BittaperError, InputError

if TYPE_CHECKING:
    from dse.problem import Evaluate
    from dse.space import Design

CONFIRMATIONS = 20
"""Designs of the front, and pruned ones drawn at random, that are simulated again."""


def confirm(everything: Enumeration, front: NDArray[np.intp], *, progress: bool) -> dict[str, Any]:
    """Simulate some designs on the engine that the study did not use; an evaluator that stands in has one only.

    Args:
        everything: An enumeration in which nothing is open.
        front: Designs on its front.
        progress: Show a progress bar.

    Returns:
        ``front`` and ``pruned``: how many were simulated; ``engine``: on which, null where the evaluator stands in;
        ``largest_difference``: of a metric between the engines, as a share, over those of them with both.

    Raises:
        BittaperError: If the engines differ, a pruned design beats its bound, or it belongs on the front.
    """
    study = everything.problem.study
    rng = np.random.default_rng(study.seed)
    runnable = everything.pruned()
    runnable = runnable[everything.runnable(runnable)]
    pruned = rng.permutation(runnable)[:CONFIRMATIONS]
    evaluate: Evaluate = everything.problem.evaluate
    engine: Literal["events", "fast"] | None = None
    on_front = front[:0]
    if isinstance(evaluate, Simulator):
        engine = "events" if study.engine == "fast" else "fast"
        evaluate = Simulator(study.model_copy(update={"engine": engine}))
        on_front = rng.permutation(front)[:CONFIRMATIONS]
    differences = [0.0]
    chosen = [*on_front.tolist(), *pruned.tolist()]
    for index in tqdm(chosen, desc="confirm", unit="design", disable=not progress, leave=False, dynamic_ncols=True):
        design = everything.candidates.design(index)
        try:
            metrics = evaluate(design)
        except InputError as error:
            if everything.known[index]:
                raise BittaperError(f"{design.canonical()} ran, but not on engine '{engine}': {error}") from None
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
