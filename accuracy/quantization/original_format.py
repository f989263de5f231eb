"""Read and write checkpoints of the original any-precision repositories.

Two writers exist: any-precision-llm, and the fork that PMPD used, which adds outliers in CSR form. Both save one
pickle, ``pytorch_model.bin`` (read here as tensors only), and describe it under ``anyprec`` in config.json. Per
layer ``{model_name}.{layers_name}.{i}.{module}``::

    .qweight            int32 [parent, N, K / 32]   most significant plane first, bits permuted as below
    .lut{b}             fp16  [N, 2**b]             from the seed precision to the parent's
    .bias               fp16  [N]
    .rows .cols .vals   int32 [N + 1], int32, fp16  the fork's outliers, added to the dense part

Bits are permuted in blocks of 1024 columns, or what is left in the last one, for kernels of 32 lanes of which
``lanes`` are busy (32, fewer in the last block). Bit ``p`` of word ``t`` of a block holds column
``8 (lanes (3 - p // 8) + t) + 7 - p % 8`` of that block, so K must be a multiple of 32.

Source: Park et al., "Any-Precision LLM", arXiv:2402.10517, and its public checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor
from transformers import AutoConfig

from accuracy.linear import nested_modules, set_weight_cache
from accuracy.model import (
    CONFIG_NAME,
    LanguageModel,
    config_sha256,
    default_dtype,
    load_errors,
    load_tokenizer,
    quiet_transformers,
    read_config,
)
from accuracy.quantization.assembly import OptionalParts, empty_nested_model, fill_model
from accuracy.quantization.manifest import QuantizationConfig
from accuracy.quantization.store_writer import copy_companions, new_folder, write_errors
from accuracy.quantization.transformers_plugin import mark_quantized
from hwsim.trace import (
    MAX_PLANES,
    InputError,
    canonical_sha256,
    file_sha256,
    from_validation,
    shape_from_config,
    write_json,
)
from hwsim.trace.schedule import Record
from kernels.planes import WORD_BITS, pack_bits, unpack_bits

WEIGHTS_NAME = "pytorch_model.bin"
CONFIG_KEY = "anyprec"
_BLOCK_COLUMNS = 1024
# Stored name here and in the original; planes and codebooks also change form.
_SPARSE_NAMES = {"sparse_rows": "rows", "sparse_cols": "cols", "sparse_vals": "vals"}


class ArchitectureNames(Record):
    """Where a checkpoint's layers sit in the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    module_names: tuple[str, ...] = Field(min_length=1, description="Linear layers within a block.")
    model_name: str = Field(description="The decoder within the model.")
    layers_name: str = Field(description="The list of blocks within the decoder.")


class OriginalConfig(Record):
    """The ``anyprec`` part of config.json."""

    seed_precision: int = Field(ge=1, le=MAX_PLANES)
    parent_precision: int = Field(ge=1, le=MAX_PLANES)
    group_count: Literal[1] = 1
    arch_config: ArchitectureNames
    sparse_numvals: dict[str, int] | None = None


def to_storage_order(qweight: Tensor) -> Tensor:
    """Bring ``[parent, N, K / 32]`` words of the original bit order into this project's."""
    blocks = []
    for start, lanes in _blocks(qweight.shape[2] * WORD_BITS):
        words = qweight[..., start // WORD_BITS : start // WORD_BITS + lanes]
        bits = unpack_bits(words).view(*words.shape[:2], lanes, 4, 8)
        blocks.append(bits.permute(0, 1, 3, 2, 4).flip(2, 4).flatten(2))
    return pack_bits(torch.cat(blocks, dim=2))


def to_original_order(planes: Tensor) -> Tensor:
    """The inverse of :func:`to_storage_order`."""
    bits = unpack_bits(planes)
    blocks = []
    for start, lanes in _blocks(bits.shape[2]):
        block = bits[..., start : start + lanes * WORD_BITS].view(*bits.shape[:2], 4, lanes, 8)
        blocks.append(block.flip(2, 4).permute(0, 1, 3, 2, 4).flatten(2))
    return pack_bits(torch.cat(blocks, dim=2))


def _blocks(columns: int) -> Iterator[tuple[int, int]]:
    """First column and busy lanes of every block."""
    for start in range(0, columns, _BLOCK_COLUMNS):
        yield start, min(_BLOCK_COLUMNS, columns - start) // WORD_BITS


def load_original(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    weight_cache: bool = True,
) -> LanguageModel:
    """Load an original any-precision checkpoint, at its parent precision.

    Such a checkpoint does not name its unquantised model, so ``model_sha256`` is the hash of its own weights.

    Args:
        folder: The checkpoint.
        device: Where to put it.
        dtype: What to compute in; float32 on a CPU and float16 elsewhere by default.
        weight_cache: As :func:`accuracy.linear.set_weight_cache` takes it.

    Raises:
        InputError: If the folder is no such checkpoint, its pickle holds anything but tensors, or a tensor is
            missing, foreign or of another shape.
    """
    folder = Path(folder)
    config = read_config(folder)
    file = folder / WEIGHTS_NAME
    name = folder.resolve().name
    try:
        original = OriginalConfig.model_validate(config.get(CONFIG_KEY))
    except ValidationError as error:
        raise from_validation(error, f"{folder / CONFIG_NAME} ({CONFIG_KEY})") from None
    shape = shape_from_config(config, name)
    with load_errors(str(file)):
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise InputError(f"{file}: must hold a dictionary of tensors by name")
    with quiet_transformers(), load_errors(name):
        source_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        delattr(source_config, CONFIG_KEY)
        sparse = {key.removesuffix(".vals"): len(value) for key, value in tensors.items() if key.endswith(".vals")}
        parts = OptionalParts(sparse_values=sparse)
        model = empty_nested_model(source_config, _quantization(original), parts, dtype or default_dtype(device))
    fill_model(model, ((str(file), *_from_original(file, *item)) for item in tensors.items()), folder)
    mark_quantized(model, _quantization(original))
    set_weight_cache(model, weight_cache)
    weights_sha256 = file_sha256(file)
    return LanguageModel(
        model=model.to(device).eval(),
        tokenizer=load_tokenizer(str(folder), name),
        shape=shape,
        name=name,
        config_sha256=config_sha256({key: value for key, value in config.items() if key != CONFIG_KEY}),
        model_sha256=weights_sha256,
        store_sha256=canonical_sha256({WEIGHTS_NAME: weights_sha256}),
        folder=folder,
        quantizer=_quantization(original).quantizer,
    )


def _quantization(original: OriginalConfig) -> QuantizationConfig:
    return QuantizationConfig(
        min_bits=original.seed_precision,
        max_bits=original.parent_precision,
        group_size=None,
        quantizer="any-precision",
    )


def _from_original(file: Path, key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Name and form of one tensor in this project's format."""
    layer, _, part = key.rpartition(".")
    dimensions = 3 if part == "qweight" else 2 if part.startswith("lut") else tensor.dim()
    if tensor.dim() != dimensions or (part == "qweight" and tensor.dtype != torch.int32):
        raise InputError(
            f"{file}: tensor '{key}' is {tensor.dtype} {list(tensor.shape)}, must have {dimensions} dimensions"
            f"{' of torch.int32' if part == 'qweight' else ''}; it is no original checkpoint"
        )
    if part == "qweight":
        return f"{layer}.planes", to_storage_order(tensor)
    if part.startswith("lut"):
        return key, tensor.unsqueeze(1)
    ours = {original: stored for stored, original in _SPARSE_NAMES.items()}
    return (f"{layer}.{ours[part]}" if part in ours else key), tensor


def write_original(language_model: LanguageModel, out: str | Path) -> None:
    """Write a nested model as an original any-precision checkpoint; unquantised weights are left out.

    Args:
        language_model: A loaded store or original checkpoint.
        out: The new folder; appears only when it is complete.

    Raises:
        InputError: If the model is not nested, has codebooks per group, an input size that is no multiple of 32,
            or ``out`` exists.
    """
    model, source = language_model.model, language_model.folder
    if source is None or language_model.store_sha256 is None:
        raise InputError(f"{language_model.name}: is no nested store; quantise it first")
    layers = nested_modules(model)
    for name, layer in layers.items():
        if layer.group_size is not None:
            raise InputError(f"{name}: group_size = {layer.group_size}: the original format has one codebook per row")
        if layer.in_features % WORD_BITS:
            raise InputError(
                f"{name}: in_features = {layer.in_features}: the original format needs a multiple of {WORD_BITS}"
            )
    tensors = dict(_to_original(model.state_dict(), set(layers)))
    config = read_config(source)
    config.pop("quantization_config", None)
    config[CONFIG_KEY] = _describe(layers)
    with new_folder(Path(out)) as folder:
        with write_errors(folder):
            torch.save(tensors, folder / WEIGHTS_NAME)
        write_json(folder / CONFIG_NAME, config)
        copy_companions(source, folder)


def _to_original(state: dict[str, Tensor], layers: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Names and forms of all tensors in the original format."""
    for key, tensor in state.items():
        layer, _, part = key.rpartition(".")
        stored = tensor.half() if tensor.is_floating_point() else tensor
        if layer not in layers:
            yield key, stored
        elif part == "planes":
            yield f"{layer}.qweight", to_original_order(stored)
        elif part.startswith("lut"):
            yield key, stored.squeeze(1)
        elif part != "weight":
            yield f"{layer}.{_SPARSE_NAMES.get(part, part)}", stored


def _describe(layers: dict[str, Any]) -> dict[str, Any]:
    """The ``anyprec`` part of config.json for layers named ``{model}.{layers}.{i}.{module}``."""
    first_name, first = next(iter(layers.items()))
    prefix = first_name[: first_name.index(".0.")]
    model_name, _, layers_name = prefix.rpartition(".")
    in_first_block = f"{prefix}.0."
    sparse = {name: len(layer.sparse_vals) for name, layer in layers.items() if layer.sparse_vals is not None}
    return {
        "seed_precision": first.nested_widths[0],
        "parent_precision": first.nested_widths[-1],
        "group_count": 1,
        "arch_config": {
            "module_names": [name.removeprefix(in_first_block) for name in layers if name.startswith(in_first_block)],
            "model_name": model_name,
            "layers_name": layers_name,
        },
        **({"sparse_numvals": sparse} if sparse else {}),
    }
