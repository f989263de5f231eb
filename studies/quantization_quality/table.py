"""From raw numbers to rows: scores with 95% intervals, paired with full precision and with plain nesting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accuracy.metrics import identical_prefix_tokens, rouge_l
from accuracy.perplexity import perplexity_score
from accuracy.statistics import Aggregate, Count, Floats, Interval, bootstrap, mean, paired_difference
from studies.quantization_quality.measure import Measured

FP16_MAX = 65504.0
SEED = 0
Row = dict[str, Any]


def log_perplexity(sums: Floats, n: Count) -> Floats:
    """Aggregate of log-perplexity: nats per token of sums ``[..., 2]``."""
    result: Floats = sums[..., 0] / sums[..., 1]
    return result


def fidelity(found: Measured, full: Measured) -> tuple[Floats, Floats]:
    """Rouge-L F1 against the full-precision response and share of its leading tokens kept, ``[n, 1]`` in percent."""
    rouge = [
        rouge_l(ours, theirs) if theirs else 100.0 * (not ours)
        for ours, theirs in zip(found["texts"], full["texts"], strict=True)
    ]
    leading = [
        100 * identical_prefix_tokens(ours, theirs) / len(theirs)
        for ours, theirs in zip(found["tokens"], full["tokens"], strict=True)
    ]
    return np.array(rouge)[:, None], np.array(leading)[:, None]


def make_row(identity: Mapping[str, Any], found: Measured, full: Measured, nested: Measured | None) -> Row:
    """One row of the table.

    Args:
        identity: Model, quantiser, width and what else says which row it is.
        found: What was measured.
        full: The same at full precision.
        nested: The same of unweighted nested clustering per row at the same width, where it was measured.
    """
    losses, full_losses = _losses(found), _losses(full)
    rouge, leading = fidelity(found, full)
    finite = bool(np.isfinite(losses).all())
    largest = found["max_abs_hidden"], found["max_abs_linear_output"]
    row: Row = {
        **identity,
        "answers": len(losses),
        "answer_tokens": int(losses[:, 1].sum()),
        **_cells("perplexity", bootstrap(losses, perplexity_score, seed=SEED) if finite else None),
        **_cells("log_perplexity_minus_full", _paired(losses, full_losses, log_perplexity)),
        "prompts": len(rouge),
        **_cells("rouge_l", bootstrap(rouge, seed=SEED)),
        **_cells("leading_tokens_percent", bootstrap(leading, seed=SEED)),
        "logits_finite": finite,
        "max_abs_hidden": largest[0],
        "max_abs_linear_output": largest[1],
        "within_fp16": all(value is not None and value <= FP16_MAX for value in largest),
    }
    beside_losses = None if nested is None else _paired(losses, _losses(nested), log_perplexity)
    beside_rouge = None if nested is None else _paired(rouge, fidelity(nested, full)[0], mean)
    return {
        **row,
        **_cells("log_perplexity_minus_nested", beside_losses),
        **_cells("rouge_l_minus_nested", beside_rouge),
    }


def _losses(found: Measured) -> Floats:
    """Negative log-likelihood and tokens of every answer ``[n, 2]``, NaN where it is not finite."""
    return np.array(found["nll"], dtype=np.float64)


def _paired(ours: Floats, theirs: Floats, aggregate: Aggregate) -> Interval | None:
    """The paired difference; None where a number is not finite."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    return paired_difference(ours, theirs, aggregate, seed=SEED)


def _cells(name: str, one: Interval | None) -> dict[str, float | None]:
    """A score with its bounds; empty where it is not finite."""
    values = (None, None, None) if one is None else (one.value, one.low, one.high)
    keys = (name, f"{name}_low", f"{name}_high")
    return {
        key: value if value is not None and math.isfinite(value) else None
        for key, value in zip(keys, values, strict=True)
    }


def pitch(model: str, sizes: Sequence[Row], uniform_bits: Mapping[str, float], weights: int) -> list[Row]:
    """One nested store against a store per width.

    Args:
        model: Its name.
        sizes: Rows of bytes of that model's stores.
        uniform_bits: Bits per weight of all widths together in uniform grids, by name; computed, not stored.
        weights: Quantised weights of the model.
    """
    nested = [one for one in sizes if one["quantizer"] == "nested" and not one["fp16_bytes"]]
    direct = [one for one in sizes if one["quantizer"] == "direct"]
    single = f"{len(direct)} single-width k-means stores"
    rows = []
    for name, stores in (("one nested store", nested), (single, direct)):
        layers = sum(one["planes_bytes"] + one["codebook_bytes"] for one in stores)
        rows.append(
            {
                "model": model,
                "what": name,
                "layer_bytes": layers,
                "planes_bytes": sum(one["planes_bytes"] for one in stores),
                "codebook_bytes": sum(one["codebook_bytes"] for one in stores),
                "weight_file_bytes": sum(one["weight_file_bytes"] for one in stores),
                "layer_bits_per_weight": 8 * layers / weights,
                "source": "measured",
            }
        )
    rows += [
        {
            "model": model,
            "what": name,
            "layer_bytes": round(bits * weights / 8),
            "planes_bytes": None,
            "codebook_bytes": None,
            "weight_file_bytes": None,
            "layer_bits_per_weight": bits,
            "source": "computed",
        }
        for name, bits in uniform_bits.items()
    ]
    return rows
