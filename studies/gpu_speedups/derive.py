"""Tables 3 and 6 of the paper from its own Tables 7 and 8.

Table 3 is arithmetic: with t(b) the latency of a layer at b bits and f the share of steps at the high width h,

    baseline-h = t(16) / t(h),    PMPD = t(16) / (f t(h) + (1 - f) t(h - 1)).

Table 6 is not, since a step does more than its linear layers. Let T(b) be the sum of all linear kernels of a step,
and assume that the rest takes c whatever the width. c follows from the baseline-h entry,

    S = (T(16) + c) / (T(h) + c)    =>    c = (T(16) - S T(h)) / (S - 1),

one fitted number for each GPU and model; the PMPD entry is then predicted, not fitted. No mixture of the two widths
can exceed the bound (T(16) + c) / (T(h - 1) + c).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from hwsim import load_shape
from studies.gpu_speedups.paper import (
    BASELINE,
    END_TO_END,
    FULL_PRECISION_BITS,
    PMPD,
    REPRESENTATIVES,
    Latencies,
    Mixture,
    Published,
)

# One unit of the last printed digit, since the latencies are rounded too; the rest is room for binary fractions.
AGREEMENT = 0.0101
ROUNDING = 0.005
# A prediction that is off by no more is called one.
CLOSE = 0.05
US_PER_MS = 1e3


@dataclass(frozen=True)
class DerivedLayer:
    """One entry of Table 3.

    Attributes:
        agrees: Within 0.01 of the printed speed-up.
    """

    gpu: str
    model: str
    method: str
    what: str
    published: float
    derived: float
    agrees: bool


@dataclass(frozen=True)
class PredictedEndToEnd:
    """One GPU and model of Table 6.

    Attributes:
        linear_fp16_ms: T(16), the linear kernels of one step.
        linear_high_ms: T(h).
        linear_low_ms: T(h - 1).
        rest_ms: c, fitted to the baseline-h entry.
        published_baseline: That entry.
        published_pmpd: The entry that is predicted.
        predicted_pmpd: The prediction.
        error: ``predicted / published - 1``.
        bound: The speed-up if every step ran at the low width, as large as rounding of the printed baseline allows.
        verdict: ``predicted`` (within 5%), ``off``, ``impossible`` where c is negative, that is where the published
            step is shorter than the kernels it is made of, or ``above bound``.
    """

    gpu: str
    model: str
    linear_fp16_ms: float
    linear_high_ms: float
    linear_low_ms: float
    rest_ms: float
    published_baseline: float
    published_pmpd: float
    predicted_pmpd: float
    error: float
    bound: float
    verdict: str


def derive_layers(entries: list[Published], latencies: Latencies, mixtures: dict[str, Mixture]) -> list[DerivedLayer]:
    """Every entry of Table 3 from Tables 7 and 8."""
    derived = []
    for entry in entries:
        if entry.what not in REPRESENTATIVES:
            continue
        mixture, layer = mixtures[entry.model], REPRESENTATIVES[entry.what]
        at = {
            bits: latencies[entry.gpu, entry.model, bits, layer]
            for bits in (FULL_PRECISION_BITS, mixture.high_bits, mixture.low_bits)
        }
        time = at[mixture.high_bits]
        if entry.method == PMPD:
            time = mixture.mix(time, at[mixture.low_bits])
        speedup = at[FULL_PRECISION_BITS] / time
        agrees = abs(speedup - entry.speedup) <= AGREEMENT
        derived.append(DerivedLayer(entry.gpu, entry.model, entry.method, entry.what, entry.speedup, speedup, agrees))
    return derived


def predict_end_to_end(
    entries: list[Published], latencies: Latencies, mixtures: dict[str, Mixture]
) -> list[PredictedEndToEnd]:
    """Every PMPD entry of Table 6 from its baseline-h entry and Tables 7 and 8."""
    speedups = {(one.gpu, one.model, one.method): one.speedup for one in entries if one.what == END_TO_END}
    gpus, models = (sorted({key[place] for key in speedups}) for place in (0, 1))
    predicted = []
    for gpu, model in product(gpus, models):
        mixture = mixtures[model]
        full, high, low = (
            step_ms(latencies, gpu, model, bits) for bits in (FULL_PRECISION_BITS, mixture.high_bits, mixture.low_bits)
        )
        baseline, pmpd = speedups[gpu, model, BASELINE], speedups[gpu, model, PMPD]
        rest = _rest(full, high, baseline)
        prediction = (full + rest) / (mixture.mix(high, low) + rest)
        rests = [_rest(full, high, baseline + rounding) for rounding in (-ROUNDING, ROUNDING)]
        bound = max((full + one) / (low + one) for one in rests)
        error = prediction / pmpd - 1
        verdict = "predicted" if abs(error) <= CLOSE else "off"
        if rest < 0:
            verdict = "impossible"
        elif pmpd - ROUNDING > bound:
            verdict = "above bound"
        predicted.append(
            PredictedEndToEnd(gpu, model, full, high, low, rest, baseline, pmpd, prediction, error, bound, verdict)
        )
    return predicted


def _rest(full: float, high: float, speedup: float) -> float:
    """The time c outside the linear layers that explains a speed-up."""
    return (full - speedup * high) / (speedup - 1)


def step_ms(latencies: Latencies, gpu: str, model: str, bits: int) -> float:
    """All linear kernels of one decode step, in milliseconds."""
    block = [time for key, time in latencies.items() if key[:3] == (gpu, model, bits)]
    return load_shape(model).layers * sum(block) / US_PER_MS
