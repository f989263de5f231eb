"""A linear layer whose weight precision is chosen at run time, and switching a whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsim.trace import FULL_PRECISION_BITS, InputError
from kernels import PackedWeight, dequantize_blocks, device_obstacle, obstacle, pack
from kernels import linear as kernel_linear
from kernels.layout import SparsePart
from kernels.planes import words_per_row

# A schedule of the paper falls once from one width to the next; the next prompt starts at the first again.
CACHED_WIDTHS = 2
CACHE_BYTES = 256 * 1024 * 1024


class SwitchedLinear(nn.Module):
    """A linear layer that runs at one of several weight widths."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The legal widths, rising."""
        raise NotImplementedError

    @property
    def weight_bits(self) -> int:
        """The width in use."""
        raise NotImplementedError

    @weight_bits.setter
    def weight_bits(self, bits: int) -> None:
        raise NotImplementedError

    def _check_stored(self, bits: int) -> None:
        """Refuse a width that is not stored."""
        if bits not in self.widths:
            raise InputError(f"weight_bits = {bits}: not stored; stored widths: {', '.join(map(str, self.widths))}")


class AnyPrecisionLinear(SwitchedLinear):
    """``y = x W_b^T + bias``, where W_b is read from the top b bit-planes and the codebooks of width b.

    The tensors are buffers under the names of the stored format: ``planes`` int32 ``[max_bits, N, ceil(K / 32)]``,
    ``lut{b}`` float16 ``[N, groups, 2**b]``, where kept ``weight`` float16 ``[N, K]`` for width 16, and for outliers
    that are added to the dense part ``sparse_rows`` int32 ``[N + 1]``, ``sparse_cols`` int32 and ``sparse_vals``
    float16 (CSR).

    On a GPU float16 and bfloat16 activations, however many, are multiplied by :func:`kernels.linear` at every nested
    width. For that the planes are packed into the kernels' order on first use or by :meth:`prepare`, and kept beside
    the stored ones: as many bytes again (``max_bits N K / 8``), and codebooks of up to 4 bits twice. No call waits for
    the device, and one that may be captured into a CUDA graph allocates nothing but its result and, for many vectors,
    the dequantised weight. Everything else (:func:`kernels.obstacle` says what: a CPU, float32, an old GPU, a missing
    triton, a backward pass) multiplies by the dequantised weight, with the same result within rounding.

    Attributes:
        cached_widths: Without a kernel: of how many widths, those used last, the dequantised weight is kept (fast: as
            a plain linear layer, 4 bytes per weight and width in float32). With 0 every call unpacks the planes, some
            rows at a time (small). See :func:`set_weight_cache`.
    """

    planes: Tensor
    bias: Tensor | None
    weight: Tensor | None
    sparse_rows: Tensor | None
    sparse_cols: Tensor | None
    sparse_vals: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        min_bits: int,
        max_bits: int,
        group_size: int | None = None,
        bias: bool = False,
        full_precision: bool = False,
        sparse_values: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """Allocate the tensors, to be filled from a store.

        Args:
            in_features: K.
            out_features: N.
            min_bits: Narrowest stored width.
            max_bits: Widest stored nested width.
            group_size: Columns that share a codebook; None for one codebook per row.
            bias: Whether there is a bias.
            full_precision: Whether the unquantised weights are kept.
            sparse_values: Number of sparse outliers; None for no sparse part.
            dtype: Of the bias.
            device: Where to allocate.
        """
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.group_size = group_size
        self.nested_widths = tuple(range(min_bits, max_bits + 1))
        self.cached_widths = CACHED_WIDTHS
        self._weight_bits = max_bits
        # By width, the one used last at the end; ``_ready`` is that of the width in use.
        self._dequantized: dict[int, Tensor] = {}
        self._ready: Tensor | None = None
        self._packed: PackedWeight | None = None
        groups = -(-in_features // (group_size or in_features))
        words = words_per_row(in_features)
        planes = torch.zeros((max_bits, out_features, words), dtype=torch.int32, device=device)
        self.register_buffer("planes", planes)
        for bits in self.nested_widths:
            lut = torch.zeros((out_features, groups, 1 << bits), dtype=torch.float16, device=device)
            self.register_buffer(f"lut{bits}", lut)
        weight = torch.zeros((out_features, in_features), dtype=torch.float16, device=device)
        self.register_buffer("weight", weight if full_precision else None)
        sparse: dict[str, tuple[int, torch.dtype]] = {
            "sparse_rows": (out_features + 1, torch.int32),
            "sparse_cols": (sparse_values or 0, torch.int32),
            "sparse_vals": (sparse_values or 0, torch.float16),
        }
        for name, (length, kind) in sparse.items():
            empty = torch.zeros(length, dtype=kind, device=device)
            self.register_buffer(name, None if sparse_values is None else empty)
        self.register_buffer("bias", torch.zeros(out_features, dtype=dtype, device=device) if bias else None)

    @property
    def widths(self) -> tuple[int, ...]:
        """The legal widths, rising; 16 where the unquantised weights are kept."""
        return self.nested_widths if self.weight is None else (*self.nested_widths, FULL_PRECISION_BITS)

    @property
    def weight_bits(self) -> int:
        """The width in use; starts at the widest nested one."""
        return self._weight_bits

    @weight_bits.setter
    def weight_bits(self, bits: int) -> None:
        self._check_stored(bits)
        self._weight_bits, self._ready = bits, None

    def lut(self, bits: int) -> Tensor:
        """The codebooks ``[N, groups, 2**bits]`` of one width."""
        return self.get_buffer(f"lut{bits}")

    def dequantize(self, bits: int, dtype: torch.dtype = torch.float16) -> Tensor:
        """The weight ``[N, K]`` at one width, the sparse part added in ``dtype``.

        Raises:
            InputError: If the width is not stored.
        """
        self._check_stored(bits)
        if bits == FULL_PRECISION_BITS and self.weight is not None:
            return self.weight.to(dtype)
        weight = torch.empty((self.out_features, self.in_features), dtype=dtype, device=self.planes.device)
        for rows, block in self._blocks(bits, dtype):
            weight[rows] = block
        return weight

    def _blocks(self, bits: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The nested weight of some rows after the other, the sparse part added."""
        for rows, block in dequantize_blocks(self.planes, self.lut(bits), self.in_features, self.group_size, dtype):
            if self.sparse_rows is not None and self.sparse_cols is not None and self.sparse_vals is not None:
                starts = self.sparse_rows[rows.start : rows.stop + 1]
                values = slice(int(starts[0]), int(starts[-1]))
                row = torch.arange(len(block), device=block.device).repeat_interleave(starts.diff())
                columns, added = self.sparse_cols[values].long(), self.sparse_vals[values].to(dtype)
                block.index_put_((row, columns), added, accumulate=True)
            yield rows, block

    def forward(self, x: Tensor) -> Tensor:
        """Multiply at the width in use, in the dtype of ``x``: by a kernel where one can, else dequantised."""
        ready = self._ready
        if ready is not None and ready.dtype is x.dtype and not x.is_cuda:
            return functional.linear(x, ready, self._buffers["bias"])
        if self._weight_bits != FULL_PRECISION_BITS and obstacle(x) is None:
            return kernel_linear(x, self._packed_weight(), self._weight_bits, self.bias)
        if self.cached_widths:
            return functional.linear(x, self._cached_weight(x.dtype), self.bias)
        return self._unpacked_product(x)

    def _cached_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight of the width in use, dequantised now or before."""
        weight = self._dequantized.pop(self._weight_bits, None)
        if weight is None or weight.dtype != dtype:
            # Room first: two widths at a time need no memory for a third.
            while len(self._dequantized) >= self.cached_widths:
                del self._dequantized[next(iter(self._dequantized))]
            # Kept longer than an inference mode that may be on, under which autograd could not use it afterwards.
            with torch.inference_mode(False), torch.no_grad():
                weight = self.dequantize(self._weight_bits, dtype)
        self._dequantized[self._weight_bits] = self._ready = weight
        return weight

    def _unpacked_product(self, x: Tensor) -> Tensor:
        """The product, of a nested width without ever holding the whole weight."""
        if self._weight_bits == FULL_PRECISION_BITS:
            return functional.linear(x, self.dequantize(FULL_PRECISION_BITS, x.dtype), self.bias)
        blocks = self._blocks(self._weight_bits, x.dtype)
        bias = self.bias
        return torch.cat(
            [functional.linear(x, block, None if bias is None else bias[rows]) for rows, block in blocks], dim=-1
        )

    def prepare(self) -> None:
        """Pack the planes for the kernels ahead of the first call, where a kernel can run on the layer's device.

        To be called before a CUDA graph is captured; packing waits for the device.
        """
        if device_obstacle(self.planes.device) is None:
            self._packed_weight()

    def _packed_weight(self) -> PackedWeight:
        """The planes in the kernels' layout, made on first use."""
        if self._packed is None:
            if self.planes.is_cuda and torch.cuda.is_current_stream_capturing():
                raise InputError("the layer's weight is not packed yet: call prepare() before capturing a CUDA graph")
            luts = {bits: self.lut(bits) for bits in self.nested_widths}
            # Kept longer than an inference mode that may be on.
            with torch.inference_mode(False), torch.no_grad():
                sparse = self._sparse_part()
                self._packed = pack(self.planes, luts, self.in_features, self.group_size, sparse=sparse)
        return self._packed

    def _sparse_part(self) -> SparsePart | None:
        if self.sparse_rows is None or self.sparse_cols is None or self.sparse_vals is None:
            return None
        return SparsePart.from_csr(self.sparse_rows, self.sparse_cols, self.sparse_vals, self.in_features)

    def derived_tensors(self) -> list[Tensor]:
        """What was derived from the stored tensors and is kept beside them."""
        packed = [] if self._packed is None else self._packed.tensors()
        return [*self._dequantized.values(), *packed]

    def drop_cache(self) -> None:
        """Free what was derived from the stored tensors: dequantised weights and the kernels' layout."""
        self._dequantized.clear()
        self._ready = None
        self._packed = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but keep codebooks and weights in fp16 whatever the model is cast to."""
        kept = {name: buffer.dtype for name, buffer in self.named_buffers(recurse=False) if name != "bias"}
        before = {name: self.get_buffer(name) for name in kept}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, dtype in kept.items():
            after = self.get_buffer(name)
            if after.dtype != dtype:
                self.register_buffer(name, before[name].to(after.device))
        self.drop_cache()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.drop_cache()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"widths={self.widths}, weight_bits={self.weight_bits}"
        )


def nested_modules(model: nn.Module) -> dict[str, AnyPrecisionLinear]:
    """The any-precision layers of a model by full name, in the order of the module tree."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AnyPrecisionLinear)}


def nested_linears(model: nn.Module) -> Iterator[AnyPrecisionLinear]:
    """The any-precision layers of a model."""
    return (module for module in model.modules() if isinstance(module, AnyPrecisionLinear))


def switched_linears(model: nn.Module) -> Iterator[SwitchedLinear]:
    """The layers of a model that are switched as one, not what such a layer is made of."""
    if isinstance(model, SwitchedLinear):
        yield model
    else:
        for child in model.children():
            yield from switched_linears(child)


def stored_widths(model: nn.Module) -> tuple[int, ...]:
    """The widths that every layer of a model can run at, rising; ``(16,)`` for an unquantised model."""
    layers = [set(layer.widths) for layer in switched_linears(model)]
    return tuple(sorted(set.intersection(*layers))) if layers else (FULL_PRECISION_BITS,)


def set_weight_bits(model: nn.Module, bits: int) -> None:
    """Switch every layer of a model that knows several widths to one.

    Raises:
        InputError: If the width is not stored; no layer has been switched then.
    """
    layers = list(switched_linears(model))
    if any(bits not in layer.widths for layer in layers) or (not layers and bits != FULL_PRECISION_BITS):
        stored = ", ".join(str(width) for width in stored_widths(model))
        raise InputError(f"weight_bits = {bits}: not stored; stored widths: {stored}")
    for layer in layers:
        layer.weight_bits = bits


def set_weight_cache(model: nn.Module, enabled: bool, max_bytes: int = CACHE_BYTES) -> None:
    """Choose what the any-precision layers of a model do where no kernel can run, as on a CPU.

    Args:
        model: The model.
        enabled: True keeps dequantised weights (fast): those of the two widths used last, since a schedule falls from
            one width to the next and the next prompt starts at the first again, and of more widths as long as all of
            them fit into ``max_bytes``. False unpacks the planes at every call (small).
        max_bytes: What more than two widths may take in all, counted at 4 bytes a weight.
    """
    layers = list(nested_linears(model))
    width_bytes = 4 * sum(layer.in_features * layer.out_features for layer in layers)
    for layer in layers:
        layer.cached_widths = max(CACHED_WIDTHS, max_bytes // width_bytes) if enabled else 0
        layer.drop_cache()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of memory that a model's tensors take, dequantised copies included; what is shared counts once."""
    derived = [tensor for layer in nested_linears(model) for tensor in layer.derived_tensors()]
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *derived)}
    return sum(tensors.values())
