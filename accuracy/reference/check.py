"""Measure what the shipped model shows about precision: ``python -m accuracy.reference.check --split test``.

Four questions, each answered with paired 95% bootstrap intervals over the same prompts: is the highest width
lossless, is the lowest clearly worse, what does the precision of the prefill do, and are high bits worth more early
or late in a response at exactly equal mean bits. The answers are written as they come out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from accuracy.decoding import Decoder, Prompt, Response, batches
from accuracy.metrics import Metric, Reference, get_metric
from accuracy.model import LanguageModel
from accuracy.quantization import NestedSettings, load_store, quantize
from accuracy.reference.generator import (
    MAX_NEW_TOKENS,
    MODEL_FOLDER,
    SPLITS,
    TASK_NAME,
    TASK_VERSION,
    ReferenceExample,
    examples,
)
from accuracy.reference.tokenization import SEP, encode_prompt
from accuracy.schedulers import PatternScheduler, Scheduler, UniformScheduler
from accuracy.schedulers.static import StaticScheduler
from accuracy.statistics import Floats, Interval, bootstrap, is_lossless, paired_difference
from hwsim.trace import FULL_PRECISION_BITS, Schedule, collect_provenance, write_json

WIDTHS = (8, 6, 5, 4, 3, 2)
PAIRS = ((3, 2), (4, 3), (4, 2))
"""High and low width of the schedules that mix two."""
METRIC_NAMES = ("rouge_l", "bleu")
RESULT_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Comparison:
    """A paired difference: score of `ours` minus score of `theirs`, in points of the metric."""

    question: str
    ours: str
    theirs: str
    metric: str
    difference: Interval


class Check:
    """The responses of one store to one split's prompts, by schedule."""

    def __init__(self, lm: LanguageModel, chosen: Sequence[ReferenceExample], batch_size: int) -> None:
        self.lm, self.chosen, self.batch_size = lm, chosen, batch_size
        self.prompts = [
            Prompt(example.id, tuple(encode_prompt(lm.tokenizer, example.prompt)), MAX_NEW_TOKENS) for example in chosen
        ]
        self.responses: dict[str, list[Response]] = {}

    def decode(self, name: str, prompts: Sequence[Prompt], schedulers: dict[str, Scheduler]) -> None:
        """Decode prompts under schedulers, remembered by the keys of `schedulers`."""
        decoder = Decoder(self.lm)
        decoder.check(prompts, tuple(schedulers.values()))
        found: dict[str, dict[str, Response]] = {key: {} for key in schedulers}
        for batch in tqdm(batches(prompts, self.batch_size), desc=name, unit="batch"):
            grid = decoder.decode_batch(batch, tuple(schedulers.values()))
            for key, responses in zip(schedulers, grid.responses, strict=True):
                found[key].update({response.prompt_id: response for response in responses})
        for key, by_prompt in found.items():
            self.responses[key] = [by_prompt[prompt.id] for prompt in prompts]

    def decode_uniform(self) -> None:
        """Decode at full precision and at each width."""
        widths = (FULL_PRECISION_BITS, *WIDTHS)
        self.decode("uniform", self.prompts, {str(bits): UniformScheduler(bits) for bits in widths})

    def decode_phases(self, high: int, low: int) -> None:
        """Decode with one width for the prefill and another for all decode steps."""
        self.decode(
            f"phases {high}/{low}",
            self.prompts,
            {
                f"prefill {before} decode {after}": StaticScheduler(Schedule.from_pairs(before, [(0, after)]))
                for before, after in ((high, low), (low, high))
            },
        )

    def decode_orders(self, high: int, low: int) -> None:
        """Decode with the high width on the first or on the last half of the steps, as many steps as at all high."""
        lengths = {response.prompt_id: len(response.tokens) for response in self.responses[str(high)]}
        prompts = [
            replace(prompt, max_new_tokens=lengths[prompt.id], min_new_tokens=lengths[prompt.id])
            for prompt in self.prompts
        ]
        steps = {prompt_id: length - 1 for prompt_id, length in lengths.items()}
        self.decode(
            f"orders {high}/{low}",
            prompts,
            {
                f"{pattern} {high}/{low}": PatternScheduler(pattern, steps, high, low)
                for pattern in ("first-half", "last-half", "alternate")
            },
        )

    def statistics(self, key: str, metric: Metric) -> Floats:
        """Per-prompt statistics ``[n, D]`` of a schedule's responses."""
        pairs = zip(self.responses[key], self.chosen, strict=True)
        return np.array(
            [metric.statistics(response, Reference(example.reference, None)) for response, example in pairs]
        )

    def scores(self) -> list[dict[str, Any]]:
        """Score of every schedule with its interval and mean decode bits."""
        rows = []
        for key, responses in self.responses.items():
            bits = [width for response in responses for width in response.decode_weight_bits]
            row: dict[str, Any] = {"schedule": key, "mean_decode_bits": round(sum(bits) / len(bits), 4)}
            for metric in map(get_metric, METRIC_NAMES):
                row[metric.name] = asdict(bootstrap(self.statistics(key, metric), metric.aggregate))
            exact = [r.text == e.reference for r, e in zip(responses, self.chosen, strict=True)]
            row["exactly_right"] = sum(exact) / len(exact)
            row["mean_tokens"] = sum(len(response.tokens) for response in responses) / len(responses)
            rows.append(row)
        return rows

    def comparisons(self) -> list[Comparison]:
        """The paired differences that answer the questions."""
        full = str(FULL_PRECISION_BITS)
        asked = [("each width against full precision", str(bits), full) for bits in WIDTHS]
        for high, low in PAIRS:
            asked += [
                ("high prefill, low decode against all low", f"prefill {high} decode {low}", str(low)),
                ("low prefill, high decode against all high", f"prefill {low} decode {high}", str(high)),
                ("high bits first against last at equal bits", f"first-half {high}/{low}", f"last-half {high}/{low}"),
            ]
        return [
            Comparison(question, ours, theirs, metric.name, paired_difference(
                self.statistics(ours, metric), self.statistics(theirs, metric), metric.aggregate
            ))
            for question, ours, theirs in asked
            for metric in map(get_metric, METRIC_NAMES)
        ]  # fmt: skip


def check(split: str, count: int, sensitivity: str, batch_size: int = 32) -> dict[str, Any]:
    """Quantise the shipped model, decode one split under all schedules and return every number as a dictionary."""
    with tempfile.TemporaryDirectory() as folder:
        settings = NestedSettings(sensitivity=sensitivity)
        calibration = [f"{example.prompt}{SEP}{example.reference}" for example in examples("calib", 128)]
        summary = quantize(MODEL_FOLDER, Path(folder) / "store", settings, calibration=calibration)
        run = Check(load_store(summary.folder), examples(split, count), batch_size)
    run.decode_uniform()
    for high, low in PAIRS:
        run.decode_phases(high, low)
        run.decode_orders(high, low)
    metric = get_metric("rouge_l")
    full = run.statistics(str(FULL_PRECISION_BITS), metric)
    return {
        "task": TASK_NAME,
        "task_version": TASK_VERSION,
        "split": split,
        "n": count,
        "model_sha256": run.lm.model_sha256,
        "store_sha256": summary.store_sha256,
        "quantizer": f"nested k-means, one codebook per row, 2..8 bits, sensitivity {sensitivity}",
        "lossless_widths": [bits for bits in WIDTHS if is_lossless(run.statistics(str(bits), metric), full)],
        "scores": run.scores(),
        "comparisons": [asdict(comparison) for comparison in run.comparisons()],
        "provenance": collect_provenance(device="cpu", threads=torch.get_num_threads()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and write the result beside the model card."""
    parser = argparse.ArgumentParser(prog="python -m accuracy.reference.check", description=__doc__)
    parser.add_argument("--split", choices=SPLITS, default="val", help="judge on val; read test once (default val)")
    parser.add_argument("--prompts", type=int, default=400, help="number of prompts (default %(default)s)")
    parser.add_argument("--sensitivity", choices=("none", "fisher"), default="none", help="weights of the k-means")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--out", type=Path, help="result file (default: check-SPLIT.json beside the model card)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    result = check(options.split, options.prompts, options.sensitivity)
    out = options.out or RESULT_FOLDER / f"check-{options.split}.json"
    write_json(out, result)
    for row in result["scores"]:
        score = row["rouge_l"]
        print(f"{row['schedule']:22} Rouge-L {score['value']:6.2f} [{score['low']:.2f}, {score['high']:.2f}]"
              f"  BLEU {row['bleu']['value']:6.2f}  bits {row['mean_decode_bits']:.2f}")  # fmt: skip
    for one in result["comparisons"]:
        span = one["difference"]
        print(f"{one['metric']:8} {one['ours']} - {one['theirs']}: "
              f"{span['value']:+.2f} [{span['low']:+.2f}, {span['high']:+.2f}]")  # fmt: skip
    print(f"lossless: {result['lossless_widths']}; written to {out}")


if __name__ == "__main__":
    main()
