"""How much each number matters, by simulating: Sobol's indices around a design, or over the study's ranges.

Unlike the importance of recorded trials, points are placed evenly over the ranges and not by a sampler that looks for
good designs, so the shares are unbiased. Around a design the study's parameters and the constants that the NPU file
marks as assumed vary together, by a share or to the neighbouring choice; over the ranges the schedule and the study's
parameters do.

Source: Saltelli et al., "Variance based sensitivity analysis of model output", Comput. Phys. Commun. 181 (2010), as
implemented by ``scipy.stats.sobol_indices``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dse.answer import is_missing
from dse.exploration import Exploration, load_exploration, results_folder
from dse.factors import SCHEDULE, Factor, factors_around, factors_over_ranges
from dse.objective import METRICS, QUALITY_METRICS
from dse.problem import Evaluate, Problem, prepare
from dse.question import CHOSEN_METRICS
from dse.space import Axis, Design
from hwsim.trace import InputError, atomic_writer

DEFAULT_POINTS = 256
"""Total indices of 16 numbers are off by 0.01 to 0.02 then, median of 20 seeds, and by 0.07 to 0.10 with 64.

Measured by ``bittaper study exploration-benchmark --part sensitivity``.
"""

WIDE = 0.05
"""Half of an interval from which a share is known to less than the digits that it is printed with."""

DEFAULT_AROUND = 0.10
RESAMPLES = 200
INTERVAL = (2.5, 97.5)
CHUNK = 256


@dataclass(frozen=True)
class Sensitivity:
    """What came out.

    Attributes:
        table: A row per metric and factor, the most important first, with ``metric``, ``parameter``, ``low``,
            ``high``, ``value`` (at the design), ``assumed``, ``first_order`` and ``total_order`` with ``_ci_low``
            and ``_ci_high`` (95%, bootstrap over points; wide, since it does not know that the points are placed
            evenly), ``n`` points, and for the metric ``metric_at_design``,
            ``metric_low`` and ``metric_high`` (2.5% and 97.5% of the points).
        held: Factors that were not varied, with the reason.
        design: Trial around which was varied; None over the study's ranges.
        around: Share by which continuous numbers were varied; None over the study's ranges.
        simulated: Designs simulated.
    """

    table: pd.DataFrame
    held: Mapping[str, str]
    design: int | None
    around: float | None
    simulated: int

    @property
    def name(self) -> str:
        """Of the file that holds the table."""
        return "sensitivity-ranges.csv" if self.design is None else f"sensitivity-design-{self.design}.csv"

    @property
    def caution(self) -> str | None:
        """See :func:`caution`."""
        return caution(self.table)

    def write(self, folder: Path) -> Path:
        """Write the table atomically; returns its path."""
        path = folder / self.name
        with atomic_writer(path) as file:
            self.table.to_csv(file, index=False, lineterminator="\n")
        return path


def caution(table: pd.DataFrame) -> str | None:
    """What to say where total indices are not known well; None where they are.

    Args:
        table: As in :class:`Sensitivity`.
    """
    half = float((table["total_order_ci_high"] - table["total_order_ci_low"]).max()) / 2
    if half <= WIDE:
        return None
    points = int(table["n"].iloc[0])
    return (
        f"the widest 95% interval of a total index is +-{half:.2f} with {points} points: smaller differences between "
        f"shares say nothing; --points {4 * points} makes intervals half as wide"
    )


def sobol_indices(
    first: NDArray[np.float64], second: NDArray[np.float64], mixed: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """First-order and total indices with intervals.

    Args:
        first: Metrics of the first sample, ``[metrics, n]``, n a power of two.
        second: Of the second, ``[metrics, n]``.
        mixed: Of the first with one factor each from the second, ``[factors, metrics, n]``.
        seed: Of the bootstrap.

    Returns:
        ``[2, 3, metrics, factors]``: first order and total; estimate, lower and upper end. Metrics that do not vary
        have zeros.
    """
    from scipy import stats  # noqa: PLC0415 - loaded only where it is needed

    def indices(pick: NDArray[np.int64]) -> NDArray[np.float64]:
        parts = {"f_A": first[:, pick], "f_B": second[:, pick], "f_AB": mixed[..., pick]}
        found = stats.sobol_indices(func=parts, n=first.shape[1])
        return np.array([found.first_order, found.total_order]).reshape(2, len(first), len(mixed))

    rng = np.random.default_rng(seed)
    n = first.shape[1]
    picks = rng.integers(n, size=(RESAMPLES, n))
    drawn = np.array([indices(pick) for pick in picks])
    low, high = np.percentile(drawn, INTERVAL, axis=0)
    return np.stack([indices(np.arange(n)), low, high], axis=1)


def measure_sensitivity(
    source: Exploration | Path | str,
    *,
    design: int | None = None,
    around: float = DEFAULT_AROUND,
    points: int = DEFAULT_POINTS,
    seed: int = 0,
    evaluate: Evaluate | None = None,
    allow_command: bool = False,
    progress: bool = True,
) -> Sensitivity:
    """Simulate around a design, or over the study's ranges, and share out the variance of each metric.

    Args:
        source: An exploration, or the folder it was recorded in; the study's files must still be there.
        design: Trial to vary around; None: the study's whole ranges, schedules included.
        around: Share by which continuous numbers vary around the design; integers and choices go to their
            neighbours at least.
        points: Size n of each sample, a power of two; n (factors + 2) designs are simulated.
        seed: Of the Sobol sequence and the bootstrap.
        evaluate: Stands in for the simulator.
        allow_command: Let the study's live quality command run.
        progress: Show a progress bar on standard error.

    Raises:
        InputError: If the trial does not exist or cannot run, nothing can be varied, a design within the ranges
            cannot run, or a number is out of bounds.
    """
    if points < 8 or points & (points - 1):
        raise InputError(f"sensitivity: points = {points}: must be a power of two, at least 8 (Sobol's sequence)")
    if not 0 < around < 1:
        raise InputError(f"sensitivity: around = {around:g}: must be between 0 and 1, for example 0.1 for 10%")
    exploration = source if isinstance(source, Exploration) else load_exploration(source)
    # Both engines give the same cycles; the fast one gives them sooner.
    study = exploration.study.model_copy(update={"engine": "fast"})
    folder = None if isinstance(source, Exploration) else results_folder(source)
    problem = prepare(study, evaluate, allow_command=allow_command, folder=folder)
    if design is None:
        centre, factors, held = None, *factors_over_ranges(problem)
    else:
        centre = _design_of(exploration, problem, design)
        factors, held = factors_around(problem, centre, around)
    if not factors:
        raise InputError(f"sensitivity: nothing can be varied: {'; '.join(f'{k}: {v}' for k, v in held.items())}")
    metrics = _metrics(problem, with_quality=design is None)
    cube = sobol_points(len(factors), points, seed)
    # Point by point: most designs of a point have their buffers in common, and then run together.
    designs = [_placed(problem, factors, centre, row) for point in cube for row in point]
    rows = _simulate(problem, designs, progress)
    values = np.array([[row[name] for row in rows] for name in metrics])
    values = values.reshape(len(metrics), points, len(factors) + 2)
    indices = sobol_indices(values[..., 0], values[..., 1], np.moveaxis(values[..., 2:], 2, 0), seed)
    at_design = {} if centre is None else _simulate(problem, [centre], progress=False)[0]
    table = _table(metrics, factors, indices, values[..., :2].reshape(len(metrics), -1), at_design, points)
    return Sensitivity(table, held, design, None if design is None else around, len(designs))


def _metrics(problem: Problem, *, with_quality: bool) -> list[str]:
    """Objectives and limits that the varied numbers act on through the simulator, or the schedule's quality."""
    study = problem.study
    names = dict.fromkeys([*(one.name for one in study.objectives), *(one.name for one in study.constraints)])
    wanted = [
        name
        for name in names
        if name in METRICS and name not in CHOSEN_METRICS and (with_quality or name not in QUALITY_METRICS)
    ]
    if not wanted:
        raise InputError("sensitivity: no objective or limit of the study is simulated")
    return wanted


def _design_of(exploration: Exploration, problem: Problem, number: int) -> Design:
    rows = exploration.trials[exploration.trials["number"] == number]
    if rows.empty:
        raise InputError(f"sensitivity: no trial {number} among the {len(exploration.trials)} of the exploration")
    row = rows.iloc[0]
    if row["error"] is not None:
        raise InputError(f"sensitivity: trial {number} cannot run: {row['error']}")
    label = None if is_missing(row[SCHEDULE]) else row[SCHEDULE]
    schedule = None if label is None else problem.space.schedules[label]
    return problem.space.walk(lambda axis: _plain(row[axis.name], axis), schedule)


def _plain(value: Any, axis: Axis) -> Any:
    """A cell as the record held it: an integer beside empty cells reads back as a float."""
    if axis.count() is None:
        return float(value)
    number = value.item() if isinstance(value, np.generic) else value
    return int(number) if isinstance(number, float) and number.is_integer() else number


def sobol_points(factors: int, points: int, seed: int) -> NDArray[np.float64]:
    """Quantiles of both samples and of the mixed ones, ``[points, factors + 2, factors]``."""
    from scipy.stats import qmc  # noqa: PLC0415

    both = qmc.Sobol(2 * factors, rng=seed).random(points)
    first, second = both[:, :factors], both[:, factors:]
    mixed = [np.where(np.arange(factors) == column, second, first) for column in range(factors)]
    return np.stack([first, second, *mixed], axis=1)


def _placed(problem: Problem, factors: Sequence[Factor], centre: Design | None, row: NDArray[np.float64]) -> Design:
    at = {factor.path: factor.place(float(share)) for factor, share in zip(factors, row, strict=True)}
    if centre is not None:
        return Design({**centre.npu, **at}, centre.schedule)
    space = problem.space
    only = next(iter(space.schedules.values()), None)
    schedule = space.schedules[at[SCHEDULE]] if SCHEDULE in at else only
    return space.walk(lambda axis: at.get(axis.name, axis.at(0.0)), schedule)


def _simulate(problem: Problem, designs: Sequence[Design], progress: bool) -> list[dict[str, float]]:
    """Metrics of designs, each distinct one simulated once.

    Raises:
        InputError: If one cannot run, with the number of those.
    """
    distinct = list({design.key: design for design in designs}.values())
    found: dict[str, dict[str, float]] = {}
    failed: list[InputError] = []
    bar = tqdm(total=len(distinct), desc="sensitivity", unit="design", disable=not progress, dynamic_ncols=True)
    with bar:
        for start in range(0, len(distinct), CHUNK):
            chunk = distinct[start : start + CHUNK]
            for design, metrics in zip(chunk, problem.metrics_many(chunk), strict=True):
                if isinstance(metrics, InputError):
                    failed.append(metrics)
                else:
                    found[design.key] = metrics
            bar.update(len(chunk))
    if failed:
        raise InputError(
            f"sensitivity: {len(failed)} of {len(distinct)} designs within the ranges cannot run ({failed[0]}); choose "
            f"a smaller share, or another design"
        )
    return [found[design.key] for design in designs]


def _table(
    metrics: Sequence[str],
    factors: Sequence[Factor],
    indices: NDArray[np.float64],
    values: NDArray[np.float64],
    at_design: Mapping[str, float],
    points: int,
) -> pd.DataFrame:
    rows = []
    for m, metric in enumerate(metrics):
        low, high = np.percentile(values[m], INTERVAL)
        for f in np.argsort(-indices[1, 0, m], kind="stable"):
            factor = factors[f]
            low_end, high_end = factor.ends
            row = {"metric": metric, "parameter": factor.path, "low": low_end, "high": high_end}
            row |= {"value": factor.value, "assumed": factor.assumed}
            for kind, name in enumerate(("first_order", "total_order")):
                for part, suffix in enumerate(("", "_ci_low", "_ci_high")):
                    row[f"{name}{suffix}"] = indices[kind, part, m, f]
            row |= {"n": points, "metric_at_design": at_design.get(metric, np.nan)}
            rows.append(row | {"metric_low": low, "metric_high": high})
    return pd.DataFrame(rows)
