"""When decoding stops being bound by memory: weight bits, context and batch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import product
from math import log
from typing import Any

import pandas as pd

from hwsim import NPU_NAMES, NpuConfig, load_npu
from hwsim.trace import ModelShape
from studies.architect.settings import Finding, Settings, and_words
from studies.architect.traffic import (
    batch_trace,
    decode_step_bytes,
    decode_step_s,
    largest_batch,
    step_law,
    with_faster_memory,
    with_room,
)
from studies.common.subjects import ridge_macs_per_byte

QUESTION = "At which batch does decoding stop being bound by memory, by weight bits and context?"
BATCHES = (1, 4, 16, 64, 256)
CONTEXTS = (32, 128, 512, 2048, 8192)
NEAR = 128  # the answer is told at the context closest to this one
PEER = "server-hbm3e"  # few MACs for each GB/s; the default NPU has many
HALF = 0.5  # elasticity at which memory and computation weigh the same
STEP = 1.02  # memory is made this much faster and slower
LIMIT_KV_BITS = (16, 8, 4)
ANY_BITS = 16  # of the weights, whose bytes a large batch shares


def memory_elasticity(npu: NpuConfig, shape: ModelShape, **asked: int) -> tuple[float, float]:
    """Seconds of a decode step, and the share of a faster memory that turns into speed: ``-d ln t / d ln memory``.

    Args:
        npu: With room for the batch.
        shape: The model.
        asked: Of :func:`batch_trace`.
    """
    trace = batch_trace(shape, **asked)
    slow, fast = (decode_step_s(with_faster_memory(npu, factor), shape, trace) for factor in (1 / STEP, STEP))
    return decode_step_s(npu, shape, trace), log(slow / fast) / (2 * log(STEP))


def step_table(settings: Settings, npu: NpuConfig, shape: ModelShape) -> pd.DataFrame:
    """One decode step of every width, context and batch."""
    roomy = with_room(npu)
    rows: list[dict[str, Any]] = []
    for bits in sorted(set(settings.weight_bits) & set(npu.matrix.weight_widths)):
        for context in settings.contexts_within(CONTEXTS, shape):
            common = {"kv_bits": settings.kv_bits, "lm_head_bits": settings.lm_head_bits, "context": context}
            one = batch_trace(shape, weight_bits=bits, batch=1, **common)
            holds = largest_batch(npu, shape, one, context)
            for batch in sorted(settings.batches or BATCHES):
                step_s, elasticity = memory_elasticity(roomy, shape, weight_bits=bits, batch=batch, **common)
                rows.append(
                    {
                        "npu": npu.name,
                        "weight_bits": bits,
                        "context": context,
                        "batch": batch,
                        "tokens_per_s": batch / step_s,
                        "memory_elasticity": elasticity,
                        "fits_memory": batch <= holds,
                    }
                )
    return pd.DataFrame(rows)


def crossing_table(settings: Settings, npu: NpuConfig, shape: ModelShape, steps: pd.DataFrame) -> pd.DataFrame:
    """Least batch at which memory stops being the bound: simulated, of the roofline, and the largest that fits."""
    rows: list[dict[str, Any]] = []
    for bits, context in product(sorted(set(steps["weight_bits"])), sorted(set(steps["context"]))):
        mine = steps[(steps["weight_bits"] == bits) & (steps["context"] == context)]
        trace = batch_trace(
            shape,
            bits,
            1,
            context,
            kv_bits=settings.kv_bits,
            lm_head_bits=settings.lm_head_bits,
        )
        law = step_law(npu, shape, trace, context)
        crossed = mine[mine["memory_elasticity"] < HALF]["batch"]
        rows.append(
            {
                "npu": npu.name,
                "weight_bits": bits,
                "context": context,
                "simulated_batch": None if crossed.empty else int(crossed.min()),
                "roofline_batch": law.crossing_batch(ridge_macs_per_byte(npu)),
                "largest_batch_that_fits": largest_batch(npu, shape, trace, context),
            }
        )
    return pd.DataFrame(rows).astype({"simulated_batch": "Int64", "roofline_batch": float})


def context_limit(npu: NpuConfig, shape: ModelShape, *, kv_bits: int, lm_head_bits: int) -> int:
    """Longest context at which some batch, however large, makes MACs the bound of the roofline; 0: none.

    Of a large batch only each sequence's own bytes count: it is ``macs / ridge > own bytes``. Where that fails at one
    context it fails at all longer ones, as a token adds the same bytes and MACs to each, so bisection finds the last.
    """
    ridge = ridge_macs_per_byte(npu)

    def can(context: int) -> bool:
        trace = batch_trace(shape, ANY_BITS, 1, context, kv_bits=kv_bits, lm_head_bits=lm_head_bits)
        law = step_law(npu, shape, trace, context)
        return law.macs / ridge > law.own_bytes

    return bisect_left(range(1, shape.max_context), True, key=lambda context: not can(context))


def limit_table(settings: Settings, npu: NpuConfig, shape: ModelShape) -> pd.DataFrame:
    """:func:`context_limit` of the NPU and the shipped ones, by bits of the KV cache."""
    npus = {npu.name: npu} | {name: load_npu(name) for name in NPU_NAMES}
    rows = [
        {
            "npu": name,
            "ridge_macs_per_byte": ridge_macs_per_byte(one),
            "kv_bits": kv_bits,
            "longest_context": context_limit(one, shape, kv_bits=kv_bits, lm_head_bits=settings.lm_head_bits),
        }
        for name, one in npus.items()
        for kv_bits in dict.fromkeys([settings.kv_bits, *LIMIT_KV_BITS])
    ]
    return pd.DataFrame(rows)


def crossing_text(batch: Any, batches: Sequence[int]) -> str:
    """Where a crossing lies, which the simulated batches only enclose.

    >>> crossing_text(64, [4, 16, 64]), crossing_text(4, [4, 16]), crossing_text(1, [1]), crossing_text(None, [1, 8])
    ('between batch 16 and 64', 'at batch 4 already', 'at any batch', 'at no batch up to 8')
    """
    if pd.isna(batch):
        return f"at no batch up to {batches[-1]}"
    place = batches.index(int(batch))
    if place:
        return f"between batch {batches[place - 1]} and {batch}"
    return "at any batch" if batch == 1 else f"at batch {batch} already"


def widths_text(crossings: pd.DataFrame, batches: Sequence[int]) -> str:
    """Where each width of one NPU and context crosses over, equal ones together."""
    together: dict[str, list[str]] = {}
    for bits, batch in zip(crossings["weight_bits"], crossings["simulated_batch"], strict=True):
        together.setdefault(crossing_text(batch, batches), []).append(str(bits))
    return ", ".join(f"{text} at {and_words(bits)} bits" for text, bits in together.items())


def rereading_text(settings: Settings, npu: NpuConfig, crossings: pd.DataFrame, context: int) -> str:
    """Why simulated batches stay with the memory where the roofline's cross over; empty where they agree.

    Args:
        settings: Give the batches.
        npu: Whose crossings these are.
        crossings: Of one NPU and context.
        context: That of the crossings.
    """
    _, shape = settings.load()
    batch = max(settings.batches or BATCHES)
    apart = crossings[crossings["simulated_batch"].isna() & (crossings["roofline_batch"] < batch)]
    if apart.empty:
        return ""
    row = apart.iloc[-1]
    bits = int(row["weight_bits"])
    common = {"kv_bits": settings.kv_bits, "lm_head_bits": settings.lm_head_bits}
    one, many = (batch_trace(shape, bits, size, context, **common) for size in (1, batch))
    law = step_law(npu, shape, one, context)
    moved = decode_step_bytes(with_room(npu), shape, many) / (law.shared_bytes + batch * law.own_bytes)
    text = f" (the roofline would at {row['roofline_batch']:,.0f} at {bits} bits"
    if moved < 1.5:
        return f"{text})"
    return (
        f"{text}; but a step of {batch} sequences moves {moved:.3g} times the least bytes, as weights are read again "
        "for each part of the batch that fits the buffers)"
    )


def limit_text(longest_context: int, shape: ModelShape) -> str:
    """Beyond which context no batch crosses over; the model's own bound is no such limit."""
    if longest_context >= shape.max_context - 1:
        return f"at any context up to {longest_context:,} tokens a large enough batch can"
    return f"beyond {longest_context:,} tokens of context no batch can" if longest_context else "no batch ever can"


def answer_of(settings: Settings, npus: Mapping[str, NpuConfig], crossings: pd.DataFrame, limits: pd.DataFrame) -> str:
    """The sentence: where each NPU crosses over, and beyond which context none can."""
    _, shape = settings.load()
    contexts = settings.contexts_within(CONTEXTS, shape)
    near = min(contexts, key=lambda context: abs(context - NEAR))
    parts = []
    for name, mine in crossings.groupby("npu", sort=False):
        limit = limits[(limits["npu"] == name) & (limits["kv_bits"] == settings.kv_bits)].iloc[0]
        here = mine[mine["context"] == near]
        parts.append(
            f"{name} ({limit['ridge_macs_per_byte']:.3g} MACs per byte of bandwidth) "
            f"{widths_text(here, sorted(settings.batches or BATCHES))}"
            f"{rereading_text(settings, npus[str(name)], here, near)}, and "
            f"{limit_text(int(limit['longest_context']), shape)} (roofline)"
        )
    return (
        f"With {near:,} tokens of context and {settings.kv_bits}-bit keys and values decoding leaves the memory's "
        f"side on {'; on '.join(parts)}. A batch shares the weights but not the caches."
    )


def compute(settings: Settings) -> Finding:
    """Simulate the steps on the NPU and its peer, and set them beside the roofline."""
    given, shape = settings.load()
    npus = {given.name: given, PEER: load_npu(PEER)}
    npus = {name: npu for name, npu in npus.items() if set(settings.weight_bits) & set(npu.matrix.weight_widths)}
    steps = {name: step_table(settings, npu, shape) for name, npu in npus.items()}
    crossings = pd.concat([crossing_table(settings, npus[name], shape, mine) for name, mine in steps.items()])
    limits = limit_table(settings, given, shape)
    return Finding(
        answer_of(settings, npus, crossings, limits),
        {"memory_bound": pd.concat(steps.values()), "memory_bound_crossings": crossings, "memory_bound_limits": limits},
        "Sequences of a batch have equal context and width. Memory-bound means that more than half of a small gain in "
        "the memory's speed (pins, core timing and refresh alike) turns into speed. Batches that do not fit the memory "
        "are simulated as if they did, and marked.",
        "Prefill between decode steps, and sequences of different lengths (hwsim runs them; they are not varied here).",
    )
