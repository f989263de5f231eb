"""The end of a decode step in one Triton launch: the greedy token, and everything that moves on with it.

A program searches one part of the vocabulary; the last one to arrive for a sequence compares the parts. The token is
the one of lowest id among the largest logits, whatever the order in which programs run; NaN counts as the largest, as
in ``torch.argmax``.

Importing this module needs triton; :mod:`kernels.fallback` has the same function in plain torch.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.epilogue import on_device
from kernels.errors import KernelError
from kernels.workspace import workspace

_BLOCK = 2048
# Ids are passed on as float32, which is exact up to here.
_MAX_VOCAB = 1 << 24


@triton.jit
def _choose_kernel(
    logits_ptr,
    partial_ptr,
    counter_ptr,
    token_ptr,
    position_ptr,
    tokens_ptr,
    vocab,
    length,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_BLOCK: tl.constexpr,
):
    """Part ``program_id(0)`` of the vocabulary of sequence ``program_id(1)``."""
    part, sequence = tl.program_id(0), tl.program_id(1)
    entry = part * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + sequence.to(tl.int64) * vocab + entry, mask=entry < vocab, other=float("-inf"))
    logits = logits.to(tl.float32)
    is_nan = logits != logits  # noqa: PLR0124
    logits = tl.where(is_nan, float("inf"), logits)
    best = tl.max(logits, 0)
    place = tl.min(tl.where(logits == best, entry, vocab), 0)
    parts_ptr = partial_ptr + sequence * PARTS * 2
    tl.store(parts_ptr + part * 2, best)
    tl.store(parts_ptr + part * 2 + 1, place.to(tl.float32))
    # As in kernels.attention: stores, barrier, release; acquire, loads.
    tl.debug_barrier()
    arrived = tl.atomic_add(counter_ptr + sequence, 1, sem="acq_rel", scope="gpu")
    if arrived == PARTS - 1:
        p = tl.arange(0, PARTS_BLOCK)
        bests = tl.load(parts_ptr + 2 * p, mask=p < PARTS, other=float("-inf"), cache_modifier=".cg")
        places = tl.load(parts_ptr + 2 * p + 1, mask=p < PARTS, other=float("inf"), cache_modifier=".cg")
        chosen = tl.min(tl.where(bests == tl.max(bests, 0), places, float("inf")), 0).to(tl.int64)
        position = tl.load(position_ptr + sequence) + 1
        tl.store(token_ptr + sequence, chosen)
        tl.store(position_ptr + sequence, position)
        tl.store(tokens_ptr + sequence.to(tl.int64) * length + position, chosen, mask=position < length)
        tl.store(counter_ptr + sequence, 0)


def choose_token(logits: Tensor, token: Tensor, position: Tensor, tokens: Tensor) -> None:
    """Choose every sequence's next token greedily and move its position on by one.

    Args:
        logits: ``[B, vocab]``, contiguous.
        token: ``[B]`` int64; becomes the chosen token.
        position: ``[B]`` int64; becomes one more.
        tokens: ``[B, length]`` int64, contiguous; gets the token at the new position, if there is room.

    Raises:
        KernelError: If a dtype, shape, stride or device does not fit.
    """
    if logits.dim() != 2 or not logits.is_contiguous() or not 1 <= logits.shape[1] <= _MAX_VOCAB:
        raise KernelError(
            f"logits have shape {tuple(logits.shape)}: must be [B, vocab], contiguous, vocab 1..{_MAX_VOCAB}"
        )
    B, vocab = logits.shape
    for name, tensor, shape in (
        ("token", token, (B,)),
        ("position", position, (B,)),
        ("tokens", tokens, (B, *tokens.shape[1:2])),
    ):
        if tuple(tensor.shape) != shape or tensor.dtype != torch.int64 or not tensor.is_contiguous():
            raise KernelError(f"{name} {tensor.dtype} {tuple(tensor.shape)}: must be int64 {shape}, contiguous")
    devices = {tensor.device for tensor in (logits, token, position, tokens)}
    if len(devices) > 1:
        raise KernelError(f"tensors are on {', '.join(sorted(map(str, devices)))}: must be on one device")
    parts = -(-vocab // _BLOCK)
    partials, counters = workspace(logits.device, B * parts * 2, B)
    with on_device(logits.device):
        _choose_kernel[(parts, B)](
            logits,
            partials,
            counters,
            token,
            position,
            tokens,
            vocab,
            tokens.shape[1],
            BLOCK=_BLOCK,
            PARTS=parts,
            PARTS_BLOCK=triton.next_power_of_2(parts),
            num_warps=4,
        )
