"""Attention of one new token per sequence over a static KV cache, in one Triton launch.

A program takes one key/value head with the query heads that share it and one part of the context. It turns query and
key by the rotary embedding itself; the program of part 0 starts from the new token's own key and value, which it also
appends to the cache, so that no program waits for another's store. Each row of a program's tile (one query head, every
so many positions) keeps a softmax of its own, and rows are joined at the end: no loop iteration waits at a barrier.
The parts are joined by the last program of a head to arrive, all at once in one order; how the context is split depends
on its length alone, so equal inputs give equal bits. The length is read from the device; positions past it are never
read.

Source: Dao et al., "Flash-Decoding" (2023); online softmax: Milakov and Gimelshein, arXiv:1805.02867.

Importing this module needs triton; :mod:`kernels.fallback` has the same function in plain torch.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.epilogue import on_device
from kernels.errors import KernelError
from kernels.rotary import RotaryTable
from kernels.workspace import workspace

# Two programs for each of an H100's 132 multiprocessors.
_PROGRAMS = 264
# Products a program holds at a time, over 128 threads: 64 registers each in fp32.
_TILE = 8192
_MAX_HEAD_DIM = 256


@triton.jit
def _turned(head_ptr, d, cos, sin, inside, HALF: tl.constexpr):
    """Load heads whose columns are ``d`` and turn columns below ``2 * HALF``; rounded as the cache keeps them."""
    x = tl.load(head_ptr + d, mask=inside, other=0.0)
    partner = tl.where(d < HALF, d + HALF, d - HALF)
    y = tl.load(head_ptr + partner, mask=inside & (d < 2 * HALF), other=0.0)
    return (x.to(tl.float32) * cos + y.to(tl.float32) * sin).to(x.dtype)


@triton.jit
def _attend_kernel(
    qkv_ptr,
    keys_ptr,
    values_ptr,
    position_ptr,
    cos_ptr,
    sin_ptr,
    partial_ptr,
    counter_ptr,
    out_ptr,
    capacity,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Part ``program_id(0)`` of the context of key/value head ``program_id(1)`` of sequence ``program_id(2)``."""
    split, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads_before = sequence.to(tl.int64) * KV_HEADS + head
    r = tl.arange(0, GROUP_BLOCK * TOKENS)
    g, lane = r // TOKENS, r % TOKENS
    d = tl.arange(0, HEAD_BLOCK)
    in_head = d < HEAD_DIM
    position = tl.load(position_ptr + sequence).to(tl.int64)
    # Columns that are not turned have cosine 1 and sine 0; where HALF is 0 the tables are empty and not read.
    turned = d < 2 * HALF
    angle = position * HALF + tl.where(d < HALF, d, d - HALF)
    cos = tl.load(cos_ptr + angle, mask=turned, other=1.0)
    sin = tl.load(sin_ptr + angle, mask=turned, other=0.0)
    sin = tl.where(d < HALF, -sin, sin)
    sequence_ptr = qkv_ptr + sequence.to(tl.int64) * (KV_HEADS * (GROUP + 2) * HEAD_DIM)
    key_ptr = sequence_ptr + (KV_HEADS * GROUP + head) * HEAD_DIM
    value_ptr = key_ptr + KV_HEADS * HEAD_DIM
    if GROUP == 1:
        query = _turned(sequence_ptr + head * HEAD_DIM, d, cos, sin, in_head, HALF)[None, :]
    else:
        query_ptr = sequence_ptr + (head * GROUP + g)[:, None] * HEAD_DIM
        in_group = (g < GROUP)[:, None] & in_head[None, :]
        query = _turned(query_ptr, d[None, :], cos[None, :], sin[None, :], in_group, HALF)

    own = split == 0
    key = _turned(key_ptr, d, cos, sin, in_head & own, HALF)
    value = tl.load(value_ptr + d, mask=in_head & own, other=0.0)
    cache = heads_before * capacity * HEAD_DIM
    appended = cache + position * HEAD_DIM + d
    kept = in_head & own & (position < capacity)
    tl.store(keys_ptr + appended, key, mask=kept)
    tl.store(values_ptr + appended, value, mask=kept)
    newest = (lane == 0) & own
    # Powers of two are cheaper than of e: ``scale`` carries the factor.
    highest = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], 1) * scale
    highest = tl.where(newest, highest, float("-inf"))
    total = tl.where(newest, 1.0, 0.0)
    mean = tl.where(newest[:, None], value.to(tl.float32)[None, :], 0.0)

    part = tl.cdiv(tl.cdiv(position, SPLITS), TOKENS) * TOKENS
    start = split * part
    end = tl.minimum(start + part, position)
    # Not a for loop over a range: the interpreter takes none whose end is known at run time only.
    while start < end:
        t = start + lane
        seen = t < end
        at = cache + t[:, None] * HEAD_DIM + d[None, :]
        inside = seen[:, None] & in_head[None, :]
        keys = tl.load(keys_ptr + at, mask=inside, other=0.0)
        values = tl.load(values_ptr + at, mask=inside, other=0.0)
        scores = tl.sum(query.to(tl.float32) * keys.to(tl.float32), 1) * scale
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, scores)
        # A row that has seen nothing yet stays at -inf, from which nothing may be subtracted.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shrink = tl.exp2(highest - base)
        weights = tl.exp2(scores - base)
        total = total * shrink + weights
        mean = mean * shrink[:, None] + weights[:, None] * values.to(tl.float32)
        highest = higher
        start += TOKENS

    by_head = tl.reshape(highest, [GROUP_BLOCK, TOKENS])
    highest = tl.max(by_head, 1)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    shares = tl.exp2(by_head - base[:, None])
    total = tl.sum(tl.reshape(total, [GROUP_BLOCK, TOKENS]) * shares, 1)
    mean = mean * tl.reshape(shares, [GROUP_BLOCK * TOKENS])[:, None]
    mean = tl.sum(tl.reshape(mean, [GROUP_BLOCK, TOKENS, HEAD_BLOCK]), 1)

    g = tl.arange(0, GROUP_BLOCK)
    in_group = (g < GROUP)[:, None] & in_head[None, :]
    target = out_ptr + heads_before * GROUP * HEAD_DIM
    target = target + g[:, None] * HEAD_DIM + d[None, :]
    if SPLITS == 1:
        tl.store(target, (mean / total[:, None]).to(out_ptr.dtype.element_ty), mask=in_group)
    else:
        # A part is its sums [GROUP_BLOCK, HEAD_BLOCK], then their weights' highest exponent and total, by query head.
        size = GROUP_BLOCK * (HEAD_BLOCK + 2)
        parts_ptr = partial_ptr + heads_before * SPLITS * size
        own_ptr = parts_ptr + split * size
        tl.store(own_ptr + g[:, None] * HEAD_BLOCK + d[None, :], mean)
        tl.store(own_ptr + GROUP_BLOCK * HEAD_BLOCK + g, highest)
        tl.store(own_ptr + GROUP_BLOCK * (HEAD_BLOCK + 1) + g, total)
        # Every thread's stores come before the barrier, the barrier before thread 0's release, and the acquire of the
        # last program to arrive after all of them.
        tl.debug_barrier()
        arrived = tl.atomic_add(counter_ptr + heads_before, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            s = tl.arange(0, SPLITS)
            numbers = parts_ptr + s[:, None] * size + GROUP_BLOCK * HEAD_BLOCK + g[None, :]
            # From L2, where the other programs' parts are, past a first-level cache that may hold older ones.
            highests = tl.load(numbers, cache_modifier=".cg")
            totals = tl.load(numbers + GROUP_BLOCK, cache_modifier=".cg")
            means = tl.load(
                parts_ptr + s[:, None, None] * size + g[None, :, None] * HEAD_BLOCK + d[None, None, :],
                cache_modifier=".cg",
            )
            # Part 0 has the new token, so that the highest of all is finite; parts without a position weigh nothing.
            part_shares = tl.exp2(highests - tl.max(highests, 0)[None, :])
            joined = tl.sum(means * part_shares[:, :, None], 0) / tl.sum(totals * part_shares, 0)[:, None]
            tl.store(target, joined.to(out_ptr.dtype.element_ty), mask=in_group)
            tl.store(counter_ptr + heads_before, 0)


def attend(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    position: Tensor,
    rotary: RotaryTable,
    *,
    out: Tensor | None = None,
    splits: int | None = None,
) -> Tensor:
    """Append one token's keys and values to the cache and attend over everything up to it.

    Args:
        qkv: ``[B, (heads + 2 kv_heads) * head_dim]``, contiguous: queries, keys, values of the new token, not turned.
        keys: ``[B, kv_heads, capacity, head_dim]`` of the same dtype, contiguous: turned keys of the positions before.
        values: As ``keys``.
        position: ``[B]`` int64: where the new token goes, the number of positions before it; below the capacity and
            the number of positions of ``rotary``.
        rotary: The rotary embedding; of no column where ``rotary_dim`` is 0.
        out: Where to write, ``[B, heads * head_dim]`` of the same dtype, contiguous; allocated by default.
        splits: Parts of the context that run side by side, a power of two; enough to fill a GPU by default.

    Returns:
        ``[B, heads * head_dim]``: softmax over the context of ``q k / sqrt(head_dim)``, times the values, in float32
        and rounded once.

    Raises:
        KernelError: If a dtype, shape, stride or device does not fit.
    """
    B, kv_heads, capacity, D = _check(qkv, keys, values, position, rotary)
    heads = qkv.shape[1] // D - 2 * kv_heads
    if out is None:
        out = torch.empty((B, heads * D), dtype=qkv.dtype, device=qkv.device)
    elif tuple(out.shape) != (B, heads * D) or out.dtype != qkv.dtype or not out.is_contiguous():
        raise KernelError(f"out {out.dtype} {tuple(out.shape)}: must be {qkv.dtype} {(B, heads * D)}, contiguous")
    constants = kernel_constants(B, heads, kv_heads, D, rotary.rotary_dim, capacity)
    if splits is not None:
        if splits < 1 or splits & (splits - 1):
            raise KernelError(f"splits = {splits}: must be a power of two")
        constants["SPLITS"] = splits
    # Pointers that are not read get some tensor.
    partials, counters = out, position
    splits, programs = constants["SPLITS"], B * kv_heads
    if splits > 1:
        part = constants["GROUP_BLOCK"] * (constants["HEAD_BLOCK"] + 2)
        partials, counters = workspace(qkv.device, programs * splits * part, programs)
    with on_device(qkv.device):
        _attend_kernel[(splits, kv_heads, B)](
            qkv,
            keys,
            values,
            position,
            rotary.cos,
            rotary.sin,
            partials,
            counters,
            out,
            capacity,
            math.log2(math.e) / math.sqrt(D),
            **constants,
            num_warps=4,
        )
    return out


def kernel_constants(
    B: int, heads: int, kv_heads: int, head_dim: int, rotary_dim: int, capacity: int
) -> dict[str, int]:
    """The kernel's compile-time constants for a cache ``[B, kv_heads, capacity, head_dim]``.

    The context is cut into enough parts to fill a GPU, but into no more than its tiles, and no more than the program
    that joins them can hold at a time, which is as many as a tile has positions.
    """
    group_block, head_block = (triton.next_power_of_2(size) for size in (heads // kv_heads, head_dim))
    tokens = max(1, _TILE // (group_block * head_block))
    parts = min(-(-_PROGRAMS // (B * kv_heads)), -(-capacity // tokens), tokens)
    return {
        "KV_HEADS": kv_heads,
        "GROUP": heads // kv_heads,
        "GROUP_BLOCK": group_block,
        "HEAD_DIM": head_dim,
        "HEAD_BLOCK": head_block,
        "HALF": rotary_dim // 2,
        "TOKENS": tokens,
        "SPLITS": 1 << (parts.bit_length() - 1),
    }


def _check(
    qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, rotary: RotaryTable
) -> tuple[int, int, int, int]:
    """``(B, kv_heads, capacity, head_dim)`` of a cache that everything fits."""
    if keys.dim() != 4 or not keys.is_contiguous() or keys.shape[3] > _MAX_HEAD_DIM:
        raise KernelError(
            f"keys have shape {tuple(keys.shape)}: must be [B, kv_heads, capacity, head_dim], contiguous, "
            f"head_dim <= {_MAX_HEAD_DIM}"
        )
    B, kv_heads, capacity, D = keys.shape
    if values.shape != keys.shape or not values.is_contiguous():
        raise KernelError(f"values have shape {tuple(values.shape)}: must be {tuple(keys.shape)}, contiguous")
    heads, rest = divmod(qkv.shape[-1] - 2 * kv_heads * D, D)
    if qkv.dim() != 2 or qkv.shape[0] != B or rest or heads < 1 or heads % kv_heads or not qkv.is_contiguous():
        raise KernelError(
            f"qkv has shape {tuple(qkv.shape)}: must be [{B}, (heads + 2 * {kv_heads}) * {D}], contiguous, "
            f"heads a multiple of {kv_heads}"
        )
    if tuple(position.shape) != (B,) or position.dtype != torch.int64:
        raise KernelError(f"position {position.dtype} {tuple(position.shape)}: must be int64 [{B}]")
    if not qkv.dtype == keys.dtype == values.dtype:
        raise KernelError(f"qkv, keys, values are {qkv.dtype}, {keys.dtype}, {values.dtype}: must be one dtype")
    if rotary.rotary_dim > D or rotary.cos.dtype != torch.float32 or not rotary.cos.is_contiguous():
        raise KernelError(
            f"rotary tables turn {rotary.rotary_dim} columns in {rotary.cos.dtype}: must be at most {D}, in "
            "torch.float32, contiguous"
        )
    devices = {tensor.device for tensor in (qkv, keys, values, position, rotary.cos, rotary.sin)}
    if len(devices) > 1:
        raise KernelError(f"tensors are on {', '.join(sorted(map(str, devices)))}: must be on one device")
    return B, kv_heads, capacity, D
