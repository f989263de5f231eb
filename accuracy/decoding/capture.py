"""What goes into the attention's output projection, caught while a model runs.

Families name and order their layers differently (Phi-3 registers the output projection before the others), so the
projection is known by what it does: of the linear layers inside an attention module it is the one that runs last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accuracy.linear import AnyPrecisionLinear
from accuracy.model import decoder_blocks
from hwsim.trace import InputError

_LINEARS = (nn.Linear, AnyPrecisionLinear, Conv1D)


@contextmanager
def capture_activations(model: nn.Module, blocks: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Catch the inputs of the attention's output projection in every forward pass inside the ``with`` block.

    Args:
        model: A decoder of any family.
        blocks: Decoder blocks, 0-based from the front.

    Yields:
        By block ``[B, T, heads * head_dim]``, padding included, of the last pass; filled when the model has run.

    Raises:
        InputError: As :func:`attention_linears`; or, after the pass, if an attention called none of its layers.
    """
    linears = attention_linears(model, blocks)
    captured: dict[int, Tensor] = {}
    hooks = [
        linear.register_forward_pre_hook(partial(_keep_input, captured, block))
        for block, found in linears.items()
        for linear in found
    ]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()
    for block in linears:
        if block not in captured or captured[block].dim() != 3:
            raise InputError(
                f"{type(model).__name__}: the attention of block {block} does not call its output projection as a "
                "layer, so that its activations cannot be captured; use a scheduler that reads the KV cache"
            )


def attention_linears(model: nn.Module, blocks: Iterable[int]) -> dict[int, list[nn.Module]]:
    """The linear layers inside the attention of every block asked for.

    Raises:
        InputError: If there is no such block, or it holds no attention with linear layers.
    """
    wanted = sorted(set(blocks))
    if not wanted:
        return {}
    family = type(model).__name__
    every = list(decoder_blocks(model).values())
    found: dict[int, list[nn.Module]] = {}
    for block in wanted:
        if not 0 <= block < len(every):
            raise InputError(f"captured block = {block}: {family} has blocks 0..{len(every) - 1}")
        attention = next((one for one in every[block].modules() if _is_attention(one)), None)
        if attention is None:
            raise InputError(
                f"{family}: no attention with linear layers found in block {block}, so that its activations cannot be "
                "captured; use a scheduler that reads the KV cache"
            )
        found[block] = [one for one in attention.modules() if isinstance(one, _LINEARS)]
    return found


def _is_attention(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return ("attention" in kind or "attn" in kind) and any(isinstance(one, _LINEARS) for one in module.modules())


def _keep_input(captured: dict[int, Tensor], block: int, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    # Later layers of the same attention overwrite earlier ones: what stays is the output projection's.
    captured[block] = arguments[0].detach()
