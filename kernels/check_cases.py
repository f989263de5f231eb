"""One case for each thing a kernel promises, on fresh random data, against float64 or a bit-exact rule.

Sizes follow the device: whole layers on a GPU, a few rows in Triton's CPU interpreter. Every output starts as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels.layout import PackedWeight, SparsePart, pack
from kernels.naive import dequantize as naive_dequantize
from kernels.planes import pack_planes
from kernels.rotary import RotaryTable, rotate
from kernels.shapes import DecoderShape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WIDTHS = range(2, 9)
# Codebooks: one a row, one a group of columns, or a uniform grid a group.
CODEBOOKS = ("row", "group", "grid")
GROUP_SIZE = 128
# Of the largest value expected. float16 rounds by 5e-4 of a value, bfloat16 by 4e-3; the interpreter cuts bfloat16 off,
# by 8e-3.
HALF, BFLOAT = 1e-3, 1e-2
EXACT = 0.0
# Two blocks of a decoder, each rounding its residual stream to float16 four times.
DECODER = 1e-2


@dataclass(frozen=True)
class Case:
    """A promise.

    Attributes:
        name: What is checked.
        tolerance: Largest error allowed; 0 for bit-equal results.
        error: Measures it on a device.
    """

    name: str
    tolerance: float
    error: Callable[[torch.device], float]


def cases(device: torch.device) -> list[Case]:
    """All cases for a device."""
    found = [*_gemv_cases(), *_dequantize_cases(), *_gemm_cases(), *_other_cases()]
    if device.type == "cuda":
        found.append(Case("decoder step, graphs against eager", EXACT, _graph_error))
    return found


def _gemv_cases() -> Iterator[Case]:
    for bits in WIDTHS:
        for codebook in CODEBOOKS:
            yield Case(f"gemv w{bits} {codebook}, M 1..8", HALF, partial(_gemv_error, bits, codebook))
        yield Case(f"gemv w{bits} row bf16, bias, addend", BFLOAT, partial(_gemv_epilogue_error, bits))
    for bits in (2, 3, 4, 8):
        yield Case(f"gemv w{bits} swiglu, bias", HALF, partial(_gemv_swiglu_error, bits))
    yield Case("gemv w3, the same bits every time", EXACT, _repeat_error)


def _dequantize_cases() -> Iterator[Case]:
    for bits in WIDTHS:
        for codebook in CODEBOOKS:
            yield Case(f"dequantize w{bits} {codebook}", EXACT, partial(_dequantize_error, bits, codebook))


def _gemm_cases() -> Iterator[Case]:
    for bits in WIDTHS:
        for codebook in CODEBOOKS:
            yield Case(f"gemm w{bits} {codebook}", HALF, partial(_gemm_error, bits, codebook))
    yield Case("gemm w4 row bf16", 2 * BFLOAT, partial(_gemm_error, 4, "row", bfloat=True))


def _other_cases() -> Iterator[Case]:
    for M in (1, 9, 70):
        yield Case(f"linear w3 with a sparse part, M = {M}", HALF, partial(_sparse_error, M))
        yield Case(f"swiglu linear w4, M = {M}", 2 * HALF, partial(_swiglu_linear_error, M))
    yield Case("rms norm", HALF, partial(_norm_error, centred=False))
    yield Case("layer norm", HALF, partial(_norm_error, centred=True))
    yield Case("gated silu", HALF, _gated_silu_error)
    for heads, kv_heads, head_dim, rotary_dim in ((4, 4, 32, 32), (8, 2, 64, 16), (2, 1, 80, 20)):
        yield Case(
            f"attention {heads}/{kv_heads} heads of {head_dim}, {rotary_dim} turned",
            HALF,
            partial(_attention_error, heads, kv_heads, head_dim, rotary_dim),
        )
    yield Case("choice of the next token", EXACT, _next_token_error)
    for shape in _DECODER_SHAPES:
        yield Case(f"decoder step, {shape.name}", DECODER, partial(_decoder_error, shape))


@dataclass(frozen=True)
class _Weight:
    """A packed weight of one width, and ``[N, K]`` float64 of what it stands for."""

    packed: PackedWeight
    dense: Tensor
    bits: int


def _weight(
    N: int, K: int, bits: int, codebook: str, device: torch.device, *, sparse: SparsePart | None = None
) -> _Weight:
    import torch

    indices = torch.randint(0, 1 << bits, (N, K), device=device).to(torch.uint8)
    planes = pack_planes(indices, bits)
    group_size = None if codebook == "row" else GROUP_SIZE
    groups = -(-K // (group_size or K))
    if codebook == "grid":
        step = ((0.5 + torch.rand(N, groups, 1, device=device)) / (1 << bits)).half()
        levels = torch.arange(1 << bits, device=device) - torch.randint(0, 1 << bits, (N, groups, 1), device=device)
        lut = (step.float() * levels).half()
    else:
        lut = torch.randn(N, groups, 1 << bits, device=device).half()
    packed = pack(planes, {bits: lut}, K, group_size, sparse=sparse)
    return _Weight(packed, naive_dequantize(planes, lut, K, group_size).double(), bits)


def _sizes(device: torch.device) -> tuple[tuple[int, int], ...]:
    """An odd shape and, on a GPU, a whole layer."""
    return ((63, 300), (4096, 4096)) if device.type == "cuda" else ((17, 150),)


def _activations(M: int, K: int, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``[M, K]`` between two rows of NaN."""
    import torch

    guarded = torch.full((M + 2, K), float("nan"), dtype=dtype or torch.float16, device=device)
    guarded[1:-1] = torch.randn(M, K, device=device)
    return guarded[1:-1]


def _relative(y: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value expected; NaN where ``y`` holds one."""
    return float((y.double() - expected).abs().max() / expected.abs().max())


def _poison(*shape: int, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    import torch

    return torch.full(shape, float("nan"), dtype=dtype or torch.float16, device=device)


def _worst(errors: Sequence[float]) -> float:
    """The largest error, NaN if any is: ``max`` alone may overlook one."""
    return float("nan") if any(map(math.isnan, errors)) else max(errors)


def _silu_pairs(y: Tensor) -> Tensor:
    """``SiLU(gate) * up`` of ``[M, 2 F]``, gate and up in turn."""
    gate, up = y[:, 0::2], y[:, 1::2]
    return gate * gate.sigmoid() * up


def _gemv_error(bits: int, codebook: str, device: torch.device) -> float:
    from kernels.gemv import gemv

    errors = []
    for N, K in _sizes(device):
        weight = _weight(N, K, bits, codebook, device)
        for M in range(1, 9) if device.type == "cuda" else (1, 8):
            x = _activations(M, K, device)
            y = gemv(x, weight.packed, bits, out=_poison(M, N, device=device))
            errors.append(_relative(y, x.double() @ weight.dense.T))
    return _worst(errors)


def _gemv_epilogue_error(bits: int, device: torch.device) -> float:
    import torch

    from kernels.gemv import gemv

    N, K = _sizes(device)[0]
    weight = _weight(N, K, bits, "row", device)
    x = _activations(3, K, device, torch.bfloat16)
    bias, addend = torch.randn(N, device=device).half(), torch.randn(3, N, device=device)
    y = gemv(x, weight.packed, bits, bias, addend=addend, out=_poison(3, N, device=device, dtype=torch.bfloat16))
    return _relative(y, x.double() @ weight.dense.T + bias.double() + addend.double())


def _gemv_swiglu_error(bits: int, device: torch.device) -> float:
    import torch

    from kernels.gemv import gemv_swiglu

    errors = []
    for N, K in _sizes(device):
        rows = N + N % 2
        weight = _weight(rows, K, bits, "row", device)
        # Small, so that the product of two results stays within float16.
        x = _activations(2, K, device) * 0.25
        bias = torch.randn(rows, device=device).half()
        y = gemv_swiglu(x, weight.packed, bits, bias, out=_poison(2, rows // 2, device=device))
        errors.append(_relative(y, _silu_pairs(x.double() @ weight.dense.T + bias.double())))
    return _worst(errors)


def _repeat_error(device: torch.device) -> float:
    from kernels.gemv import gemv

    N, K = _sizes(device)[-1]
    weight = _weight(N, K, 3, "row", device)
    x = _activations(1, K, device)
    first = gemv(x, weight.packed, 3)
    again = [gemv(x, weight.packed, 3) for _ in range(20 if device.type == "cuda" else 1)]
    return _worst([_relative(y, first.double()) for y in again])


def _dequantize_error(bits: int, codebook: str, device: torch.device) -> float:
    from kernels.dequant import dequantize

    errors = []
    for N, K in _sizes(device):
        weight = _weight(N, K, bits, codebook, device)
        errors.append(_relative(dequantize(weight.packed, bits, out=_poison(N, K, device=device)), weight.dense))
    return _worst(errors)


def _gemm_error(bits: int, codebook: str, device: torch.device, bfloat: bool = False) -> float:
    import torch

    from kernels.gemm import gemm

    dtype = torch.bfloat16 if bfloat else torch.float16
    errors = []
    for M, (N, K) in zip((9, 130), _sizes(device), strict=False):
        weight = _weight(N, K, bits, codebook, device)
        x = _activations(M, K, device, dtype)
        y = gemm(x, weight.packed, bits, out=_poison(M, N, device=device, dtype=dtype))
        errors.append(_relative(y, x.double() @ weight.dense.T))
    return _worst(errors)


def _sparse_error(M: int, device: torch.device) -> float:
    import torch

    from kernels.dispatch import linear

    N, K = _sizes(device)[-1]
    count = N * 3
    rows = torch.arange(N + 1, device=device, dtype=torch.int32) * 3
    cols = torch.randint(0, K, (count,), device=device, dtype=torch.int32)
    vals = torch.randn(count, device=device).half() * 4
    weight = _weight(N, K, 3, "row", device, sparse=SparsePart.from_csr(rows, cols, vals, K))
    added = torch.zeros(N, K, dtype=torch.float64, device=device)
    places = (torch.arange(N, device=device).repeat_interleave(3), cols.long())
    added.index_put_(places, vals.double(), accumulate=True)
    x = _activations(M, K, device)
    return _relative(linear(x, weight.packed, 3), x.double() @ (weight.dense + added).T)


def _swiglu_linear_error(M: int, device: torch.device) -> float:
    from kernels.dispatch import swiglu_linear

    N, K = _sizes(device)[-1]
    rows = N + N % 2
    weight = _weight(rows, K, 4, "row", device)
    x = _activations(M, K, device) * 0.25
    return _relative(swiglu_linear(x, weight.packed, 4), _silu_pairs(x.double() @ weight.dense.T))


def _norm_error(device: torch.device, centred: bool) -> float:
    import torch

    from kernels.norm import layer_norm, rms_norm

    errors = []
    for hidden in (100, 4096):
        x = torch.randn(3, hidden, device=device).half()
        scale, bias = torch.randn(hidden, device=device).half(), torch.randn(hidden, device=device).half()
        wide = x.double()
        out = _poison(3, hidden, device=device)
        if centred:
            wide = wide - wide.mean(-1, keepdim=True)
        expected = wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * scale.double()
        if centred:
            errors.append(_relative(layer_norm(x, scale, bias, 1e-5, out=out), expected + bias.double()))
        else:
            errors.append(_relative(rms_norm(x, scale, 1e-5, out=out), expected))
    return _worst(errors)


def _gated_silu_error(device: torch.device) -> float:
    import torch

    from kernels.norm import gated_silu

    pairs = torch.randn(3, 2 * 123, device=device).half()
    return _relative(gated_silu(pairs), _silu_pairs(pairs.double()))


def _attention_error(heads: int, kv_heads: int, head_dim: int, rotary_dim: int, device: torch.device) -> float:
    """One new token after some others, in two sequences of different lengths; the rest of the cache is NaN."""
    import torch

    from kernels.attention import attend

    capacity, lengths = (1024, (900, 17)) if device.type == "cuda" else (40, (33, 5))
    table = RotaryTable.from_base(rotary_dim, capacity, device=device)
    keys, values = (_poison(2, kv_heads, capacity, head_dim, device=device) for _ in range(2))
    for sequence, length in enumerate(lengths):
        for cache in (keys, values):
            cache[sequence, :, :length] = torch.randn(kv_heads, length, head_dim, device=device).half()
    qkv = torch.randn(2, (heads + 2 * kv_heads) * head_dim, device=device).half()
    position = torch.tensor(lengths, device=device)
    out = attend(qkv, keys, values, position, table, out=_poison(2, heads * head_dim, device=device))
    query, key, value = (
        qkv.double()
        .view(2, -1, head_dim)
        .split(  # type: ignore[no-untyped-call]
            (heads, kv_heads, kv_heads), 1
        )
    )
    cos, sin = (part.double() for part in table.rows(position))
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    errors = []
    for sequence, length in enumerate(lengths):
        errors.append(_relative(keys[sequence, :, length], key[sequence]))
        errors.append(_relative(values[sequence, :, length], value[sequence]))
        grouped = query[sequence].view(kv_heads, heads // kv_heads, head_dim)
        seen_keys, seen_values = (cache[sequence, :, : length + 1].double() for cache in (keys, values))
        weights = (grouped @ seen_keys.transpose(1, 2) * head_dim**-0.5).softmax(-1)
        errors.append(_relative(out[sequence], (weights @ seen_values).reshape(-1)))
    return _worst(errors)


def _next_token_error(device: torch.device) -> float:
    import torch

    from kernels.next_token import choose_token

    logits = torch.randn(3, 32000 if device.type == "cuda" else 500, device=device).half()
    # Equal largest values: the lowest id is chosen.
    logits[1, [7, 400]] = 30.0
    expected = torch.stack([(row == row.max()).nonzero()[0, 0] for row in logits])
    token, position = torch.zeros(3, dtype=torch.int64, device=device), torch.tensor([0, 4, 5], device=device)
    tokens = torch.full((3, 8), -1, device=device)
    choose_token(logits, token, position, tokens)
    found = tokens[torch.arange(3, device=device), position]
    right = torch.equal(token, expected) and torch.equal(found, expected) and position.tolist() == [1, 5, 6]
    return EXACT if right else 1.0


_DECODER_SHAPES = (
    DecoderShape("rms norm, gated", 2, 64, 96, 4, 2, 16, 120, 32),
    DecoderShape("layer norm, gated", 2, 64, 96, 2, 2, 32, 120, 32, norm="layer", rotary_fraction=0.25),
    DecoderShape(
        "layer norm, parallel",
        2,
        64,
        96,
        2,
        2,
        32,
        120,
        32,
        norm="layer",
        mlp="plain",
        activation="gelu_tanh",
        parallel=True,
        rotary_fraction=0.5,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        lm_head_bias=True,
    ),
)


def _decoder_error(shape: DecoderShape, device: torch.device) -> float:
    """Logits after a prefill and three steps at falling widths, against the plain torch step in float64 on the CPU."""
    import torch

    from kernels.decoder import KernelDecoder
    from kernels.decoder_weights import random_weights

    weights = random_weights(shape, (2, 3, 4, 16), device=device)
    decoder = KernelDecoder(shape, weights, kernels=True)
    reference = KernelDecoder(shape, _moved(weights, torch.device("cpu"), torch.float64), kernels=False)
    errors = []
    prompt = [3, 1, 4, 1, 5]
    for one in (decoder, reference):
        one.prefill(prompt, 4)
    for position, bits in enumerate((4, 3, 2, 16), start=len(prompt)):
        for one in (decoder, reference):
            # The same token to both: near-ties may part them.
            one.place(7 * position % shape.vocab, position)
            one.step(bits)
        errors.append(_relative(decoder.logits.cpu(), reference.logits.double()))
    return _worst(errors)


def _graph_error(device: torch.device) -> float:
    """Switching back and forth between captured widths gives the bits of the step itself."""
    import torch

    from kernels.decoder import KernelDecoder
    from kernels.decoder_weights import random_weights

    shape = replace(_DECODER_SHAPES[0], hidden=512, ffn=1024, heads=8, kv_heads=4, head_dim=64, vocab=1000)
    decoder = KernelDecoder(shape, random_weights(shape, (2, 3, 4, 16), device=device))
    schedule = (4, 4, 3, 2, 16, 3, 4, 2)
    seen = []
    for run in (decoder.step, decoder.run):
        decoder.prefill([3, 1, 4, 1, 5], 4)
        logits = []
        for bits in schedule:
            run(bits)
            logits.append(decoder.logits.clone())
        seen.append((decoder.tokens.clone(), torch.stack(logits)))
    (eager_tokens, eager), (graph_tokens, graphed) = seen
    same = torch.equal(eager_tokens, graph_tokens) and decoder.graphs.captures == len(set(schedule))
    return _relative(graphed, eager.double()) if same else 1.0


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Weights on another device, in another dtype except for what is packed."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, PackedWeight):
        return _packed_on(value, device)
    if isinstance(value, tuple):
        return tuple(_moved(one, device, dtype) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: _moved(getattr(value, part.name), device, dtype) for part in fields(value) if part.init}
        return replace(value, **parts)
    return value


def _packed_on(packed: PackedWeight, device: torch.device) -> PackedWeight:
    from kernels.layout import unpack

    luts = {bits: lut.to(device) for bits, lut in packed.luts.items()}
    return pack(unpack(packed).to(device), luts, packed.in_features, packed.group_size)
