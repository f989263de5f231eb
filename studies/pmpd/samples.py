"""Outputs side by side, chosen by a rule rather than by hand (Fig. 2, A.8)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accuracy.tasks import prompt_sha256
from hwsim.trace import write_text
from studies.pmpd.bench import Bench, Measured

RULES = ("largest gain", "median", "largest loss")


@dataclass(frozen=True)
class Sample:
    """One prompt with what several methods made of it.

    Attributes:
        title: Which comparison, which widths, and by which rule it was chosen.
        prompt: The prompt.
        reference: The task's own answer; None where it has none.
        answers: Text and per-prompt score by method.
    """

    title: str
    prompt: str
    reference: str | None
    answers: Mapping[str, tuple[str, float]]


def choose_samples(
    bench: Bench, title: str, ours: Measured, theirs: Measured, others: Sequence[Measured], metric: str
) -> list[Sample]:
    """The prompts on which ``ours`` gains most over ``theirs``, the median one, and the one that loses most.

    Args:
        bench: Where the prompts come from.
        title: What is compared.
        ours: The method of interest.
        theirs: What it is compared with.
        others: Shown beside.
        metric: A metric with one value per prompt, by which prompts are ranked.
    """
    examples = bench.subject.report.examples("test", bench.subject.report_prompts)
    gain = ours.statistics[metric][:, 0] - theirs.statistics[metric][:, 0]
    order = np.argsort(-gain, kind="stable")
    places = (order[0], order[len(order) // 2], order[-1])
    return [
        Sample(
            title=f"{title}: {rule} of {ours.method} over {theirs.method} ({gain[place]:+.1f} {metric}, "
            f"of {len(examples)} prompts)",
            prompt=examples[place].prompt,
            reference=examples[place].reference,
            answers={
                one.method: (one.texts[examples[place].id], float(one.statistics[metric][place, 0]))
                for one in (*others, theirs, ours)
            },
        )
        for rule, place in zip(RULES, places, strict=True)
    ]


def write_samples(
    path: Path, samples: Mapping[str, tuple[str, Sequence[Mapping[str, Any]]]], quotable: Collection[str]
) -> None:
    """Write Markdown, one section a model; texts are quoted as they are.

    Args:
        path: The file.
        samples: By model, the metric beside the answers, and :class:`Sample` as dictionaries.
        quotable: Models whose prompts and references may be printed; those of the others are named by hash.
    """
    lines = [
        "# Sample outputs",
        "",
        "Of each comparison: the prompt with the largest gain, the median one, and the one with the largest loss. "
        "Numbers are per-prompt scores.",
    ]
    for model, (metric, chosen) in samples.items():
        lines += ["", f"## {model} ({metric})"]
        for one in chosen:
            lines += ["", f"### {one['title']}", ""]
            if model in quotable:
                lines.append(f"- prompt: {_quoted(one['prompt'])}")
                if one["reference"] is not None:
                    lines.append(f"- reference: {_quoted(one['reference'])}")
            else:
                lines.append(f"- prompt: the one of hash {prompt_sha256(one['prompt'])[:16]} in the model's data")
            lines += [
                f"- **{method}** ({score:.1f}): {_quoted(text)}" for method, (text, score) in one["answers"].items()
            ]
    write_text(path, "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    """Text as Markdown shows it unchanged, on one line."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{' '.join(text.split())}{fence}" if text.strip() else "(empty)"
