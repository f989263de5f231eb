"""Build a nested model: an empty transformers model, its linear layers replaced, the stored tensors copied in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from accuracy.linear import AnyPrecisionLinear
from accuracy.model import decoder_linears
from accuracy.quantization.manifest import QuantizationConfig
from hwsim.trace import InputError


@dataclass(frozen=True)
class OptionalParts:
    """Which optional tensors the layers of a store have.

    Attributes:
        full_precision: Whether the unquantised weights are kept (width 16).
        sparse_values: Number of sparse outliers by layer; layers not named have no sparse part.
    """

    full_precision: bool = False
    sparse_values: Mapping[str, int] = field(default_factory=dict)


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
    nested = {name for name, module in model.named_modules() if isinstance(module, AnyPrecisionLinear)}
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
    for name, module in model.named_modules():
        if isinstance(module, AnyPrecisionLinear) and module.sparse_rows is not None:
            _check_sparse(name, module, folder)


def _check_sparse(name: str, layer: AnyPrecisionLinear, folder: object) -> None:
    rows, columns = layer.sparse_rows, layer.sparse_cols
    assert rows is not None
    assert columns is not None
    in_order = bool((rows.diff() >= 0).all()) and int(rows[0]) == 0 and int(rows[-1]) == columns.numel()
    if not in_order:
        raise InputError(f"{folder}: '{name}.sparse_rows' must rise from 0 to {columns.numel()}; the file is damaged")
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < layer.in_features:
        raise InputError(
            f"{folder}: '{name}.sparse_cols' spans {int(columns.min())}..{int(columns.max())}, "
            f"must be within 0..{layer.in_features - 1}; the file is damaged"
        )
