"""Traces made from numbers instead of a model's run."""

from __future__ import annotations

from hwsim.trace.errors import InputError
from hwsim.trace.schedule import Schedule
from hwsim.trace.shape import ModelShape
from hwsim.trace.trace import Trace, TraceHeader, TraceModel, TraceSequence


def synthetic_trace(
    shape: ModelShape,
    schedule: Schedule,
    *,
    prompt_tokens: int,
    decode_tokens: int,
    sequences: int = 1,
    kv_bits: int = 16,
    lm_head_bits: int = 16,
    activation_bits: int = 8,
) -> Trace:
    """Make a trace in which every sequence follows ``schedule`` for exactly ``decode_tokens`` steps.

    Args:
        shape: The model.
        schedule: Precision of the prefill and of each decode step.
        prompt_tokens: Prompt length P >= 1.
        decode_tokens: Decode steps S >= 0; the response has S + 1 tokens.
        sequences: Number of equal sequences, run one after another.
        kv_bits: Bits of a stored key or value.
        lm_head_bits: Bits of an lm_head weight.
        activation_bits: Bits of an activation.

    Raises:
        InputError: If a length is out of bounds or the sequence does not fit the model's context.
    """
    if prompt_tokens < 1:
        raise InputError(f"prompt_tokens = {prompt_tokens}: must be >= 1")
    if decode_tokens < 0:
        raise InputError(f"decode_tokens = {decode_tokens}: must be >= 0")
    if sequences < 1:
        raise InputError(f"sequences = {sequences}: must be >= 1")
    if prompt_tokens + decode_tokens > shape.max_context:
        raise InputError(
            f"prompt_tokens + decode_tokens = {prompt_tokens + decode_tokens}: "
            f"{shape.name} holds at most {shape.max_context} tokens"
        )
    header = TraceHeader(
        model=TraceModel(name=shape.name, shape=shape),
        activation_bits=activation_bits,
        kv_bits=kv_bits,
        lm_head_bits=lm_head_bits,
        task="synthetic",
        scheduler="static",
        schedule=schedule,
    )
    lines = tuple(
        TraceSequence(
            id=f"synthetic-{index}",
            batch_id=index,
            prompt_tokens=prompt_tokens,
            generated_tokens=decode_tokens + 1,
            prefill_weight_bits=schedule.prefill_weight_bits,
            decode_weight_bits=tuple(schedule.runs(decode_tokens)),
            finish_reason="length",
        )
        for index in range(sequences)
    )
    return Trace(header=header, sequences=lines)
