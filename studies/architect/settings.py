"""What the architects' studies are asked, and what a question answers with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim import NPU_NAMES, SHAPE_NAMES, NpuConfig, SimulationOptions, load_npu, load_shape, simulate
from hwsim.trace import FULL_PRECISION_BITS, InputError, ModelShape, Schedule, synthetic_trace

if TYPE_CHECKING:
    import pandas as pd


MOST_LINES = 9  # of a figure: contexts, batches and widths each have a look of their own
MOST_BATCH = 1024  # a batch of that many sequences takes seconds to simulate


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        model: Shape, by name or path.
        npu: NPU to start from, by name or path.
        prompt_tokens: Prompt length, the context to decode behind.
        decode_tokens: Decode steps of the response.
        weight_bits: Uniform widths that are compared.
        targets_tokens_per_s: Mean decoding speeds asked for.
        contexts: Tokens of context to compare; empty: those of each question.
        batches: Sequences decoded together, to compare; empty: those of each question.
        kv_bits: Bits of a stored key or value.
        lm_head_bits: Bits of an lm_head weight.
        progress: Show progress bars.
    """

    out: Path
    model: str = "vicuna-7b"
    npu: str = "pmpd-16k"
    prompt_tokens: int = 512
    decode_tokens: int = 255
    weight_bits: tuple[int, ...] = (2, 3, 4, FULL_PRECISION_BITS)
    targets_tokens_per_s: tuple[float, ...] = (10.0, 50.0)
    contexts: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    kv_bits: int = 16
    lm_head_bits: int = 16
    progress: bool = True

    def load(self) -> tuple[NpuConfig, ModelShape]:
        """The NPU and the model; a file that bears the name of a shipped one is called after the file too."""
        npu, shape = load_npu(self.npu), load_shape(self.model)
        if npu.name in NPU_NAMES and self.npu not in NPU_NAMES:
            npu = npu.model_copy(update={"name": f"{npu.name} ({Path(self.npu).name})"})
        if shape.name in SHAPE_NAMES and self.model not in SHAPE_NAMES:
            shape = shape.model_copy(update={"name": f"{shape.name} (own)"})
        return npu, shape

    def contexts_within(self, own: Sequence[int], shape: ModelShape) -> tuple[int, ...]:
        """Contexts to compare, ascending, each with room for a decode step: those asked for, or a question's own.

        Where a model holds none of them, its longest one stands alone.
        """
        longest = shape.max_context - 1
        fitting = sorted(context for context in self.contexts or own if context <= longest)
        return tuple(fitting) or (longest,)

    @property
    def nested_bits(self) -> tuple[int, ...]:
        """The widths that a nested store holds, narrowest first."""
        return tuple(bits for bits in sorted(self.weight_bits) if bits != FULL_PRECISION_BITS)


def check_width(settings: Settings, bits: int) -> None:
    """Refuse a width that the NPU does not read, or at which the model does not run on it.

    Raises:
        InputError: With field, value, bound and remedy.
    """
    npu, shape = settings.load()
    if bits not in npu.matrix.weight_widths:
        supported = ", ".join(map(str, npu.matrix.weight_widths))
        raise InputError(
            f"weight_bits = {bits}: {npu.name} supports {supported}; change --weight-bits or matrix.weight_widths"
        )
    trace = synthetic_trace(
        shape,
        Schedule.from_label(str(bits)),
        prompt_tokens=settings.prompt_tokens,
        decode_tokens=settings.decode_tokens,
        kv_bits=settings.kv_bits,
        lm_head_bits=settings.lm_head_bits,
    )
    simulate(npu, shape, trace, SimulationOptions(engine="fast"))


def with_widths_that_run(settings: Settings) -> Settings:
    """The settings without the widths that cannot run; where that leaves one to compare, with others the NPU reads.

    Warns:
        UserWarning: For each width that is left out.

    Raises:
        InputError: If no nested width runs: why the first does not.
    """
    npu, _ = settings.load()
    left: list[int] = []
    why: dict[int, InputError] = {}
    others = [bits for bits in sorted(npu.matrix.weight_widths) if bits not in settings.weight_bits]
    for bits in (*settings.weight_bits, *others):
        if bits in others and len(replace(settings, weight_bits=tuple(left)).nested_bits) >= 2:
            continue
        try:
            check_width(settings, bits)
            left.append(bits)
        except InputError as error:
            why[bits] = error
    if why and not set(left) - {FULL_PRECISION_BITS}:
        raise next(iter(why.values()))
    for bits, reason in why.items():
        warnings.warn(f"{bits} bits are left out: {reason}", stacklevel=2)
    return replace(settings, weight_bits=tuple(left))


def and_words(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    >>> and_words(["2"]), and_words(["2", "3", "16"])
    ('2', '2, 3 and 16')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


@dataclass(frozen=True)
class Finding:
    """What a question answers with.

    Attributes:
        answer: One sentence or two with the numbers.
        tables: By name; the first one bears the question's own.
        assumed: What it rests on beside the NPU file, in the words of the report.
        not_shown: What must not be read into it.
        details: Further values that are no table.
    """

    answer: str
    tables: dict[str, pd.DataFrame]
    assumed: str
    not_shown: str
    details: dict[str, object] = field(default_factory=dict)


def check_settings(settings: Settings) -> None:
    """Refuse what cannot run, before anything long does.

    Raises:
        InputError: With field, value, bound and remedy.
    """
    _, shape = settings.load()
    for name in ("weight_bits", "targets_tokens_per_s", "contexts", "batches"):
        values = getattr(settings, name)
        if not values and name in {"weight_bits", "targets_tokens_per_s"}:
            raise InputError(f"{name} is empty: must have at least 1")
        if len(set(values)) != len(values):
            raise InputError(f"{name} = {', '.join(f'{value:g}' for value in values)}: each value may appear once")
        if len(values) > MOST_LINES:
            raise InputError(f"{name}: {len(values)} values: at most {MOST_LINES} are told apart in a figure")
    if len(settings.nested_bits) < 2:
        raise InputError(
            f"weight_bits = {', '.join(map(str, settings.weight_bits))}: must hold at least two widths below "
            f"{FULL_PRECISION_BITS}, which are compared; add one with --weight-bits"
        )
    for target in settings.targets_tokens_per_s:
        if not 0 < target < float("inf"):
            raise InputError(f"target = {target:g} tokens/s: must be > 0 and finite")
    for name in ("prompt_tokens", "decode_tokens", "kv_bits", "lm_head_bits"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} = {getattr(settings, name)}: must be >= 1")
    for context in settings.contexts:
        if not 1 <= context < shape.max_context:
            raise InputError(
                f"context = {context}: must be 1..{shape.max_context - 1}, as {shape.name} holds "
                f"{shape.max_context} tokens; change --context"
            )
    for batch in settings.batches:
        if not 1 <= batch <= MOST_BATCH:
            raise InputError(f"batch = {batch}: must be 1..{MOST_BATCH}; change --batch")
    tokens = settings.prompt_tokens + settings.decode_tokens
    if tokens > shape.max_context:
        raise InputError(
            f"prompt_tokens + decode_tokens = {tokens}: {shape.name} holds at most {shape.max_context} tokens; "
            "shorten --prompt-tokens or --decode-tokens"
        )
    for bits in settings.weight_bits:
        check_width(settings, bits)
