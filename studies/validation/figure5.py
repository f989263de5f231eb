"""Check 2: the idealised mode against every label of PMPD's Fig. 5 (arXiv 2410.13461), the realistic one beside it.

A label is a speed-up over fp16. Fitted are the tokens of int8 KV cache that a step reads, one number a data set.
Two choices are tried both ways: whether schedules that switch are timed over one step less, as the public code logs
them, and whether codebooks are read in every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim import SimulationOptions, load_npu, load_shape, simulate
from hwsim.simulation import ModeName
from hwsim.trace import Schedule, synthetic_trace
from studies.validation.table import Cell, Fitted, Outcome, Row, at_most, read_data, shown

CHECK = "2 Fig. 5"
RMS_BOUND = 0.013
# Model of a label: shape, NPU (App. A.6), and most new tokens by data set (the public code).
MODELS = {
    "Vicuna-7B": ("vicuna-7b", "pmpd-16k", {"CNN/DM": 120, "DialogSum": 33}),
    "MobileLLaMA-1.4B": ("mobilellama-1.4b", "pmpd-4k", {"CNN/DM": 256, "DialogSum": 33}),
    "Phi-1.5": ("phi-1.5", "pmpd-4k", {"CNN/DM": 256, "DialogSum": 33}),
}
TASKS = ("CNN/DM", "DialogSum")
BASELINE_BITS = 16
KV_BITS = 8  # as pmpd-analytic assumes
MOST_CONTEXT = 2046  # the longest that every model holds behind one prompt token

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """One bar of the figure."""

    task: str
    model: str
    case: str
    bits: float
    speedup: float


@dataclass(frozen=True)
class Choice:
    """What is assumed beside the fitted contexts."""

    fewer_steps: bool
    codebooks: bool

    def __str__(self) -> str:
        steps = "N-2 steps where bits switch" if self.fewer_steps else "N-1 steps for all"
        return f"{steps}, {'with' if self.codebooks else 'without'} codebook traffic"


PUBLISHED_CHOICE = Choice(fewer_steps=True, codebooks=False)
CHOICES = tuple(Choice(fewer_steps, codebooks) for fewer_steps in (True, False) for codebooks in (False, True))


def _labels() -> list[Label]:
    return [
        Label(
            row["dataset"],
            row["model"],
            row["case"],
            float(row["mean_decode_weight_bits"]),
            float(row["speedup_over_fp16"]),
        )
        for row in read_data("pmpd_fig5")
    ]


class StepTimes:
    """Cycles of a decode step for every context from 1 to ``MOST_CONTEXT`` tokens; computed once for each width."""

    def __init__(self, mode: ModeName, *, codebooks: bool = False) -> None:
        """Prepare.

        Args:
            mode: Modelling mode; the realistic one runs with the int8 KV cache of the fit as well.
            codebooks: Whether ``pmpd-analytic`` counts codebook traffic.
        """
        self._options = SimulationOptions(mode=mode, engine="fast", analytic_codebooks=codebooks)
        self._known: dict[tuple[str, int], FloatArray] = {}

    def at_width(self, model: str, bits: int) -> FloatArray:
        """Cycles at one width."""
        if (model, bits) not in self._known:
            name, npu, _ = MODELS[model]
            shape = load_shape(name)
            trace = synthetic_trace(
                shape,
                Schedule.uniform(bits),
                prompt_tokens=1,
                decode_tokens=MOST_CONTEXT,
                kv_bits=KV_BITS,
            )
            columns = simulate(load_npu(npu), shape, trace, self._options).columns
            self._known[model, bits] = columns.cycles[columns.step >= 0].astype(np.float64)
        return self._known[model, bits]

    def at_mean(self, model: str, bits: float) -> FloatArray:
        """Mean cycles of steps at the two widths around ``bits``, in proportion."""
        low = int(bits)
        if bits == low:
            return self.at_width(model, low)
        share = bits - low
        return (1 - share) * self.at_width(model, low) + share * self.at_width(model, low + 1)


def _speedups(label: Label, times: StepTimes, *, fewer_steps: bool) -> FloatArray:
    """Predicted speed-up for every context."""
    tokens = MODELS[label.model][2][label.task]
    switches = label.case.startswith("PMPD")
    steps = tokens - 2 if fewer_steps and switches else tokens - 1
    baseline = times.at_width(label.model, BASELINE_BITS) * (tokens - 1)
    return baseline / (times.at_mean(label.model, label.bits) * steps)


def _fit_contexts(labels: Sequence[Label], times: StepTimes, choice: Choice) -> dict[str, int]:
    """Context of each data set with the least sum of squared ratio errors."""
    contexts = {}
    for task in TASKS:
        mine = [label for label in labels if label.task == task]
        errors = [_speedups(label, times, fewer_steps=choice.fewer_steps) / label.speedup - 1 for label in mine]
        contexts[task] = int(np.argmin(np.sum(np.square(errors), axis=0))) + 1
    return contexts


def _predict(labels: Sequence[Label], times: StepTimes, contexts: dict[str, int], *, fewer_steps: bool) -> list[float]:
    return [float(_speedups(label, times, fewer_steps=fewer_steps)[contexts[label.task] - 1]) for label in labels]


def _errors(labels: Sequence[Label], predicted: Sequence[float]) -> list[float]:
    return [value / label.speedup - 1 for label, value in zip(labels, predicted, strict=True)]


def _rms(errors: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def _held_out_rms(labels: Sequence[Label], times: StepTimes, choice: Choice) -> float:
    """Over the labels of two models, predicted with contexts fitted on the third, for each model in turn."""
    errors: list[float] = []
    for model in MODELS:
        contexts = _fit_contexts([label for label in labels if label.model == model], times, choice)
        others = [label for label in labels if label.model != model]
        errors += _errors(others, _predict(others, times, contexts, fewer_steps=choice.fewer_steps))
    return _rms(errors)


def _name(contexts: dict[str, int]) -> str:
    return ", ".join(f"context of {task} = {tokens} tokens" for task, tokens in contexts.items())


def decoding_speeds(mode: ModeName) -> Iterator[tuple[Label, float]]:
    """Tokens/s of every label's steps on its NPU, at the context that the idealised mode was fitted to."""
    labels = _labels()
    contexts = _fit_contexts(labels, StepTimes("pmpd-analytic", codebooks=PUBLISHED_CHOICE.codebooks), PUBLISHED_CHOICE)
    times = StepTimes(mode)
    for label in labels:
        cycles = times.at_mean(label.model, label.bits)[contexts[label.task] - 1]
        yield label, load_npu(MODELS[label.model][1]).clock_hz / float(cycles)


def check() -> Outcome:
    """Fit, predict held-out models, and put the realistic mode beside."""
    labels = _labels()
    analytic = {codebooks: StepTimes("pmpd-analytic", codebooks=codebooks) for codebooks in (False, True)}
    rows: list[Row] = []
    fitted: list[Fitted] = []
    fits: dict[Choice, dict[str, int]] = {}
    for choice in CHOICES:
        times = analytic[choice.codebooks]
        contexts = fits[choice] = _fit_contexts(labels, times, choice)
        predicted = _predict(labels, times, contexts, fewer_steps=choice.fewer_steps)
        rms, case = _rms(_errors(labels, predicted)), f"rms over {len(labels)} labels: {choice}"
        judge = at_most if choice == PUBLISHED_CHOICE else shown
        rows.append(judge(CHECK, case, "ratio error", rms, RMS_BOUND, _name(contexts)))
        held_out = f"rms on two models, fitted on the third: {choice}"
        rows.append(
            shown(CHECK, held_out, "ratio error", _held_out_rms(labels, times, choice), RMS_BOUND, "one model's labels")
        )
        fitted += [
            Fitted(CHECK, f"context of {task} ({choice})", tokens, "tokens of int8 KV", "its 9 labels")
            for task, tokens in contexts.items()
        ]
    contexts, times = fits[PUBLISHED_CHOICE], analytic[PUBLISHED_CHOICE.codebooks]
    predicted = _predict(labels, times, contexts, fewer_steps=PUBLISHED_CHOICE.fewer_steps)
    realistic = _predict(labels, StepTimes("realistic"), contexts, fewer_steps=PUBLISHED_CHOICE.fewer_steps)
    details: list[dict[str, Cell]] = []
    for label, ideal, real in zip(labels, predicted, realistic, strict=True):
        case = f"{label.task}, {label.model}, {label.case}"
        context = f"context of {label.task} = {contexts[label.task]} tokens"
        rows.append(shown(CHECK, f"pmpd-analytic: {case}", "speed-up", ideal, label.speedup, context))
        details.append(
            {
                "dataset": label.task,
                "model": label.model,
                "case": label.case,
                "mean_decode_weight_bits": label.bits,
                "published_speedup": label.speedup,
                "analytic_speedup": ideal,
                "realistic_speedup": real,
            }
        )
    rms = _rms(_errors(labels, realistic))
    rows.append(shown(CHECK, "rms of the realistic mode at the same contexts", "ratio error", rms, RMS_BOUND))
    return Outcome(rows, details, fitted)
