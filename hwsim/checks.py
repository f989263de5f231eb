"""What must hold before anything is simulated."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

from hwsim.config import NpuConfig
from hwsim.precision import Precision, Sparsity
from hwsim.trace import FULL_PRECISION_BITS, InputError, ModelShape, Trace, TraceHeader
from hwsim.workload import embedding_bytes, kv_cache_bytes, shares_embedding, stored_model_bytes

LEARNED_SCHEDULER = "learned"  # its name in a trace's header


def step_precision(npu: NpuConfig, header: TraceHeader, weight_bits: int) -> Precision:
    """All bits of a step: the trace says them; the format of weights and the length buckets are the NPU's."""
    matrix, control = npu.matrix, npu.control
    sparsity = None
    if matrix.sparsity is not None:
        densities = tuple((name, Fraction(str(share))) for name, share in sorted(matrix.sparsity.density.items()))
        sparsity = Sparsity(matrix.sparsity.index_bits, densities)
    return Precision(
        weight_bits=weight_bits,
        activation_bits=header.activation_bits,
        kv_bits=header.kv_bits,
        lm_head_bits=header.lm_head_bits,
        codebook_entry_bits=matrix.codebook_entry_bits,
        binary_coded=matrix.bit_serial,
        sparsity=sparsity,
        prefill_bucket_tokens=control.prefill_bucket_tokens,
        decode_bucket_tokens=control.decode_bucket_tokens,
    )


def check_widths(npu: NpuConfig, widths: set[int]) -> None:
    """Refuse weight widths the NPU does not support."""
    if unsupported := sorted(widths - set(npu.matrix.weight_widths)):
        supported = ", ".join(str(bits) for bits in npu.matrix.weight_widths)
        raise InputError(
            f"trace weight_bits = {unsupported[0]}: {npu.name} supports {supported}; "
            "change the schedule or matrix.weight_widths"
        )


def check_fit(npu: NpuConfig, shape: ModelShape, header: TraceHeader, widths: set[int], cached_tokens: int) -> None:
    """Refuse weight widths the NPU does not support and a model larger than its memory.

    Args:
        npu: The hardware.
        shape: The model.
        header: Gives the bits of everything but the weights.
        widths: All weight widths in use.
        cached_tokens: Most tokens the KV cache has to hold.

    Raises:
        InputError: With field, value, bound and remedy.
    """
    check_widths(npu, widths)
    precision = step_precision(npu, header, max(widths))
    needed = {"memory": stored_model_bytes(shape, widths, precision), "second_memory": 0}
    held = () if npu.second_memory is None else npu.second_memory.holds
    needed["second_memory" if "kv" in held else "memory"] += kv_cache_bytes(shape, header.kv_bits, cached_tokens)
    if "embedding" in held:
        table = embedding_bytes(shape, precision)
        # A table that the lm_head shares stays in the main memory too: the weights' bus reads it whole.
        needed["second_memory"] += table
        needed["memory"] -= 0 if shares_embedding(shape, precision) else table
    for path, size in needed.items():
        memory = getattr(npu, path)
        if memory is not None and size > memory.capacity_bytes:
            raise InputError(
                f"{npu.name}: {path}.capacity_bytes = {memory.capacity_bytes}: {shape.name} with weights of "
                f"{'/'.join(str(bits) for bits in sorted(widths))} bits and {cached_tokens} tokens of KV cache "
                f"needs {size} there; raise it or lower the bits"
            )


def check_trace(npu: NpuConfig, shape: ModelShape, trace: Trace) -> None:
    """Refuse an empty trace, a sequence beyond the model's context, and what :func:`check_fit` refuses."""
    if not trace.sequences:
        raise InputError("trace has 0 sequences: must have at least 1")
    widths: set[int] = set()
    cached: defaultdict[object, int] = defaultdict(int)
    precision = step_precision(npu, trace.header, FULL_PRECISION_BITS)
    for sequence in trace.sequences:
        widths |= {sequence.prefill_weight_bits, *(bits for bits, _ in sequence.decode_weight_bits)}
        tokens = sequence.prompt_tokens + sequence.decode_steps
        if tokens > shape.max_context:
            raise InputError(
                f"sequence '{sequence.id}': prompt_tokens + decode steps = {tokens}: {shape.name} holds at most "
                f"{shape.max_context} tokens"
            )
        # Sequences of one batch keep their caches at the same time; the others follow one another.
        batch = sequence.batch_id if trace.header.execution == "batched" else sequence.id
        cached[batch] += precision.cache_tokens(sequence.prompt_tokens, sequence.decode_steps)
    check_fit(npu, shape, trace.header, widths, max(cached.values()))
