"""What a metric is: statistics of each response, and a score of their sums, so that intervals resample the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np

from accuracy.decoding import Response
from accuracy.registry import Registry
from accuracy.statistics import Aggregate, Direction, Floats
from hwsim.trace import InputError

ReferenceKind = Literal["gold", "full-precision"]


@dataclass(frozen=True)
class Reference:
    """What a response is compared with.

    Attributes:
        gold: The task's reference text.
        full_precision: The response of the unquantised model, where one was decoded.
    """

    gold: str
    full_precision: Response | None

    def text(self, kind: ReferenceKind) -> str:
        """The text that a metric against ``kind`` compares with."""
        return self.gold if kind == "gold" else self.output.text

    @property
    def output(self) -> Response:
        """The full-precision response, which an evaluation decodes where a metric compares with it."""
        assert self.full_precision is not None, "evaluation decodes the full-precision responses first"
        return self.full_precision


Score = Callable[[Sequence[Response], Sequence[Reference]], Floats]
"""Statistics ``[n, D]`` of n responses, each against its reference; a row depends on its own pair only."""


@dataclass(frozen=True)
class Metric:
    """A quality metric.

    Attributes:
        name: Registered name.
        direction: Whether more is better.
        reference: What it compares with.
        statistics_many: Statistics of many responses at once; an encoder runs them in batches.
        aggregate: Score of summed statistics.
        description: One line for tables, with unit and signature.
        settings: Gives what else decides its score, as JSON: the encoder's hash, say. Called before a run begins,
            so that what the metric needs and cannot find is refused then.
    """

    name: str
    direction: Direction
    reference: ReferenceKind
    statistics_many: Score
    aggregate: Aggregate
    description: str
    settings: Callable[[], Mapping[str, Any]] = field(default=dict)

    def statistics(self, response: Response, reference: Reference) -> tuple[float, ...]:
        """Statistics of one response, ``D`` numbers."""
        return tuple(self.statistics_many([response], [reference])[0].tolist())

    def identity(self) -> dict[str, Any]:
        """Everything that decides its score, as JSON: runs whose metrics differ in it do not mix.

        Raises:
            InputError: If the metric needs a model that is not there.
        """
        return {"name": self.name, **self.settings()}


def one_by_one(score: Callable[[Response, Reference], Sequence[float]]) -> Score:
    """Statistics of a metric that gains nothing from batches."""

    def statistics_many(responses: Sequence[Response], references: Sequence[Reference]) -> Floats:
        rows = [score(*pair) for pair in zip(responses, references, strict=True)]
        return np.array(rows, dtype=np.float64)

    return statistics_many


def metric_name(stem: str, kind: ReferenceKind) -> str:
    """Name of a text metric against one kind of reference.

    >>> metric_name("rouge_l", "gold"), metric_name("rouge_l", "full-precision")
    ('rouge_l', 'fidelity_rouge_l')
    """
    return stem if kind == "gold" else f"fidelity_{stem}"


METRICS: Registry[Metric] = Registry("metric")
"""Factories of all metrics; anyone may register one."""


def get_metric(name: str, **options: Any) -> Metric:
    """Make a metric.

    Args:
        name: Registered name.
        options: Of its factory: ``encoder`` and ``layer`` for ``bertscore`` and ``fidelity_bertscore``.

    Raises:
        InputError: If the name is unknown (the nearest is suggested) or it does not take such options.
    """
    return METRICS.make(name, **options)


_OWN: dict[str, Metric] = {}
"""Metrics of users' own modules, by what named them."""


def find_metric(reference: str, **options: Any) -> Metric:
    """Make the metric that a user names: a registered one, or one of an own module.

    Args:
        reference: A registered name, or ``package.module:name`` of a :class:`Metric` or of a function that makes one.
            The module is imported, which runs it: take the text from a command line or from code, never from a data
            file. The metric is registered under its own name, by which results call it.
        options: As of :func:`get_metric`.

    Raises:
        InputError: If there is no such metric, its name is another one's, or the options do not fit.
    """
    module_name, colon, name = reference.partition(":")
    if not colon:
        return get_metric(reference, **options)
    if reference in _OWN:
        return _OWN[reference]
    try:
        found = getattr(import_module(module_name), name, None)
    except (ImportError, ValueError) as error:
        raise InputError(f"metric '{reference}': module '{module_name}' cannot be imported ({error})") from None
    metric = found if isinstance(found, Metric) else found() if callable(found) else None
    if not isinstance(metric, Metric):
        raise InputError(f"metric '{reference}': must name an accuracy.metrics.Metric, or a function that makes one")
    if metric.name in METRICS.names():
        raise InputError(f"metric '{reference}': is called '{metric.name}' like another; give it another name")
    _try(metric, reference)
    METRICS.register(metric.name)(lambda: metric)
    _OWN[reference] = metric
    return metric


def _try(metric: Metric, reference: str) -> None:
    """Score two made-up responses, so that a metric that cannot do it is refused before hours of decoding.

    Raises:
        InputError: With what it raised, or which form its result has and must have.
    """
    response = Response("1", 3, (5, 6), "some words", 16, (16,), "length")
    pairs = [Reference("some words", response), Reference("other words here", response)]
    try:
        rows = np.asarray(metric.statistics_many([response] * 2, pairs), dtype=np.float64)
        score = np.asarray(metric.aggregate(rows[None].sum(axis=1), np.array([2.0])))
    except Exception as error:
        # The user's own code may raise anything.
        raise InputError(f"metric '{reference}': fails on two words ({type(error).__name__}: {error})") from error
    if rows.ndim != 2 or len(rows) != 2 or score.shape != (1,):
        raise InputError(
            f"metric '{reference}': statistics of 2 responses have the form {rows.shape}, must be (2, D); "
            f"their score has {score.shape}, must be (1,): it takes sums [..., D] and numbers of responses [...]"
        )
