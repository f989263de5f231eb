"""Build a nested model: an empty transformers model, its linear layers replaced, the stored tensors copied in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from accuracy.linear import AnyPrecisionLinear, nested_modules
from accuracy.model import decoder_linears
from accuracy.quantization.manifest import QuantizationConfig
from hwsim.trace import InputError


class Header(NamedTuple):
    """What a safetensors file says of a tensor: its shape, and its kind of number as ``F16`` or ``I32``."""

    shape: tuple[int, ...]
    dtype: str


# Of the tensors of an any-precision layer; a bias may have another.
_STORED_KINDS = {torch.int32: "I32", torch.float16: "F16"}


@dataclass(frozen=True)
class OptionalParts:
    """Which optional tensors the layers of a store have.

    Attributes:
        full_precision: Whether the unquantised weights are kept (width 16).
        sparse_values: Number of sparse outliers by layer; layers not named have no sparse part.
    """

    full_precision: bool = False
    sparse_values: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, headers: Mapping[str, Header]) -> OptionalParts:
        """What a store has, by its files' headers.

        The unquantised weights count as kept once any layer has them: a layer without them is then found missing.
        """
        layers = nested_layers(headers)
        sparse = {layer: headers[f"{layer}.sparse_vals"] for layer in layers if f"{layer}.sparse_vals" in headers}
        return cls(
            full_precision=any(f"{layer}.weight" in headers for layer in layers),
            sparse_values={layer: math.prod(header.shape) for layer, header in sparse.items()},
        )


def nested_layers(names: Iterable[str]) -> set[str]:
    """The any-precision layers among the owners of stored tensors."""
    return {name.removesuffix(".planes") for name in names if name.endswith(".planes")}


def empty_model(config: Any, dtype: torch.dtype) -> Any:
    """A transformers model of the given configuration with uninitialised weights."""
    with no_init_weights():
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def empty_nested_model(config: Any, quantization: QuantizationConfig, parts: OptionalParts, dtype: torch.dtype) -> Any:
    """A nested model in main memory, to be filled; memory for unquantised weights is never asked for.

    Args:
        config: The transformers configuration of the unquantised model.
        quantization: Widths and group size.
        parts: Which optional tensors there are.
        dtype: What to compute in.
    """
    with init_empty_weights(include_buffers=False):
        model = empty_model(config, dtype)
    nest_linears(model, quantization, parts, device="cpu")
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # Tied tensors are apart until they are tied again, after the model is filled.
            setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=False))
    return model


def nest_linears(
    model: nn.Module,
    quantization: QuantizationConfig,
    parts: OptionalParts,
    device: torch.device | str | None = None,
) -> None:
    """Replace the decoder blocks' linear layers by empty any-precision ones.

    Args:
        model: The model, on any device.
        quantization: Widths and group size.
        parts: Which optional tensors there are.
        device: Where the new layers lie; where the old ones did by default.
    """
    for name, linear in decoder_linears(model).items():
        replacement = AnyPrecisionLinear(
            linear.in_features,
            linear.out_features,
            min_bits=quantization.min_bits,
            max_bits=quantization.max_bits,
            group_size=quantization.group_size,
            bias=linear.bias is not None,
            full_precision=parts.full_precision,
            sparse_values=parts.sparse_values.get(name),
            dtype=linear.weight.dtype,
            device=linear.weight.device if device is None else device,
        )
        model.set_submodule(name, replacement)


def check_headers(model: nn.Module, headers: Mapping[str, Header], folder: object) -> None:
    """Refuse files that would leave an any-precision layer of a model incomplete.

    transformers only warns of that, and loads what fits.

    Raises:
        InputError: If a tensor is missing, or has another shape or kind of number.
    """
    for name, layer in nested_modules(model).items():
        for part, buffer in layer.named_buffers(recurse=False):
            found = headers.get(f"{name}.{part}")
            kind = _STORED_KINDS[buffer.dtype] if part != "bias" else "F"
            if found is None:
                raise InputError(f"{folder}: tensor '{name}.{part}' is missing; quantise again")
            if found.shape != tuple(buffer.shape) or not found.dtype.startswith(kind):
                raise InputError(
                    f"{folder}: tensor '{name}.{part}' is {found.dtype} {list(found.shape)}, "
                    f"must be {kind} {list(buffer.shape)}; quantise again"
                )


def fill_model(model: nn.Module, tensors: Iterable[tuple[str, str, Tensor]], folder: object) -> None:
    """Copy stored tensors into a model.

    Args:
        model: The model, its linear layers replaced.
        tensors: ``(file, name, tensor)``; the file is named in errors.
        folder: Where they come from, for errors.

    Raises:
        InputError: If a tensor is missing, does not belong to the model, has another shape or kind of number, or a
            sparse part points outside its matrix.
    """
    state = model.state_dict()
    model.tie_weights()  # type: ignore[operator]
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    nested = nested_modules(model)
    seen = set()
    for file, name, tensor in tensors:
        target = state.get(name)
        if target is None:
            raise InputError(f"{file}: tensor '{name}' does not belong to this model")
        if tensor.shape != target.shape:
            raise InputError(f"{file}: tensor '{name}' has shape {list(tensor.shape)}, must be {list(target.shape)}")
        exact = name.rpartition(".")[0] in nested and not name.endswith(".bias")
        if tensor.dtype != target.dtype and (exact or tensor.is_floating_point() != target.is_floating_point()):
            raise InputError(f"{file}: tensor '{name}' is {tensor.dtype}, must be {target.dtype}")
        target.copy_(tensor)
        seen.add(name)
    missing = sorted(set(state) - seen - tied)
    if missing:
        raise InputError(f"{folder}: {len(missing)} tensors are missing, the first '{missing[0]}'; quantise again")
    check_sparse_parts(model, folder)


def check_sparse_parts(model: nn.Module, folder: object) -> None:
    """Refuse sparse parts that point outside their matrix.

    Raises:
        InputError: Naming the first one.
    """
    for name, layer in nested_modules(model).items():
        if layer.sparse_rows is not None and layer.sparse_cols is not None:
            _check_sparse(name, layer, layer.sparse_rows, layer.sparse_cols, folder)


def _check_sparse(name: str, layer: AnyPrecisionLinear, rows: Tensor, columns: Tensor, folder: object) -> None:
    in_order = bool((rows.diff() >= 0).all()) and int(rows[0]) == 0 and int(rows[-1]) == columns.numel()
    if not in_order:
        raise InputError(f"{folder}: '{name}.sparse_rows' must rise from 0 to {columns.numel()}; the file is damaged")
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < layer.in_features:
        raise InputError(
            f"{folder}: '{name}.sparse_cols' spans {int(columns.min())}..{int(columns.max())}, "
            f"must be within 0..{layer.in_features - 1}; the file is damaged"
        )
