"""What a bit of the KV cache is worth beside a bit of the weights."""

from __future__ import annotations

from itertools import pairwise, product
from math import inf
from typing import Any

import pandas as pd

from hwsim import NpuConfig, load_shape
from hwsim.trace import InputError, ModelShape
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
    """Context at which the ratio passes 1, between two simulated ones on a straight line; None if it never does.

    Where a weight bit saves no time and a KV bit does, the latter is worth more: the batch computes while weights load.
    """
    rows = mine.sort_values("context")
    buys = rows["kv_bit_s"] > 0
    ratios = rows["kv_bit_over_weight_bit"].where(rows["weight_bit_s"] > 0, inf).where(buys, 0.0)
    pairs = list(zip(rows["context"], ratios, strict=True))
    if pairs[0][1] >= 1:
        return float(pairs[0][0])
    for (left, low), (right, high) in pairwise(pairs):
        if high == inf:
            return float(right)
        if high >= 1:
            return float(left + (right - left) * (1 - low) / (high - low))
    return None


def crossing_text(mine: pd.DataFrame, batch: int, context: float) -> str:
    """A simulated crossing in words: the first context of all only bounds it.

    >>> rows = pd.DataFrame({"context": [128, 512], "weight_bit_s": [1.0, 1.0]})
    >>> crossing_text(rows, 16, 300.2), crossing_text(rows, 64, 128)
    ('300 at batch 16', '128 or fewer at batch 64')
    >>> crossing_text(rows.assign(weight_bit_s=0.0), 64, 128)
    'any at batch 64, where a weight bit saves no time'
    """
    if (mine["weight_bit_s"] <= 0).all():
        return f"any at batch {batch}, where a weight bit saves no time"
    fewer = " or fewer" if context <= mine["context"].min() else ""
    return f"{context:,.0f}{fewer} at batch {batch}"


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
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for one in shapes:
        places = product(batches, settings.contexts_within(CONTEXTS, one))
        try:
            rows += [worth_row(settings, npu, one, batch, context) for batch, context in places]
        except InputError as error:
            if one == shape:
                raise
            left_out[one.name] = str(error)
    shapes = [one for one in shapes if one.name not in left_out]
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
        mine = crossings[crossings["model"] == one.name].dropna(subset=["simulated_context"])
        parts = [f"{crossing_context(one):,} tokens by bytes (it holds {one.max_context:,})"]
        here = worth[worth["model"] == one.name]
        found = [
            crossing_text(here[here["batch"] == batch], int(batch), float(context))
            for batch, context in zip(mine["batch"], mine["simulated_context"], strict=True)
        ]
        if found:
            parts.append(f"simulated {', '.join(found)}")
        cells.append(f"{one.name} {'; '.join(parts)}")
    eighth = crossing_context(shape) // (KV_BITS[0] - KV_BITS[1])
    said = conclusion(
        alone=any(crossing_context(one) < one.max_context for one in shapes),
        in_batch=bool(crossings.loc[crossings["batch"] > 1, "simulated_context"].notna().any()),
    )
    answer = (
        f"One sequence alone needs {'. '.join(cells)}. So {said}; the eight bits from 16 to 8 equal one weight bit of "
        f"{shape.name} at {eighth:,} tokens."
        + "".join(f" Left out: {name}, {reason}." for name, reason in left_out.items())
    )
    return Finding(
        answer,
        {"kv_bits": worth, "kv_bits_crossings": crossings},
        "Codes of keys and values need no scales of their own; batches that do not fit the memory are simulated as if "
        "they did. Weight bits are compared between the two narrowest widths.",
        "Quality: what a quantised KV cache does to the text is not measured here.",
    )
