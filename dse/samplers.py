"""Samplers behind one setting, made afresh for every suggestion so that a run can be resumed.

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
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from hwsim.trace import InputError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SamplerName = Literal["exhaustive", "exact", "random", "tpe", "nsga2", "nsga3", "gp", "screened"]

SAMPLED_BUDGET = 100
"""Designs to simulate where a study gives no budget and its space is sampled; an enumeration has no limit then."""

SETTLED_BATCH = 256
"""Designs a batch where a space was settled before: each batch costs some milliseconds, and nothing is learnt."""

BATCH_SIZES = {"exact": 16, "exhaustive": 256, "random": 64, "nsga2": 10, "nsga3": 10, "screened": 10}
"""Designs a batch where a study gives no number; 1 with samplers that learn from every single one."""

TPE_BUDGET = 1000
"""Largest budget for which auto takes TPE: it costs ~70 ms a suggestion by then, NSGA-II 2 ms."""

GP_BUDGET = 200
"""Largest budget for which auto takes a Gaussian process where an evaluation is slow: it costs ~2 s a suggestion."""

MAX_ENUMERATED = 10**6
"""Largest space that is enumerated: its arrays take some 200 bytes a design."""

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


class _NsgaIII(NSGAIIISampler):
    """NSGA-III whose parents come in trial order and whose niches are drawn by generation.

    It fills the last niches at random. A resumed run selects the parents of a generation at another suggestion
    than the one that was killed, so the draw is seeded by the generation.
    """

    def __init__(self, study_seed: int, seed: int, population_size: int) -> None:
        super().__init__(seed=seed, population_size=population_size)
        self._study_seed = study_seed
        self.generation: int | None = None

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """As Optuna, and remember it."""
        self.generation = super().get_trial_generation(study, trial)
        return self.generation

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """As Optuna, by the generation's own draw and in trial order."""
        assert self.population_size is not None, "always given"
        seed = suggestion_seed(self._study_seed, generation)
        selector = _NsgaIII(self._study_seed, seed, self.population_size)
        selected = super(_NsgaIII, selector).select_parent(study, generation)
        return sorted(selected, key=lambda trial: trial.number)


def generation_key(sampler: BaseSampler) -> str:
    """Trial attribute in which a genetic sampler keeps a trial's generation; the log holds it for a resumed run."""
    return f"{type(sampler).__name__}:generation"


def generation_of(sampler: BaseSampler) -> int | None:
    """A genetic sampler's generation of the trial it suggested last; None for other samplers."""
    return sampler.generation if isinstance(sampler, _NsgaII | _NsgaIII) else None


def _missing_for_gp() -> list[str]:
    return [name for name in ("torch", "scipy") if importlib.util.find_spec(name) is None]


def _check_gp() -> None:
    if missing := _missing_for_gp():
        raise InputError(f"sampler = 'gp': needs {' and '.join(missing)} installed; pip install them, or use tpe")


def choose_sampler(
    setting: str, size: int | None, budget: int | None, *, bounded: bool, screened: bool = False, slow: bool = False
) -> SamplerName:
    """Resolve ``auto`` and check what was asked for.

    ``auto`` goes by the study alone, never by a clock, and the log's header keeps what it chose:

    1. a budget that covers the whole space: every design is simulated;
    2. no budget, bounds, and a space that can be enumerated: ``exact``;
    3. quality measured live, which takes seconds and which nothing cheaper foretells: ``gp`` up to
       :data:`GP_BUDGET` where torch and scipy are installed;
    4. anything cheaper than a full simulation: ``screened``, which needs the fewest of those;
    5. otherwise ``tpe`` up to :data:`TPE_BUDGET`, whose cost grows with the trials, then ``nsga2``, whose does not.

    Args:
        setting: Of the study.
        size: Number of designs; None where a parameter is continuous.
        budget: Of the study; None where it gives none.
        bounded: Whether there are bounds.
        screened: Whether short traces or bounds can judge designs before they are simulated.
        slow: Whether evaluating a design runs a command of the user's.

    Raises:
        InputError: If ``gp`` is asked for without the packages that Optuna's Gaussian process needs, ``exact``
            without bounds or for a space that cannot be enumerated, or ``screened`` with nothing to screen by.
    """
    if setting == "auto":
        return _automatic(size, budget, bounded=bounded, screened=screened, slow=slow)
    if setting == "exact":
        if not bounded:
            raise InputError(
                "sampler = 'exact': needs bounds or the fast engine: bounds are known in mode realistic, and for "
                "objectives in their better direction only; set engine: fast, or use auto or tpe"
            )
        if size is None or size > MAX_ENUMERATED:
            count = "a continuum of" if size is None else f"{size}"
            raise InputError(
                f"sampler = 'exact': the space has {count} designs, at most {MAX_ENUMERATED} can be enumerated; give "
                f"parameters steps or choices, or use screened"
            )
    if setting == "gp":
        _check_gp()
    if setting == "screened" and not screened:
        why = "quality is measured live, and nothing cheaper foretells it" if slow else "nothing is known before it"
        raise InputError(f"sampler = 'screened': {why}; use auto or tpe")
    return cast("SamplerName", setting)


def _automatic(size: int | None, budget: int | None, *, bounded: bool, screened: bool, slow: bool) -> SamplerName:
    limit = SAMPLED_BUDGET if budget is None else budget
    if size is not None and size <= limit:
        return "exhaustive"
    if bounded and size is not None and size <= MAX_ENUMERATED and (budget is None or not screened):
        return "exact"
    if slow and limit <= GP_BUDGET and not _missing_for_gp():
        return "gp"
    if screened:
        return "screened"
    return "tpe" if limit <= TPE_BUDGET else "nsga2"


def suggestion_seed(seed: int, suggestion: int) -> int:
    """Seed of one suggestion, independent of all others."""
    return int(np.random.SeedSequence([seed, suggestion]).generate_state(1)[0])


def make_sampler(name: SamplerName, seed: int, suggestion: int, budget: int | None) -> BaseSampler:
    """Make the sampler of one suggestion.

    Args:
        name: One of Optuna's.
        seed: Of the study.
        suggestion: Number of the suggestion.
        budget: Of the study; a genetic sampler's population is a tenth of it within 10..50.

    Raises:
        InputError: If a record of ``gp`` is gone on with where its packages are missing.
    """
    own_seed = suggestion_seed(seed, suggestion)
    population = min(MAX_POPULATION, max(MIN_POPULATION, (budget or SAMPLED_BUDGET) // POPULATION_SHARE))
    with warnings.catch_warnings():
        # multivariate and group are "experimental" in name; they have been in Optuna since 2020.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return TPESampler(seed=own_seed, multivariate=True, group=True)
            case "nsga2":
                return _NsgaII(seed=own_seed, population_size=population)
            case "nsga3":
                return _NsgaIII(seed, own_seed, population)
            case "gp":
                _check_gp()
                return GPSampler(seed=own_seed, deterministic_objective=True, warn_independent_sampling=False)
            case _:
                return RandomSampler(seed=own_seed)
