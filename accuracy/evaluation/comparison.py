"""Paired comparisons between the schedulers of a finished run, from its per-prompt results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accuracy.evaluation.results import PER_PROMPT_FILE
from accuracy.metrics import get_metric
from accuracy.statistics import Floats, Interval, paired_difference
from hwsim.trace import InputError, unknown_name


@dataclass(frozen=True)
class PerPrompt:
    """What a run measured of every prompt.

    Attributes:
        statistics: By scheduler label and metric name, ``[n, D]`` in the order of the prompts, which is the same for
            every scheduler.
        examples: The example behind each row; the turns of one are resampled together.
    """

    statistics: dict[str, dict[str, Floats]]
    examples: list[str]

    def difference(self, label: str, baseline: str, metric: str, *, relative: bool = False, seed: int = 0) -> Interval:
        """Score of ``label`` less that of ``baseline``, with its paired interval.

        Raises:
            InputError: If a label or metric was not measured.
        """
        metric_of = get_metric(metric)
        for name in (label, baseline):
            if name not in self.statistics:
                raise unknown_name("scheduler in the run", name, self.statistics)
            if metric not in self.statistics[name]:
                raise unknown_name("metric in the run", metric, self.statistics[name])
        ours, theirs = self.statistics[label][metric], self.statistics[baseline][metric]
        return paired_difference(ours, theirs, metric_of.aggregate, relative=relative, groups=self.examples, seed=seed)


def read_per_prompt(folder: Path | str) -> PerPrompt:
    """Read the per-prompt results of a run.

    Raises:
        InputError: If the folder holds no finished run.
    """
    path = Path(folder) / PER_PROMPT_FILE
    collected: dict[str, dict[str, list[list[float]]]] = {}
    examples: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                examples.setdefault(row["scheduler"], []).append(row["example"])
                for name, values in row["statistics"].items():
                    collected.setdefault(row["scheduler"], {}).setdefault(name, []).append(values)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the evaluation has not finished") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{path}: is no per-prompt file of an evaluation") from None
    if not collected:
        raise InputError(f"{path}: holds no prompt; run the evaluation again")
    statistics = {
        label: {name: np.array(values, dtype=np.float64) for name, values in by_metric.items()}
        for label, by_metric in collected.items()
    }
    return PerPrompt(statistics, next(iter(examples.values())))


def read_statistics(folder: Path | str) -> dict[str, dict[str, Floats]]:
    """Per-prompt statistics of a run, by scheduler label and metric name; see :class:`PerPrompt`."""
    return read_per_prompt(folder).statistics
