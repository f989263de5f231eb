"""What is measured of a model at one width: the likelihood of answers, greedy responses, and how large values get."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from accuracy.decoding import Decoder
from accuracy.linear import AnyPrecisionLinear
from accuracy.model import LanguageModel, decoder_blocks
from accuracy.perplexity import answer_losses
from accuracy.schedulers import UniformScheduler
from studies.quantization_quality.subjects import Subject

BATCH_SIZE = 96


class Measured(TypedDict):
    """Raw numbers of one model at one width, as they are kept.

    ``nll`` holds per answer its summed negative log-likelihood (nats) and its tokens; ``tokens`` and ``texts`` the
    greedy responses; the maxima are over all answers and tokens, of what every block and every linear layer puts out.
    None stands for what is not finite.
    """

    nll: list[list[float | None]]
    tokens: list[list[int]]
    texts: list[str]
    max_abs_hidden: float | None
    max_abs_linear_output: float | None


def measure(lm: LanguageModel, subject: Subject, bits: int) -> Measured:
    """Score the subject's answers and decode its prompts with all weights at ``bits``."""
    with _largest_values(lm.model) as largest:
        losses = answer_losses(lm, subject.answers, bits, batch_size=BATCH_SIZE)
    responses = Decoder(lm).decode(subject.prompts, UniformScheduler(bits), batch_size=BATCH_SIZE)
    return Measured(
        nll=[[_finite(value) for value in row] for row in losses.tolist()],
        tokens=[list(response.tokens) for response in responses],
        texts=[response.text for response in responses],
        max_abs_hidden=_finite(largest["hidden"]),
        max_abs_linear_output=_finite(largest["linear"]),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@contextmanager
def _largest_values(model: Any) -> Iterator[dict[str, float]]:
    """Follow the largest absolute output of the blocks and of their linear layers; NaN counts as infinite."""
    largest = {"hidden": 0.0, "linear": 0.0}

    def follow(kind: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
            values = output if isinstance(output, Tensor) else output[0]
            found = float(values.abs().max())
            largest[kind] = max(largest[kind], torch.inf if math.isnan(found) else found)

        return hook

    blocks = decoder_blocks(model).values()
    linears = [
        module for block in blocks for module in block.modules() if isinstance(module, nn.Linear | AnyPrecisionLinear)
    ]
    handles = [block.register_forward_hook(follow("hidden")) for block in blocks]
    handles += [linear.register_forward_hook(follow("linear")) for linear in linears]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()
