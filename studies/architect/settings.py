"""What the architects' studies are asked, and what a question answers with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim import NpuConfig, load_npu, load_shape
from hwsim.trace import FULL_PRECISION_BITS, InputError, ModelShape, Schedule

if TYPE_CHECKING:
    import pandas as pd


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
    kv_bits: int = 16
    lm_head_bits: int = 16
    progress: bool = True

    def load(self) -> tuple[NpuConfig, ModelShape]:
        """The NPU and the model."""
        return load_npu(self.npu), load_shape(self.model)

    @property
    def nested_bits(self) -> tuple[int, ...]:
        """The widths that a nested store holds, narrowest first."""
        return tuple(bits for bits in sorted(self.weight_bits) if bits != FULL_PRECISION_BITS)


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
    npu, shape = settings.load()
    for name in ("weight_bits", "targets_tokens_per_s"):
        values = getattr(settings, name)
        if not values:
            raise InputError(f"{name} is empty: must have at least 1")
        if len(set(values)) != len(values):
            raise InputError(f"{name} = {', '.join(f'{value:g}' for value in values)}: each value may appear once")
    if len(settings.nested_bits) < 2:
        raise InputError(
            f"weight_bits = {', '.join(map(str, settings.weight_bits))}: must hold at least two widths below "
            f"{FULL_PRECISION_BITS}, which are compared; add one with --weight-bits"
        )
    for bits in settings.weight_bits:
        Schedule.from_label(str(bits))
        if bits not in npu.matrix.weight_widths:
            supported = ", ".join(map(str, npu.matrix.weight_widths))
            raise InputError(
                f"weight_bits = {bits}: {npu.name} supports {supported}; change --weight-bits or matrix.weight_widths"
            )
    for target in settings.targets_tokens_per_s:
        if not 0 < target < float("inf"):
            raise InputError(f"target = {target:g} tokens/s: must be > 0 and finite")
    for name in ("prompt_tokens", "decode_tokens", "kv_bits", "lm_head_bits"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} = {getattr(settings, name)}: must be >= 1")
    tokens = settings.prompt_tokens + settings.decode_tokens
    if tokens > shape.max_context:
        raise InputError(
            f"prompt_tokens + decode_tokens = {tokens}: {shape.name} holds at most {shape.max_context} tokens; "
            "shorten --prompt-tokens or --decode-tokens"
        )
