"""What binds, and what things are worth: designs stopped by each limit, shadow prices, and exchange rates.

Everything is computed from the recorded designs by finite differences; nothing is fitted. Where designs were pruned or
never drawn, a better one may exist: such a number is marked as not exact, and a gain is then at least what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dse.dominance import non_dominated
from dse.exploration import Exploration
from dse.objective import QUALITY_METRICS, signs, violation
from dse.pareto import hypervolume
from dse.question import is_exact
from dse.study import Constraint

RELAXATIONS = (0.01, 0.05, 0.10)
QUALITY_FLOORS = (0.9, 0.95, 0.98, 0.99, 1.0)
QUARTILES = (0.25, 0.5, 0.75)
RATE_COLUMNS = (
    "paid",
    "bought",
    "fixed",
    "paid_low",
    "paid_high",
    "rate",
    "rate_first",
    "rate_last",
    "steps",
    "n",
    "exact",
)
BANDWIDTH, SPEED, BITS = "bandwidth_bytes_per_s", "decode_tokens_per_s", "mean_decode_bits"
QUALITIES = ("relative_quality", "quality")


def _evaluated(exploration: Exploration) -> pd.DataFrame:
    return exploration.trials[exploration.trials["error"].isna()]


def _missed(exploration: Exploration, trials: pd.DataFrame) -> NDArray[np.float64]:
    """Violation of every limit by every design, ``[limits, designs]``."""
    limits = exploration.study.constraints
    if not limits:
        return np.empty((0, len(trials)))
    return np.array([violation(limit, trials[limit.name].to_numpy(dtype=float)) for limit in limits])


def stopped(exploration: Exploration) -> pd.DataFrame:
    """How many designs each limit stops.

    Returns:
        A row per limit with ``constraint``, ``stopped`` simulated designs of ``n``, their ``share``, how many
        it stops ``alone`` (they keep all others), ``tight`` (front designs within 1% of it), and what was stopped
        without simulating: ``pruned`` designs by a bound, ``schedules`` left out beforehand.
    """
    trials = _evaluated(exploration)
    missed = _missed(exploration, trials)
    front = exploration.pareto
    pruned = {} if exploration.certificate is None else exploration.certificate["pruned"]
    rows = []
    for index, limit in enumerate(exploration.study.constraints):
        broken = missed[index] > 0
        others = np.delete(missed, index, axis=0)
        near = -violation(limit, front[limit.name].to_numpy(dtype=float)) <= 0.01
        rows.append(
            {
                "constraint": str(limit),
                "stopped": int(broken.sum()),
                "share": float(broken.mean()) if len(trials) else 0.0,
                "alone": int((broken & (others <= 0).all(axis=0)).sum()),
                "tight": int(near.sum()),
                "pruned": int(pruned.get(f"breaks {limit}", 0)),
                "schedules": sum(
                    str(limit) in reason.split(", ") for reason in exploration.excluded_schedules.values()
                ),
                "n": len(trials),
            }
        )
    return pd.DataFrame(rows)


def relaxations(exploration: Exploration, shares: Sequence[float] = RELAXATIONS) -> pd.DataFrame:
    """What loosening each limit by a share of its bound buys, all others kept: its shadow price.

    Returns:
        A row per limit, share and objective with ``constraint``, ``relaxed_by``, ``limit`` (loosened),
        ``objective``, ``best`` value within the limits, ``best_relaxed``, ``gain`` (in the objective's unit, > 0
        is better), ``volume_gain`` (share of the front's hypervolume, at the study's reference point), ``added``
        designs and ``exact``. Limits of 0 have no share and are left out.
    """
    study = exploration.study
    trials = _evaluated(exploration)
    missed = _missed(exploration, trials)
    sign = signs(study.objectives)
    names = [objective.name for objective in study.objectives]
    losses = trials[names].to_numpy(dtype=float) * sign
    reference = np.array([exploration.reference_point[name] for name in names]) * sign
    kept = (missed <= 0).all(axis=0)
    volume = _volume(losses[kept], reference)
    rows = []
    for index, limit in enumerate(study.constraints):
        if limit.limit == 0:
            continue
        exact = exploration.exhausted and not (limit.name in QUALITY_METRICS and exploration.excluded_schedules)
        others = (np.delete(missed, index, axis=0) <= 0).all(axis=0)
        for share in shares:
            loose = others & (missed[index] <= share)
            grown = _volume(losses[loose], reference)
            common = {
                "constraint": str(limit),
                "relaxed_by": share,
                "limit": limit.limit - share * abs(limit.limit) * (1 if limit.op == ">=" else -1),
                "volume_gain": grown / volume - 1 if volume > 0 else np.nan,
                "added": int((loose & ~kept).sum()),
                "exact": exact,
            }
            for column, name in enumerate(names):
                best = losses[kept, column].min() if kept.any() else np.nan
                relaxed = losses[loose, column].min() if loose.any() else np.nan
                found = {"objective": name, "best": best * sign[column], "best_relaxed": relaxed * sign[column]}
                rows.append({**common, **found, "gain": best - relaxed})
    return pd.DataFrame(rows)


def _volume(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    return hypervolume(losses[non_dominated(losses)], reference)


def staircase(paid: ArrayLike, bought: ArrayLike) -> NDArray[np.intp]:
    """Indices of the points where paying more first buys more, from the cheapest on.

    Args:
        paid: ``[points]``, less is better.
        bought: ``[points]``, more is better.

    >>> staircase([1, 2, 3, 4], [5, 5, 7, 6]).tolist()
    [0, 2]
    """
    cost, gain = np.asarray(paid, dtype=float), np.asarray(bought, dtype=float)
    order = np.lexsort([-gain, cost])
    best = np.maximum.accumulate(gain[order])
    return order[np.concatenate([[True], best[1:] > best[:-1]])] if len(order) else order


@dataclass(frozen=True)
class Exchange:
    """What more of one quantity buys of another while a limit holds.

    Attributes:
        paid: Metric of which less is better.
        bought: Metric of which more is wanted.
        fixed: The limit beside the study's own; None where there is none.
        steps: Designs, the cheapest first, along which more is paid and more is bought.
        n: Feasible designs within the limit.
        exact: Whether each step is the best of the whole space.
    """

    paid: str
    bought: str
    fixed: Constraint | None
    steps: pd.DataFrame
    n: int
    exact: bool

    def rate(self, first: int = 0, last: int = -1) -> float:
        """Bought per paid between two steps; NaN where they are the same."""
        ends = self.steps.iloc[[first, last]]
        paid, bought = (ends[name].to_numpy(dtype=float) for name in (self.paid, self.bought))
        return float((bought[1] - bought[0]) / (paid[1] - paid[0])) if paid[1] > paid[0] else float("nan")


def exchange(exploration: Exploration, paid: str, bought: str, fixed: Constraint | None = None) -> Exchange:
    """The best that each amount of ``paid`` buys among the feasible designs that keep ``fixed``."""
    rows = exploration.trials[exploration.trials["feasible"]]
    limits = list(exploration.study.constraints)
    if fixed is not None:
        rows = rows[violation(fixed, rows[fixed.name].to_numpy(dtype=float)) <= 0]
        limits.append(fixed)
    steps = rows.iloc[staircase(rows[paid], rows[bought])].reset_index(drop=True)
    # Each step answers "the most bought for no more than this"; whether that is exact does not depend on how much.
    budget = Constraint.model_validate({"name": paid, "op": "<=", "bound": float(np.finfo(float).tiny)})
    return Exchange(paid, bought, fixed, steps, len(rows), is_exact(exploration, bought, "maximize", [*limits, budget]))


def exchanges(exploration: Exploration) -> list[Exchange]:
    """What a byte per second buys: speed at no less quality, and bits at no less speed.

    Floors of quality and speed come from the study and its front. Pairs that were not evaluated, and floors at which
    fewer than two designs are left to trade, are left out.
    """
    trials = exploration.trials[exploration.trials["feasible"]]
    if BANDWIDTH not in trials or trials.empty:
        return []
    wanted: list[tuple[str, Constraint | None]] = []
    if SPEED in trials:
        wanted += [(SPEED, level) for level in _quality_levels(trials)]
    if BITS in trials:
        wanted += [(BITS, level) for level in _speed_levels(exploration)]
    found = [exchange(exploration, BANDWIDTH, bought, level) for bought, level in wanted]
    return [one for one in found if len(one.steps) > 1]


def exchange_rates(exploration: Exploration) -> pd.DataFrame:
    """Rates of :func:`exchanges`: differences between designs, not a fit.

    Returns:
        A row per exchange with ``paid``, ``bought``, ``fixed``, ``paid_low``, ``paid_high``, ``rate`` (bought per
        paid, in the metrics' own units) over the whole range, ``rate_first`` and ``rate_last`` over the first and
        the last third of its steps (NaN below 3 steps), ``steps``, ``n`` and ``exact``.
    """
    rows = []
    for one in exchanges(exploration):
        last = len(one.steps) - 1
        third = last // 3
        paid = one.steps[one.paid].to_numpy(dtype=float)
        rows.append(
            {
                "paid": one.paid,
                "bought": one.bought,
                "fixed": "" if one.fixed is None else str(one.fixed),
                "paid_low": paid[0],
                "paid_high": paid[-1],
                "rate": one.rate(),
                "rate_first": one.rate(0, third),
                "rate_last": one.rate(last - third, last),
                "steps": last,
                "n": one.n,
                "exact": one.exact,
            }
        )
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


def _quality_levels(trials: pd.DataFrame) -> list[Constraint | None]:
    """No floor at all, and those of relative quality (of other qualities the quartiles) that leave out more designs."""
    name = next((name for name in QUALITIES if name in trials and trials[name].notna().all()), None)
    if name is None:
        return [None]
    values = trials[name].to_numpy(dtype=float)
    floors = (
        list(QUALITY_FLOORS)
        if name == "relative_quality"
        else [float(f"{q:.4g}") for q in np.quantile(values, QUARTILES)]
    )
    kept: dict[int, float | None] = {len(values): None}
    for floor in floors:
        if (count := int((values >= floor).sum())) > 0:
            kept[count] = floor  # of floors that keep the same designs, the highest says most
    return [
        None if floor is None else Constraint.model_validate({"name": name, "op": ">=", "bound": floor})
        for floor in kept.values()
    ]


def _speed_levels(exploration: Exploration) -> list[Constraint]:
    """The study's own limit on speed, else quartiles of the front's speeds."""
    if SPEED not in exploration.pareto:
        return []
    own = [limit for limit in exploration.study.constraints if limit.name == SPEED and limit.op == ">="]
    if own:
        return own
    speeds = exploration.pareto[SPEED].quantile(list(QUARTILES))
    levels = dict.fromkeys(float(f"{value:.3g}") for value in speeds)
    return [Constraint.model_validate({"name": SPEED, "op": ">=", "bound": level}) for level in levels]
