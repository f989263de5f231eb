"""The weights of a decode step: linears that hold several widths, joined where they read the same activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernels.blocked import dequantize_blocks
from kernels.errors import KernelError
from kernels.layout import PackedWeight, pack, unpack
from kernels.planes import MAX_BITS, WORD_BITS, words_per_row
from kernels.rotary import RotaryTable
from kernels.shapes import DecoderShape, step_linears

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FULL_BITS = 16
"""The width of unquantised weights."""


@dataclass(frozen=True)
class LinearWeight:
    """One linear at every width it can run at.

    Attributes:
        packed: Its nested widths, or None.
        dense: ``[N, K]``, its width 16 in the dtype of the activations, or None.
        bias: ``[N]`` or None.
    """

    packed: PackedWeight | None = None
    dense: Tensor | None = None
    bias: Tensor | None = None
    _matrices: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def widths(self) -> frozenset[int]:
        """The widths it can run at."""
        nested = () if self.packed is None else self.packed.widths
        return frozenset(nested) if self.dense is None else frozenset((*nested, FULL_BITS))

    def shape(self) -> tuple[int, int]:
        """``(N, K)``.

        Raises:
            KernelError: If it holds no weight.
        """
        if self.packed is not None:
            return self.packed.out_features, self.packed.in_features
        if self.dense is None:
            raise KernelError("a linear holds neither packed nor dense weights: give it one of them")
        return self.dense.shape[0], self.dense.shape[1]

    def matrix(self, weight_bits: int, dtype: torch.dtype) -> Tensor:
        """The whole matrix ``[N, K]``, for devices without kernels: dequantised on first use, then kept.

        Raises:
            KernelError: If the width is not stored.
        """
        if weight_bits == FULL_BITS and self.dense is not None:
            return self.dense
        found = self._matrices.get((weight_bits, dtype))
        if found is None:
            if self.packed is None or weight_bits not in self.packed.widths:
                raise KernelError(f"weight_bits = {weight_bits}: not stored; stored widths: {sorted(self.widths)}")
            found = self._matrices[weight_bits, dtype] = dequantized(self.packed, weight_bits, dtype)
        return found


@dataclass(frozen=True)
class NormWeight:
    """Scale and, of a layer norm, bias: ``[hidden]`` each."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class BlockWeights:
    """One decoder block.

    Attributes:
        norm: Before the attention, and before the MLP too where both run in parallel.
        mlp_norm: Before the MLP; None where both run in parallel.
        qkv: Query, key and value rows, one after the other (:func:`kernels.combine.stack`).
        output: The attention's output projection.
        up: Of a gated MLP gate and up rows in turn (:func:`kernels.combine.interleave`), else the first linear.
        down: The MLP's last linear.
    """

    norm: NormWeight
    mlp_norm: NormWeight | None
    qkv: LinearWeight
    output: LinearWeight
    up: LinearWeight
    down: LinearWeight

    def linears(self) -> dict[str, LinearWeight]:
        """Its linears by what they are called in messages."""
        return {"qkv": self.qkv, "output": self.output, "up": self.up, "down": self.down}


@dataclass(frozen=True)
class DecoderWeights:
    """Everything a decoder reads.

    Attributes:
        embedding: ``[vocab, hidden]``; its dtype and device are those of the whole decoder.
        blocks: First to last.
        norm: Before lm_head.
        lm_head: ``[vocab, hidden]``, never quantised (design decision 4).
        lm_head_bias: ``[vocab]`` or None.
        rotary: Tables over at least as many positions as the cache will hold.
    """

    embedding: Tensor
    blocks: tuple[BlockWeights, ...]
    norm: NormWeight
    lm_head: Tensor
    lm_head_bias: Tensor | None
    rotary: RotaryTable

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that every linear can run at, rising."""
        every = [linear.widths for block in self.blocks for linear in block.linears().values()]
        return tuple(sorted(frozenset.intersection(*every)))

    def check(self, shape: DecoderShape) -> None:
        """Hold the weights to a shape.

        Raises:
            KernelError: Naming the first tensor that does not fit it.
        """
        expected = list(step_linears(shape).values())
        if len(self.blocks) != shape.layers:
            raise KernelError(f"{len(self.blocks)} blocks of weights: {shape.name} has {shape.layers}")
        for index, block in enumerate(self.blocks):
            for (name, linear), (N, K) in zip(block.linears().items(), expected, strict=True):
                if linear.shape() != (N, K):
                    raise KernelError(f"block {index}: {name} has N x K = {linear.shape()}, must be {(N, K)}")
            if (block.mlp_norm is None) != shape.parallel:
                given = "no norm" if block.mlp_norm is None else "a norm"
                raise KernelError(f"block {index}: {given} before its MLP, but parallel = {shape.parallel}")
        for name, table in (("embedding", self.embedding), ("lm_head", self.lm_head)):
            if tuple(table.shape) != (shape.vocab, shape.hidden):
                raise KernelError(f"{name} is {tuple(table.shape)}, must be {(shape.vocab, shape.hidden)}")
        if self.rotary.rotary_dim != shape.rotary_dim:
            raise KernelError(f"rotary tables turn {self.rotary.rotary_dim} columns, must be {shape.rotary_dim}")
        if not self.widths:
            raise KernelError("the linears have no width in common; store the same widths for all of them")


def dequantized(packed: PackedWeight, weight_bits: int, dtype: torch.dtype) -> Tensor:
    """The matrix ``[N, K]`` of one width in plain torch, its sparse part added."""
    import torch

    blocks = dequantize_blocks(unpack(packed), packed.luts[weight_bits], packed.in_features, packed.group_size, dtype)
    weight = torch.cat([block for _, block in blocks])
    sparse = packed.sparse
    if sparse is not None:
        rows = torch.arange(len(weight), device=weight.device).repeat_interleave(sparse.rows.diff())
        weight.index_put_((rows, sparse.cols.long()), sparse.vals.to(dtype), accumulate=True)
    return weight


def random_weights(
    shape: DecoderShape,
    widths: Sequence[int],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    positions: int | None = None,
) -> DecoderWeights:
    """Weights that cost what real ones cost and say nothing; made in place, the quantised ones without an fp16 copy.

    Indices are uniform, codebooks are the quantiles of a normal distribution of variance 1/K with 5% of noise, so that
    activations neither vanish nor overflow over any number of blocks.

    Args:
        shape: The decoder.
        widths: Widths to hold: nested ones 1..8, sharing one store, and 16.
        seed: Of the generator; equal on one kind of device.
        device: Where.
        dtype: Of everything that is not quantised; float16 by default.
        positions: Rows of the rotary tables; ``shape.max_context`` by default.

    Raises:
        KernelError: If a width is neither 1..8 nor 16, or none is given.
    """
    import torch

    dtype = dtype or torch.float16
    nested = sorted({bits for bits in widths if bits != FULL_BITS})
    if not widths or any(not 1 <= bits <= MAX_BITS for bits in nested):
        raise KernelError(f"widths = {tuple(widths)}: must be some of 1..{MAX_BITS} and {FULL_BITS}")
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(size, generator=generator, device=device, dtype=dtype).mul_(scale)

    def bias(present: bool, N: int) -> Tensor | None:
        return normal(N, scale=0.02) if present else None

    def norm() -> NormWeight:
        ones = torch.ones(shape.hidden, device=device, dtype=dtype)
        return NormWeight(ones, normal(shape.hidden, scale=0.02) if shape.norm == "layer" else None)

    def linear(size: tuple[int, int], biased: bool) -> LinearWeight:
        N, K = size
        packed = _random_packed(N, K, nested, generator) if nested else None
        dense = normal(N, K, scale=K**-0.5) if FULL_BITS in widths else None
        return LinearWeight(packed, dense, bias(biased, N))

    biases = (shape.qkv_bias, shape.output_bias, shape.mlp_bias, shape.mlp_bias)
    sizes = list(step_linears(shape).values())
    blocks = []
    for _ in range(shape.layers):
        qkv, output, up, down = (linear(size, biased) for size, biased in zip(sizes, biases, strict=True))
        blocks.append(BlockWeights(norm(), None if shape.parallel else norm(), qkv, output, up, down))
    return DecoderWeights(
        embedding=normal(shape.vocab, shape.hidden),
        blocks=tuple(blocks),
        norm=norm(),
        lm_head=normal(shape.vocab, shape.hidden, scale=shape.hidden**-0.5),
        lm_head_bias=bias(shape.lm_head_bias, shape.vocab),
        rotary=RotaryTable.from_base(shape.rotary_dim, positions or shape.max_context, shape.rotary_base, device),
    )


def _random_packed(N: int, K: int, widths: Sequence[int], generator: torch.Generator) -> PackedWeight:
    import torch

    device = generator.device
    size = (max(widths), N, words_per_row(K))
    planes = torch.randint(-(2**31), 2**31, size, generator=generator, device=device, dtype=torch.int32)
    if K % WORD_BITS:
        planes[..., -1] &= (1 << K % WORD_BITS) - 1
    luts = {}
    for bits in widths:
        middles = (torch.arange(1 << bits, device=device) + 0.5) / (1 << bits)
        quantiles = torch.special.ndtri(middles.double()).float() * K**-0.5
        noise = torch.randn((N, 1, 1 << bits), generator=generator, device=device) * (0.05 / math.sqrt(K))
        luts[bits] = (quantiles + noise).half()
    return pack(planes, luts, K)
