"""Whole responses of the paper's model shapes: prefill, then one CUDA graph a step, the width chosen step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from kernels.bench.session import Session, times
from kernels.bench.tables import Row
from kernels.bench.timing import Call, percentiles
from kernels.bench.trace import Response, write_trace
from kernels.shapes import DecoderShape, step_linears

if TYPE_CHECKING:
    import torch

    from kernels.decoder import KernelDecoder

FULL_PRECISION_BITS = 16
WIDTHS = (4, 3, 2)
# High and low width of the schedules: the paper's two pairs.
SWITCHES = ((4, 3), (3, 2))
_REPEATS = 3
# Weights made in float32 before they are rounded, activations, graphs.
_SPARE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class DecodeSettings:
    """How much is decoded.

    Attributes:
        prompt_tokens: Length of the prompt.
        decode_steps: Steps after the prefill.
        switch_step: First step at the lower width of a schedule.
    """

    prompt_tokens: int = 128
    decode_steps: int = 256
    switch_step: int = 128


@dataclass(frozen=True)
class Run:
    """One way through a response.

    Attributes:
        label: ``16`` for half precision, a width, or a schedule such as ``p4:4>3@128``.
        prefill_weight_bits: Width of the prefill.
        step_bits: Width of each step.
    """

    label: str
    prefill_weight_bits: int
    step_bits: tuple[int, ...]


def decode_runs(settings: DecodeSettings) -> list[Run]:
    """Half precision first, then every width, then the schedules."""
    steps, switch = settings.decode_steps, settings.switch_step
    uniform = [Run(str(bits), bits, (bits,) * steps) for bits in (FULL_PRECISION_BITS, *WIDTHS)]
    mixed = [
        Run(f"p{high}:{high}>{low}@{switch}", high, (high,) * switch + (low,) * (steps - switch))
        for high, low in SWITCHES
    ]
    return [*uniform, *mixed]


def needed_bytes(shape: DecoderShape) -> int:
    """GPU memory for half precision and the nested weights side by side."""
    linears = shape.layers * sum(N * K for N, K in step_linears(shape).values())
    nested = linears * max(WIDTHS) // 8
    return 2 * (linears + 2 * shape.vocab * shape.hidden) + nested + _SPARE_BYTES


def weight_bytes_per_step(shape: DecoderShape, weight_bits: int) -> int:
    """Weights and tables a step reads: all linears of the blocks, and lm_head in half precision."""
    blocks = 0
    for N, K in step_linears(shape).values():
        table = 0 if weight_bits == FULL_PRECISION_BITS else 2 * N * (1 << weight_bits)
        blocks += N * K * weight_bits // 8 + table
    return shape.layers * blocks + 2 * shape.vocab * shape.hidden


def decode_rows(session: Session, shape: DecoderShape, settings: DecodeSettings, out: Path) -> Iterator[Row]:
    """Time every run of :func:`decode_runs` on one set of random weights, and write the schedules' traces.

    Args:
        session: The device.
        shape: The model.
        settings: Lengths.
        out: Folder of ``trace-<model>-<high>-<low>.jsonl``.

    Yields:
        Rows of the table ``decode`` without their item.
    """
    runs = decode_runs(settings)
    free = session.free_bytes()
    if free is not None and free < needed_bytes(shape):
        status = f"skipped: needs {needed_bytes(shape) / 1e9:.1f} GB of GPU memory, {free / 1e9:.1f} free"
        yield from (_row(session, shape, settings, run) | {"status": status} for run in runs)
        return
    decoder = _decoder(session.device, shape, settings)
    prompt = _prompt(shape, settings)
    decoder.prefill(prompt, max(WIDTHS))
    decoder.graphs.prepare()
    baseline = None
    for run in runs:
        responses, status = _measure(session, decoder, prompt, run)
        row = _row(session, shape, settings, run)
        if status != "ok":
            yield row | {"status": status}
            continue
        step_us = [ns / 1e3 for response in responses for ns in response.step_ns]
        tokens_per_s = 1e6 * len(step_us) / sum(step_us)
        if run.label == str(FULL_PRECISION_BITS):
            baseline = tokens_per_s
        bytes_per_step = sum(weight_bytes_per_step(shape, bits) for bits in run.step_bits) / len(run.step_bits)
        bytes_per_s = bytes_per_step * tokens_per_s
        yield (
            row
            | times(percentiles(step_us))
            | {
                "prefill_ms": median(response.prefill_ns for response in responses) / 1e6,
                "decode_tokens_per_s": tokens_per_s,
                "times_fp16": None if baseline is None else tokens_per_s / baseline,
                "weight_bytes_per_step": round(bytes_per_step),
                "gb_per_s": bytes_per_s / 1e9,
                "share_of_copy": bytes_per_s / session.copy_bytes_per_s,
                "switch_us": _switch_us(responses, settings.switch_step),
                "status": "ok",
            }
        )
        if len(set(run.step_bits)) > 1:
            high, low = run.step_bits[0], run.step_bits[-1]
            facts = {name: str(value) for name, value in session.provenance().items()}
            path = out / f"trace-{shape.name}-{high}-{low}.jsonl"
            write_trace(path, shape, responses, session.facts["device"], facts)


def check_decode(device: torch.device, shape: DecoderShape, settings: DecodeSettings, weight_bits: int) -> None:
    """Run one block of the model at one width, so that its kernels are compiled."""
    decoder = _decoder(device, replace(shape, layers=1), settings, (weight_bits,))
    decoder.prefill(_prompt(shape, settings), weight_bits)
    decoder.step(weight_bits)


def _decoder(
    device: torch.device,
    shape: DecoderShape,
    settings: DecodeSettings,
    widths: tuple[int, ...] = (*WIDTHS, FULL_PRECISION_BITS),
) -> KernelDecoder:
    from kernels.decoder import KernelDecoder
    from kernels.decoder_weights import random_weights

    capacity = settings.prompt_tokens + settings.decode_steps
    weights = random_weights(shape, widths, device=device, positions=capacity)
    return KernelDecoder(shape, weights, capacity=capacity)


def _prompt(shape: DecoderShape, settings: DecodeSettings) -> list[int]:
    """Some tokens; which ones makes no difference to the time."""
    return [(7 * index + 1) % shape.vocab for index in range(settings.prompt_tokens)]


def _measure(session: Session, decoder: KernelDecoder, prompt: list[int], run: Run) -> tuple[list[Response], str]:
    """Decode the same response several times, after once for nothing; what went wrong, or ``ok``."""
    import torch

    steps: list[Call] = [partial(decoder.prefill, prompt, run.prefill_weight_bits)]
    steps += [partial(decoder.run, bits) for bits in run.step_bits]
    responses, tokens = [], []
    for _ in range(_REPEATS + 1):
        prefill_us, *step_us = session.timer.step_times_us(steps)
        step_ns = tuple(round(1e3 * time_us) for time_us in step_us)
        responses.append(
            Response(len(prompt), run.prefill_weight_bits, run.step_bits, round(1e3 * prefill_us), step_ns)
        )
        tokens.append(decoder.tokens.clone())
        if not bool(decoder.logits.isfinite().all()):
            return [], f"wrong: logits are not finite after {len(run.step_bits)} steps; times dropped"
    if any(not torch.equal(other, tokens[0]) for other in tokens):
        return [], "wrong: the same response differs from run to run; times dropped"
    return responses[1:], "ok"


def _switch_us(responses: list[Response], switch_step: int) -> float | None:
    """How much longer the first step at a new width takes than the median of those after it; None without a switch."""
    bits = responses[0].step_bits
    if len(set(bits)) == 1:
        return None
    extra = [response.step_ns[switch_step] - median(response.step_ns[switch_step:]) for response in responses]
    return median(extra) / 1e3


def _row(session: Session, shape: DecoderShape, settings: DecodeSettings, run: Run) -> Row:
    return {
        "model": shape.name,
        "run": run.label,
        "prompt_tokens": settings.prompt_tokens,
        "decode_steps": settings.decode_steps,
        "mean_decode_bits": sum(run.step_bits) / len(run.step_bits),
        "prefill_weight_bits": run.prefill_weight_bits,
        **session.provenance(),
    }
