"""What a benchmark run does, the most valuable first, and how it keeps within its minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.bench.decode import WIDTHS, DecodeSettings, check_decode, decode_rows
from kernels.bench.linears import Variant, check_linear, linear_rows
from kernels.bench.prefill import BATCHES, check_prefill, prefill_rows
from kernels.bench.problems import LinearCase, linear_cases
from kernels.bench.session import Session
from kernels.bench.tables import Row
from kernels.errors import KernelError
from kernels.shapes import SHAPES, find_shape

if TYPE_CHECKING:
    import torch

PARTS = ("linears", "prefill", "decode")
_CODEBOOKS = tuple(Variant(bits) for bits in (4, 3, 2))
_OTHERS = (*(Variant(bits) for bits in (8, 6, 5, 7)), *(Variant(bits, uniform=True) for bits in (4, 3, 2, 8)))
# Reasoned, not measured; kernels are compiled before. A variant of a linear: packing and copies 0.1 s, the check 0.1 s,
# two captures of 100..600 calls 0.05 s each, warming up and 50 replays 0.1 s each; a first part four variants.
_LINEAR_S = 0.6
# Eight M, three widths and half precision: 56 measurements, two thirds of them under 0.1 s.
_PREFILL_S = 12.0
# A model: making weights 3 s, capturing 4 graphs 1 s, 6 runs of 4 responses of 256 steps; Vicuna-7B in half precision
# takes 4.6 ms a step, so 5 s, and 1.5 s at 4 bits; the larger models have twice the bytes.
_DECODE_S = {"vicuna-7b": 20.0, "llama-3-8b": 25.0, "longchat-13b": 40.0}
_SMALL_DECODE_S = 12.0
# What the goals are about.
_FIRST = (
    "11008x4096 linear",
    "4096x11008 linear",
    "4096x4096 linear",
    "6144x2048 linear",
    "7680x2560 linear",
    "22016x4096 swiglu",
    "14336x4096 linear",
    "4096x14336 linear",
    "28672x4096 swiglu",
)
# Twice the time of the others, and beyond the paper's GPU tables.
_LARGE = ("llama-3-8b", "longchat-13b")
_PREFILL_WIDTHS = (4, 3, 2)
_PREFILL_SHAPES = ("4096x4096 linear", "11008x4096 linear", "2048x2048 linear", "5632x2048 linear")


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        parts: Some of :data:`PARTS`.
        models: Names of :data:`kernels.shapes.SHAPES`.
        batches: Activation vectors of the linears, 1..8.
        minutes: How long the run may take; None for as long as it takes.
        lengths: How much is decoded.
    """

    parts: tuple[str, ...] = PARTS
    models: tuple[str, ...] = tuple(SHAPES)
    batches: tuple[int, ...] = (1,)
    minutes: float | None = None
    lengths: DecodeSettings = field(default_factory=DecodeSettings)

    def __post_init__(self) -> None:
        """Refuse what nothing could be measured of.

        Raises:
            KernelError: Naming the option.
        """
        for part in self.parts:
            if part not in PARTS:
                raise KernelError(f"--only {part}: must be some of {', '.join(PARTS)}")
        for model in self.models:
            find_shape(model)
        for M in self.batches:
            if not 1 <= M <= 8:
                raise KernelError(f"--batch {M}: must be 1..8, the vectors a GEMV takes")
        if self.minutes is not None and not self.minutes > 0:
            raise KernelError(f"--minutes {self.minutes:g}: must be above 0")
        lengths = self.lengths
        if min(lengths.prompt_tokens, lengths.decode_steps, lengths.switch_step) < 1:
            raise KernelError("--prompt-tokens, --decode-tokens and --switch-step: must be >= 1")
        if lengths.switch_step >= lengths.decode_steps:
            raise KernelError(f"--switch-step {lengths.switch_step}: must be below --decode-tokens")
        positions = lengths.prompt_tokens + lengths.decode_steps
        for model in self.models if "decode" in self.parts else ():
            if positions > SHAPES[model].max_context:
                raise KernelError(
                    f"--prompt-tokens and --decode-tokens: {positions} positions, {model} has "
                    f"{SHAPES[model].max_context}"
                )


@dataclass(frozen=True)
class Item:
    """One part of a run that is measured as a whole.

    Attributes:
        name: Unique in a run; in every row.
        table: Where its rows go.
        estimate_s: How long it should take.
        measure: Gives its rows.
        checks: Run its kernels once on a device, each some of them, so that they are compiled.
    """

    name: str
    table: str
    estimate_s: float
    measure: Callable[[Session], Iterator[Row]]
    checks: tuple[Callable[[torch.device], None], ...]


def plan(options: BenchOptions, out: Path) -> list[Item]:
    """The items of a run: what the goals need first, then the other layers, then prefill, then the other widths.

    Args:
        options: What to measure.
        out: Folder of the traces.
    """
    cases = linear_cases(options.models)
    first = sorted((case for case in cases if case.name in _FIRST), key=lambda case: _FIRST.index(case.name))
    rest = [case for case in cases if case.name not in _FIRST]
    shapes = [case for case in cases if case.name in _PREFILL_SHAPES]
    one = 1 in options.batches
    ordered = (
        ("linears", [_linears(case, _CODEBOOKS, 1, "widths 4, 3, 2") for case in first if one]),
        ("decode", [_decode(model, options.lengths, out) for model in options.models if model not in _LARGE]),
        ("linears", [_linears(case, _CODEBOOKS, 1, "widths 4, 3, 2") for case in rest if one]),
        ("prefill", [_prefill(case) for case in shapes]),
        ("decode", [_decode(model, options.lengths, out) for model in options.models if model in _LARGE]),
        ("linears", [_linears(case, _OTHERS, 1, "other widths and grids") for case in (*first, *rest) if one]),
        (
            "linears",
            [_linears(case, _CODEBOOKS, M, f"M = {M}") for M in options.batches if M > 1 for case in (*first, *rest)],
        ),
    )
    return [item for part, items in ordered if part in options.parts for item in items]


def _linears(case: LinearCase, variants: Sequence[Variant], M: int, what: str) -> Item:
    return Item(
        name=f"{case.name}, {what}",
        table="linears",
        estimate_s=_LINEAR_S * (1 + len(variants)),
        measure=partial(linear_rows, case=case, variants=variants, M=M),
        checks=tuple(partial(check_linear, case=case, variant=variant, M=M) for variant in variants),
    )


def _prefill(case: LinearCase) -> Item:
    return Item(
        name=f"{case.name}, prefill",
        table="prefill",
        estimate_s=_PREFILL_S,
        measure=partial(prefill_rows, case=case, widths=_PREFILL_WIDTHS, batches=BATCHES),
        checks=tuple(partial(check_prefill, case=case, weight_bits=bits, batches=BATCHES) for bits in _PREFILL_WIDTHS),
    )


def _decode(model: str, lengths: DecodeSettings, out: Path) -> Item:
    shape = SHAPES[model]
    return Item(
        name=f"{model}, decode {lengths.prompt_tokens} + {lengths.decode_steps}, switch at {lengths.switch_step}",
        table="decode",
        estimate_s=_DECODE_S.get(model, _SMALL_DECODE_S),
        measure=partial(decode_rows, shape=shape, settings=lengths, out=out),
        checks=tuple(partial(check_decode, shape=shape, settings=lengths, weight_bits=bits) for bits in WIDTHS),
    )
