"""Measured step times as a trace (JSON Lines), the contract that the simulator reads.

The contract is kept by ``hwsim.trace``, which this package does not import: what is written here is plain JSON, and a
contract test reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path

from kernels.shapes import DecoderShape

SCHEMA_VERSION = "1.0"
_HALF_BITS = 16


@dataclass(frozen=True)
class Response:
    """One measured response; it has one token more than steps.

    Attributes:
        prompt_tokens: Length of the prompt.
        prefill_weight_bits: Width of the prefill.
        step_bits: Width of each decode step.
        prefill_ns: Time of the prefill.
        step_ns: Time of each decode step.
    """

    prompt_tokens: int
    prefill_weight_bits: int
    step_bits: tuple[int, ...]
    prefill_ns: int
    step_ns: tuple[int, ...]


def write_trace(
    path: Path, shape: DecoderShape, responses: Sequence[Response], device: str, provenance: Mapping[str, str]
) -> None:
    """Write responses that ran one after the other, all by one schedule, with random weights and half-precision rest.

    Args:
        path: The file, replaced as a whole; its folder is created.
        shape: The decoder.
        responses: At least one.
        device: What measured the times.
        provenance: Driver, versions, date, commit.
    """
    first = responses[0]
    header = {
        "record": "header",
        "schema_version": SCHEMA_VERSION,
        "model": {"name": shape.name, "shape": model_shape(shape), "config_sha256": None},
        "store_sha256": None,
        "activation_bits": _HALF_BITS,
        "kv_bits": _HALF_BITS,
        "lm_head_bits": _HALF_BITS,
        "task": "random-tokens",
        "scheduler": "static",
        "schedule": {
            "schema_version": SCHEMA_VERSION,
            "prefill_weight_bits": first.prefill_weight_bits,
            "decode": _segments(first.step_bits),
        },
        "execution": "sequential",
        "device": device,
        "provenance": {"weights": "random: times are those of real weights, tokens mean nothing", **provenance},
    }
    sequences = [
        {
            "record": "sequence",
            "id": f"run-{index}",
            "batch_id": index,
            "prompt_tokens": response.prompt_tokens,
            "generated_tokens": len(response.step_bits) + 1,
            "prefill_weight_bits": response.prefill_weight_bits,
            "decode_weight_bits": _runs(response.step_bits),
            "finish_reason": "length",
            "prefill_ns": response.prefill_ns,
            "step_ns": list(response.step_ns),
        }
        for index, response in enumerate(responses)
    ]
    lines = [header, *sequences, {"record": "trailer", "sequences": len(sequences)}]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    partial.replace(path)


def model_shape(shape: DecoderShape) -> dict[str, object]:
    """A decoder's dimensions by the names of the trace's contract."""
    return {
        "name": shape.name,
        "layers": shape.layers,
        "hidden_size": shape.hidden,
        "ffn_size": shape.ffn,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_context": shape.max_context,
        "mlp": "gated" if shape.mlp == "gated" else "two-matrix",
        "activation": "silu" if shape.activation == "silu" else "gelu",
        "norm": "rmsnorm" if shape.norm == "rms" else "layernorm",
        "parallel_attention": shape.parallel,
        "rotary_fraction": shape.rotary_fraction,
        "attention_bias": shape.qkv_bias,
        "mlp_bias": shape.mlp_bias,
        "tied_embeddings": False,
    }


def _runs(step_bits: Sequence[int]) -> list[list[int]]:
    """Run-length form.

    >>> _runs([4, 4, 3])
    [[4, 2], [3, 1]]
    """
    return [[bits, len(list(group))] for bits, group in groupby(step_bits)]


def _segments(step_bits: Sequence[int]) -> list[dict[str, int]]:
    runs = _runs(step_bits)
    starts = accumulate((count for _, count in runs[:-1]), initial=0)
    return [{"start_step": start, "weight_bits": bits} for start, (bits, _) in zip(starts, runs, strict=True)]
