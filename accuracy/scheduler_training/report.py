"""The report of a training: what it was of, every seed, the comparison, and what the comparison shows in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from accuracy.scheduler_training.checkpoint import LearnedConfig, count_labels
from accuracy.scheduler_training.comparison import PRIOR, PolicyResult, always, compare_on_labels
from accuracy.scheduler_training.label_store import LabelledPrompts
from accuracy.scheduler_training.train import TrainingData
from accuracy.statistics import Interval

KEPT = "learned"


def describe_data(data: TrainingData, held_out: LabelledPrompts | None) -> dict[str, Any]:
    """Prompts, classes and how often each is the label."""
    labels = data.labelled.settings
    parts = {
        "training": [data.labels.tolist()[place] for place in data.training],
        "validation": [data.labels.tolist()[place] for place in data.validation],
        "held_out": held_out.labels(data.rule) if held_out else [],
    }
    return {
        "model": labels.model_name,
        "model_sha256": labels.model_sha256,
        "store_sha256": labels.store_sha256,
        "input": data.input.name,
        "label_rule": data.rule,
        "score": labels.score,
        "classes": [schedule.label() for schedule in labels.candidates.schedules(labels.max_new_tokens)],
        "max_new_tokens": labels.max_new_tokens,
        "prompts": {name: len(part) for name, part in parts.items()},
        "label_counts": {name: count_labels(part, data.classes) for name, part in parts.items()},
    }


def describe_seeds(configs: Sequence[LearnedConfig]) -> dict[str, Any]:
    """Every seed's best epoch, and mean and range over the seeds."""
    return {
        "seeds": [
            {
                "seed": one.seed,
                "epoch": one.epoch,
                "validation_loss": one.validation_loss,
                "validation_accuracy": one.validation_accuracy,
            }
            for one in configs
        ],
        "over_seeds": {
            "validation_loss": _spread([one.validation_loss for one in configs]),
            "validation_accuracy": _spread([one.validation_accuracy for one in configs]),
        },
    }


def describe_comparison(
    held_out: LabelledPrompts, chosen: Mapping[int, Sequence[int]], kept: LearnedConfig, seed: int = 0
) -> dict[str, Any]:
    """Compare the choices of every seed on the held-out prompts.

    Args:
        held_out: The prompts.
        chosen: By seed, the class chosen for each.
        kept: The network kept; its prior is random-prior's.
        seed: Of the bootstrap.
    """
    names = {number: KEPT if number == kept.seed else f"{KEPT}, seed {number}" for number in chosen}
    by_name = {names[number]: picks for number, picks in sorted(chosen.items(), key=lambda one: one[0] != kept.seed)}
    results = compare_on_labels(held_out, by_name, kept.label_prior, rule=kept.label_rule, seed=seed)
    every_seed = [one for one in results if one.policy in by_name]
    learned = every_seed[0]
    return {
        "n": learned.score.n,
        "interval": f"95% percentile bootstrap over prompts, paired, seed {seed}",
        "policies": [asdict(one) for one in results],
        "chosen_counts": {name: count_labels(picks, len(kept.label_counts)) for name, picks in by_name.items()},
        "over_seeds": {
            name: _spread([getattr(one, name).value for one in every_seed])
            for name in ("accuracy", "score", "mean_bits", "over_static_mix", "over_prior_at_equal_bits")
        },
        "findings": findings(results, kept, distinct=len(set(by_name[KEPT]))),
    }


def findings(results: Sequence[PolicyResult], kept: LearnedConfig, distinct: int) -> list[str]:
    """What the comparison shows, in words; intervals that hold 0 show nothing.

    Args:
        results: The policies, the network kept first.
        kept: What its checkpoint says.
        distinct: How many classes it chose at all.
    """
    learned = results[0]
    accuracy = {one.policy: one.accuracy.value for one in results}
    frequent = always(kept.label_counts.index(max(kept.label_counts)))
    found = [
        f"accuracy {learned.accuracy.value:.3f} against {accuracy[PRIOR]:.3f} of random-prior and "
        f"{accuracy[frequent]:.3f} of the most frequent training label (n = {learned.score.n})"
    ]
    if distinct == 1:
        found.append("it chose one class for every prompt: it has learned which is most frequent and nothing more")
    for opponent, difference in (
        ("random-prior", learned.over_prior_at_equal_bits),
        ("the best static mix", learned.over_static_mix),
    ):
        size = f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}] points of Rouge-L"
        found.append(f"{_verdict(difference)} {opponent} at equal bits: {size}")
    return found


def _verdict(difference: Interval) -> str:
    if difference.low > 0:
        return "better than"
    return "worse than" if difference.high < 0 else "not shown to differ from"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(values), "lowest": min(values), "highest": max(values)}
