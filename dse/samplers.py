"""Optuna samplers behind one setting, made afresh for every suggestion so that a run can be resumed.

A sampler object hides a random state that no record could restore. Here every suggestion gets a new
object seeded with (study seed, number of the suggestion); all else it knows, it reads from the trials.
So the next suggestion depends on the record alone, whether the process that wrote it is still alive.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from hwsim.trace import InputError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SamplerName = Literal["exhaustive", "exact", "random", "tpe", "nsga2", "gp"]

TPE_BUDGET = 1000
"""Largest budget for which auto takes TPE: it costs ~70 ms a suggestion by then, NSGA-II 2 ms."""

MAX_ENUMERATED = 5000
"""Largest space that is enumerated: a bound costs up to 20 ms where every design is another NPU."""

POPULATION_SHARE, MIN_POPULATION, MAX_POPULATION = 10, 10, 50


class _NsgaII(NSGAIISampler):
    """NSGA-II whose parents come in trial order.

    Optuna returns them in selection order where it has just selected them and in trial order where it
    finds them cached; only with one order does a resumed run continue as the other would have.
    """

    generation: int | None = None
    """Of the trial suggested last."""

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """As Optuna, and remember it."""
        self.generation = super().get_trial_generation(study, trial)
        return self.generation

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """As Optuna, in trial order."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


GENERATION_KEY = f"{_NsgaII.__name__}:generation"
"""Trial attribute in which NSGA-II keeps a trial's generation; the log holds it for a resumed run."""


def generation_of(sampler: BaseSampler) -> int | None:
    """NSGA-II's generation of the trial it suggested last; None for other samplers."""
    return sampler.generation if isinstance(sampler, _NsgaII) else None


def choose_sampler(setting: str, size: int | None, budget: int, *, bounded: bool) -> SamplerName:
    """Resolve ``auto``.

    If the budget covers the whole space every design is simulated. Otherwise, where bounds are known and
    the space can be enumerated, the bounds choose and prune. Otherwise multivariate TPE, which needs the
    fewest simulations of those that cost milliseconds a suggestion; beyond :data:`TPE_BUDGET` its cost,
    growing with the trials, is more than a simulation, and NSGA-II's is flat.

    Args:
        setting: Of the study.
        size: Number of designs; None where a parameter is continuous.
        budget: Of the study.
        bounded: Whether there are bounds.

    Raises:
        InputError: If ``gp`` is asked for without the packages that Optuna's Gaussian process needs, or
            ``exact`` without bounds or for a space that cannot be enumerated.
    """
    if setting == "auto":
        if size is not None and size <= budget:
            return "exhaustive"
        if bounded and size is not None and size <= MAX_ENUMERATED:
            return "exact"
        return "tpe" if budget <= TPE_BUDGET else "nsga2"
    if setting == "exact":
        if not bounded:
            raise InputError(
                "sampler = 'exact': bounds are known in mode realistic, and for objectives in their better direction "
                "only; use auto or tpe"
            )
        if size is None or size > MAX_ENUMERATED:
            count = "a continuum of" if size is None else f"{size}"
            raise InputError(
                f"sampler = 'exact': the space has {count} designs, at most {MAX_ENUMERATED} can be enumerated; give "
                f"parameters steps or choices, or use tpe"
            )
    if setting == "gp":
        missing = [name for name in ("torch", "scipy") if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"sampler = 'gp': needs {' and '.join(missing)} installed; pip install them, or use tpe")
    return cast("SamplerName", setting)


def suggestion_seed(seed: int, suggestion: int) -> int:
    """Seed of one suggestion, independent of all others."""
    return int(np.random.SeedSequence([seed, suggestion]).generate_state(1)[0])


def make_sampler(name: SamplerName, seed: int, budget: int) -> BaseSampler:
    """Make the sampler of one suggestion.

    Args:
        name: Which one; ``exhaustive`` has none and is served by random.
        seed: From :func:`suggestion_seed`.
        budget: Of the study; NSGA-II's population is a tenth of it within 10..50.
    """
    with warnings.catch_warnings():
        # multivariate and group are "experimental" in name; they have been in Optuna since 2020.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return TPESampler(seed=seed, multivariate=True, group=True)
            case "nsga2":
                population = min(MAX_POPULATION, max(MIN_POPULATION, budget // POPULATION_SHARE))
                return _NsgaII(seed=seed, population_size=population)
            case "gp":
                return GPSampler(seed=seed, deterministic_objective=True, warn_independent_sampling=False)
            case _:
                return RandomSampler(seed=seed)
