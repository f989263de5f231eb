"""Measure the shipped learned scheduler: ``python -m accuracy.reference.check_scheduler --split test``.

Its training compared it with choosing at random on prompts of its own domain, against the full-precision responses
(``selvic-scheduler/report.json``). Here the prompts are those of the reported domains, which it never saw, the right
translations decide, and the comparison is the same: what is a choice for each prompt worth at equal bits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accuracy.metrics import get_metric
from accuracy.model import LanguageModel
from accuracy.quantization import load_store, quantize
from accuracy.reference.check import RESULT_FOLDER, Check
from accuracy.reference.generator import (
    MAX_NEW_TOKENS,
    MODEL_FOLDER,
    SCHEDULER_FOLDER,
    SPLITS,
    TASK_NAME,
    TASK_VERSION,
    ReferenceExample,
    examples,
)
from accuracy.scheduler_training.checkpoint import count_labels
from accuracy.scheduler_training.comparison import ClassOutcomes, always, compare_on_labels
from accuracy.scheduler_training.report import KEPT, findings
from accuracy.schedulers import LearnedScheduler, Prefill
from accuracy.schedulers.static import StaticScheduler
from hwsim.trace import collect_provenance, write_json

METRIC = "rouge_l"


class RecordedScheduler(LearnedScheduler):
    """The learned scheduler, which remembers what it chose.

    Attributes:
        chosen: Class by prompt id.
    """

    def __init__(self, checkpoint: Path, lm: LanguageModel) -> None:
        super().__init__(checkpoint, lm)
        self.chosen: dict[str, int] = {}

    def choose(self, prefill: Prefill) -> int:
        """Classify the prompt."""
        self.chosen[prefill.prompt_id] = super().choose(prefill)
        return self.chosen[prefill.prompt_id]


def outcomes_of(run: Check, classes: int) -> ClassOutcomes:
    """What always choosing each class gave; the label is the class of fewest bits that is as good as the last one."""
    metric = get_metric(METRIC)
    responses = [run.responses[always(index)] for index in range(classes)]
    scores = np.stack([metric.aggregate(run.statistics(always(index), metric), 1) for index in range(classes)], -1)
    bits = np.array([[sum(one.decode_weight_bits) for one in by_class] for by_class in responses], dtype=np.float64).T
    steps = np.array([[len(one.decode_weight_bits) for one in by_class] for by_class in responses], dtype=np.float64).T
    return ClassOutcomes(scores, bits, steps, [int(label) for label in (scores >= scores[:, -1:]).argmax(1)])


def check_scheduler(lm: LanguageModel, chosen: Sequence[ReferenceExample], batch_size: int = 32) -> dict[str, Any]:
    """Decode prompts as the shipped scheduler chooses, and under each of its schedules throughout.

    Args:
        lm: The store that the scheduler was trained for.
        chosen: The prompts, with the right translations.
        batch_size: Prompts decoded together.

    Raises:
        InputError: If the store is another one.
    """
    run, learned = Check(lm, chosen, batch_size), RecordedScheduler(SCHEDULER_FOLDER, lm)
    schedules = learned.candidates.schedules(MAX_NEW_TOKENS)
    classes = {always(index): StaticScheduler(schedule) for index, schedule in enumerate(schedules)}
    run.decode("schedules", run.prompts, {KEPT: learned, **classes})
    picks = [learned.chosen[prompt.id] for prompt in run.prompts]
    results = compare_on_labels(outcomes_of(run, len(schedules)), {KEPT: picks}, learned.config.label_prior)
    return {
        "scheduler": learned.label,
        "schedules": [schedule.label() for schedule in schedules],
        "metric": METRIC,
        "interval": "95% percentile bootstrap over prompts, paired, seed 0",
        "policies": [asdict(one) for one in results],
        "chosen_counts": count_labels(picks, len(schedules)),
        "findings": findings(results, learned.config, distinct=len(set(picks))),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and write the result beside the model card."""
    parser = argparse.ArgumentParser(prog="python -m accuracy.reference.check_scheduler", description=__doc__)
    parser.add_argument("--split", choices=SPLITS, default="test", help="prompts to measure on (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=320, help="number of prompts (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--out", type=Path, help="result file (default: check-scheduler-SPLIT.json beside the card)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        lm = load_store(quantize(MODEL_FOLDER, Path(folder) / "store").folder)
        result = check_scheduler(lm, examples(options.split, options.prompts))
    out = options.out or RESULT_FOLDER / f"check-scheduler-{options.split}.json"
    about = {"task": TASK_NAME, "task_version": TASK_VERSION, "split": options.split, "n": options.prompts}
    store = {"model_sha256": lm.model_sha256, "store_sha256": lm.store_sha256}
    provenance = collect_provenance(device="cpu", threads=torch.get_num_threads())
    write_json(out, {**about, **store, **result, "provenance": provenance})
    for one in result["policies"]:
        print(f"{one['policy']:16} Rouge-L {one['score']['value']:6.2f}  bits {one['mean_bits']['value']:.3f}")
    for found in result["findings"]:
        print(found)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
