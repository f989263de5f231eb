"""What a bit of the KV cache is worth beside a bit of the weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd

from hwsim import NpuConfig, load_shape
from hwsim.trace import ModelShape
from studies.architect.settings import Finding, Settings
from studies.architect.traffic import batch_trace, crossing_context, decode_step_s, with_room

QUESTION = "From which context is a bit of the KV cache worth more than a bit of the weights?"
CONTEXTS = (128, 1000, 4000, 8000, 16000)  # the value of a bit is linear in them
BATCHES = (1, 4, 16, 64)
KV_BITS = (16, 8)
MORE_MODELS = ("llama-3-8b", "longchat-13b")  # grouped heads; a long context


def worth_row(settings: Settings, npu: NpuConfig, shape: ModelShape, batch: int, context: int) -> dict[str, Any]:
    """Seconds of a decode step that one bit less saves: of the weights, and of the KV cache from 16 to 8."""
    low, high = settings.nested_bits[:2]

    def step_s(weight_bits: int, kv_bits: int) -> float:
        trace = batch_trace(shape, weight_bits, batch, context, kv_bits=kv_bits, lm_head_bits=settings.lm_head_bits)
        return decode_step_s(npu, shape, trace)

    full = step_s(high, KV_BITS[0])
    weight_s = (full - step_s(low, KV_BITS[0])) / (high - low)
    kv_s = (full - step_s(high, KV_BITS[1])) / (KV_BITS[0] - KV_BITS[1])
    return {
        "model": shape.name,
        "batch": batch,
        "context": context,
        "step_s": full,
        "weight_bit_s": weight_s,
        "kv_bit_s": kv_s,
        "kv_bit_over_weight_bit": kv_s / weight_s if weight_s > 0 else None,
    }


def crossing(mine: pd.DataFrame) -> float | None:
    """Context at which the ratio passes 1, between two simulated ones on a straight line; None if it never does."""
    rows = mine.sort_values("context")
    pairs = list(zip(rows["context"], rows["kv_bit_over_weight_bit"], strict=True))
    if not pairs or pd.isna(pairs[0][1]):
        return None
    if pairs[0][1] >= 1:
        return float(pairs[0][0])
    for (left, low), (right, high) in pairwise(pairs):
        if not pd.isna(high) and high >= 1:
            return float(left + (right - left) * (1 - low) / (high - low))
    return None


def conclusion(*, alone: bool, in_batch: bool) -> str:
    """What the crossings say, of the models and batches that were asked for.

    Args:
        alone: Whether some model holds a context at which one sequence crosses over.
        in_batch: Whether some batch crosses over.

    >>> conclusion(alone=False, in_batch=True)
    'a KV bit is worth less than a weight bit to one sequence and more to a batch'
    """
    if alone:
        return "a KV bit is worth more than a weight bit beyond these contexts, to one sequence too"
    return "a KV bit is worth less than a weight bit to one sequence" + (" and more to a batch" if in_batch else "")


def compute(settings: Settings) -> Finding:
    """Simulate steps with one bit less of either, and set the crossing beside the count of bytes."""
    given, shape = settings.load()
    npu = with_room(given)
    shapes = list(dict.fromkeys([shape, *(load_shape(model) for model in MORE_MODELS)]))
    batches = sorted(settings.batches or BATCHES)
    rows = [
        worth_row(settings, npu, one, batch, context)
        for one in shapes
        for batch in batches
        for context in settings.contexts_within(CONTEXTS, one)
    ]
    worth = pd.DataFrame(rows).astype({"kv_bit_over_weight_bit": float})
    crossings = pd.DataFrame(
        [
            {
                "model": one.name,
                "batch": batch,
                "max_context": one.max_context,
                "by_bytes_context": crossing_context(one, batch),
                "simulated_context": crossing(worth[(worth["model"] == one.name) & (worth["batch"] == batch)]),
            }
            for one in shapes
            for batch in batches
        ]
    ).astype({"simulated_context": float})
    cells = []
    for one in shapes:
        mine = crossings[crossings["model"] == one.name].set_index("batch")
        parts = [f"{crossing_context(one):,} tokens by bytes (it holds {one.max_context:,})"]
        found = mine["simulated_context"].dropna()
        if len(found):
            parts.append(f"simulated {', '.join(f'{value:,.0f} at batch {batch}' for batch, value in found.items())}")
        cells.append(f"{one.name} {'; '.join(parts)}")
    eighth = crossing_context(shape) // (KV_BITS[0] - KV_BITS[1])
    said = conclusion(
        alone=any(crossing_context(one) < one.max_context for one in shapes),
        in_batch=bool(crossings.loc[crossings["batch"] > 1, "simulated_context"].notna().any()),
    )
    answer = (
        f"One sequence alone needs {'. '.join(cells)}. So {said}; the eight bits from 16 to 8 equal one weight bit of "
        f"{shape.name} at {eighth:,} tokens."
    )
    return Finding(
        answer,
        {"kv_bits": worth, "kv_bits_crossings": crossings},
        "Codes of keys and values need no scales of their own; batches that do not fit the memory are simulated as if "
        "they did. Weight bits are compared between the two narrowest widths.",
        "Quality: what a quantised KV cache does to the text is not measured here.",
    )
